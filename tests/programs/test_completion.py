"""Completion: what bash offers, by the script itself; for other shells what the script holds."""

import shutil
import subprocess

import pytest

from malt_fast import __main__, completion
from malt_fast.config.mistakes import settings
from malt_fast.config.schema import Config
from malt_fast.utils.errors import MaltError

NAMES = [name for name, _, _ in settings(Config)]


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory):
    file = tmp_path_factory.mktemp("completion") / "malt-fast.bash"
    file.write_text(completion.script("bash"))
    return file


@pytest.fixture
def offered(bash_script, tmp_path):
    """What bash would offer for words of which the last is being typed."""
    (tmp_path / "some.yaml").touch()
    (tmp_path / "runs").mkdir()

    def complete(*words: str) -> list[str]:
        quoted = " ".join(f"'{word}'" for word in words)
        code = (
            f"source {bash_script}; complete -p malt-fast >/dev/null || exit 1; "
            f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _malt_fast; "
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        command = ["bash", "--norc", "-c", code]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.split()

    return complete


def test_commands(offered):
    assert set(offered("malt-fast", "")) == set(__main__.commands())
    assert set(offered("malt-fast", "--")) == {"--help", "--version"}
    assert offered("malt-fast", "ev") == ["evaluate"]
    assert offered("malt-fast", "completion", "z") == ["zsh"]


def test_settings(offered):
    shown = offered("malt-fast", "train", "--")
    own = {"--config", "--help", "--overwrite", "--plan", "--show_prompts"}
    assert set(shown) == {*own, *(f"--{name}" for name in NAMES)}
    assert offered("malt-fast", "train", "--tree.b") == ["--tree.branching"]
    assert offered("malt-fast", "train", "--seed", "3", "--tree.b") == ["--tree.branching"]
    assert offered("malt-fast", "evaluate", "--tree.b") == []  # which cannot be changed there
    assert offered("malt-fast", "evaluate", "--s") == ["--suite"]
    assert offered("malt-fast", "sweep", "--s") == ["--sweep"]
    assert offered("malt-fast", "serve", "--serve.p") == ["--serve.port"]
    assert "--merged" in offered("malt-fast", "export", "--m")


def test_values(offered):
    assert offered("malt-fast", "train", "--engine.name", "") == [
        *("auto", "hf", "vllm", "openai", "replay")
    ]
    assert offered("malt-fast", "train", "--engine.name", "v") == ["vllm"]
    assert offered("malt-fast", "train", "--engine.name", "=", "v") == ["vllm"]
    assert offered("malt-fast", "train", "--engine.name", "=") == offered(
        "malt-fast", "train", "--engine.name", ""
    )
    assert offered("malt-fast", "train", "--preferences.dedup", "t") == ["true"]
    assert offered("malt-fast", "train", "--config", "so") == ["some.yaml"]
    assert sorted(offered("malt-fast", "train", "--task.path", "")) == ["runs", "some.yaml"]
    assert offered("malt-fast", "train", "--run", "") == ["runs"]
    assert offered("malt-fast", "export", "--out", "r") == ["runs"]
    assert offered("malt-fast", "train", "--seed", "") == []


def test_the_other_shells_offer_the_same():
    fish, zsh = completion.script("fish"), completion.script("zsh")
    tcsh = completion.script("tcsh")
    for text in (fish, zsh, tcsh):
        assert all(name in text for name in NAMES)
        assert "auto hf vllm openai replay" in text
    for shell, text in (("fish", fish), ("zsh", zsh), ("tcsh", tcsh)):
        if shutil.which(shell):
            subprocess.run([shell, "-n"], input=text, text=True, check=True)


def test_bash_reads_it_without_a_word(bash_script):
    done = subprocess.run(["bash", "-n", str(bash_script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_mistakes(capsys):
    with pytest.raises(MaltError, match="did you mean 'fish'"):
        completion.script("fis")
    assert __main__.main(["completion"]) == 2
    assert "known are bash, zsh, tcsh, fish" in capsys.readouterr().err
