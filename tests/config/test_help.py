"""`--help`: short, complete, and with examples that the parsers take; `--version`."""

import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from malt_fast import __main__, __version__
from malt_fast.config.help import (
    EXAMPLES,
    PROGRAMS,
    bounds,
    help_text,
)
from malt_fast.config.load import load_config
from malt_fast.config.mistakes import settings
from malt_fast.config.schema import Config
from malt_fast.evaluate import take
from malt_fast.train import take_plan
from malt_fast.utils.errors import MaltError

ROOT = Path(__file__).parents[2]
NAMES = [name for name, _, _ in settings(Config)]


def helped(program: str, topic: str = "") -> list[str]:
    return help_text(Config, program, {}, topic).splitlines()


@pytest.mark.parametrize("columns", [80, 100, 200])
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_short_help_fits_and_names_everything(program, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = helped(program)
    assert len(lines) < 100 and max(map(len, lines)) <= max(100, columns)
    prose = [line for line in lines if not line.startswith(("  python", "usage"))]
    assert max(map(len, prose)) <= min(columns, 100)
    assert lines.index("examples:") < lines.index("used most:")
    rest = " ".join(lines[lines.index("used most:") :]).replace(",", " ").split()
    assert {name.rpartition(".")[2] for name in NAMES} <= set(rest)
    assert {name.rpartition(".")[0] or "general" for name in NAMES} <= {w.strip(":") for w in rest}


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_is_used_most_is_a_setting(program):
    assert set(PROGRAMS[program].common) <= set(NAMES)
    assert len(set(PROGRAMS[program].common)) == len(PROGRAMS[program].common)


def test_sections_and_all():
    everything = helped("malt_fast.train", "all")
    assert [line.split()[0][2:] for line in everything if line.startswith("  --")] == NAMES
    store = helped("malt_fast.train", "store")
    assert [line.split()[0] for line in store if line.startswith("  --")] == [
        *("--store.batch", "--store.interval", "--store.segment_mb")
    ]
    assert any(line.startswith("train.dpo:") for line in helped("malt_fast.train", "train"))
    assert any("--seed" in line for line in helped("malt_fast.train", "general"))
    with pytest.raises(MaltError, match="did you mean 'sampling'"):
        helped("malt_fast.train", "samplin")


def test_bounds_are_told():
    infos = {name: info for name, info, _ in settings(Config)}
    assert bounds(infos["sampling.top_p"]) == "above 0, at most 1"
    assert bounds(infos["train.dpo.label_smoothing"]) == "at least 0, below 0.5"
    assert bounds(infos["seed"]) == "at least 0"
    assert bounds(infos["evaluate.bootstrap"]) == "at least 100, at most 10,000,000"
    assert bounds(infos["task.name"]) == ""


def test_examples_are_what_the_parsers_take(monkeypatch):
    monkeypatch.chdir(ROOT)
    for program, known in PROGRAMS.items():
        for line in known.examples:
            words = shlex.split(line)
            if program == "malt_fast.train":
                take_plan(words)
            if program == "malt_fast.evaluate":
                take(words, "--suite")
            if program == "malt_fast.sweep":
                take(words, "--sweep")
            load_config(words, program)
    for program, lines in EXAMPLES.items():
        for line in lines:
            import_module(program).parser().parse_args(shlex.split(line))


def test_examples_are_shown(capsys):
    for program in ("malt_fast.export", "malt_fast.demo.build"):
        with pytest.raises(SystemExit):
            import_module(program).parser().parse_args(["--help"])
        text = capsys.readouterr().out
        assert all(f"  python -m {program} {line}" in text for line in EXAMPLES[program])
    with pytest.raises(SystemExit):
        __main__.main(["evaluate", "--help"])
    text = capsys.readouterr().out
    assert "python -m malt_fast.evaluate --run runs/gsm8k --suite paper" in text
    assert "  --suite standard|paper" in text


def test_version(capsys):
    assert __main__.main(["--version"]) == 0
    assert capsys.readouterr().out == f"malt-fast {__version__}\n"
    command = [sys.executable, "-m", "malt_fast", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"malt-fast {__version__}\n"
