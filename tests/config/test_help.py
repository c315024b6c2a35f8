"""`--help`: short, complete, fast, and with examples that the parser accepts; `--version`."""

import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from malt_fast import __main__, __version__
from malt_fast.config.arguments import Program, parse_arguments
from malt_fast.config.command import read_command
from malt_fast.config.help import bounds, help_text
from malt_fast.config.load import make, with_task_defaults
from malt_fast.config.mistakes import settings
from malt_fast.config.schema import Config
from malt_fast.utils.errors import MaltError

ROOT = Path(__file__).parents[2]
NAMES = [name for name, _, _ in settings(Config)]
MODULES = ("train", "evaluate", "sweep", "serve", "export", "report", "demo.build")
PROGRAMS: dict[str, Program[Any]] = {
    name: import_module(f"malt_fast.{name}").PROGRAM for name in MODULES
}
OF_CONFIG = [name for name, program in PROGRAMS.items() if issubclass(program.takes, Config)]


def helped(program: str, topic: str = "") -> list[str]:
    return help_text(PROGRAMS[program], {}, topic).splitlines()


@pytest.mark.parametrize("columns", [80, 100, 200])
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_short_help_fits(program, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = helped(program)
    assert len(lines) < 100 and max(map(len, lines)) <= max(100, columns)
    prose = [line for line in lines if not line.startswith(("  python", "usage"))]
    assert max(map(len, prose)) <= min(columns, 100)


@pytest.mark.parametrize("program", OF_CONFIG)
def test_the_short_help_names_every_option(program):
    lines = helped(program)
    assert lines.index("examples:") < lines.index("common settings:")
    rest = " ".join(lines[lines.index("common settings:") :]).replace(",", " ").split()
    taken = [name for name, _, _ in PROGRAMS[program].options()]
    assert {name.rpartition(".")[2] for name in taken} <= set(rest)
    assert {name.rpartition(".")[0] or "general" for name in taken} <= {w.strip(":") for w in rest}


@pytest.mark.parametrize("program", PROGRAMS)
def test_common_settings_are_options(program):
    common = PROGRAMS[program].common
    assert set(common) <= {name for name, _, _ in PROGRAMS[program].options()}
    assert len(set(common)) == len(common)
    assert all(info.description for _, info, _ in PROGRAMS[program].options())


def test_every_program_has_one_name():
    assert [program.name for program in PROGRAMS.values()] == [f"malt_fast.{m}" for m in MODULES]
    programs = ROOT.glob("python/malt_fast/**/*.py")
    found = {path.stem for path in programs if "run_command(PROGRAM" in path.read_text()}
    assert found == {module.rpartition(".")[2] for module in MODULES}


def test_all_settings_of_one_name():
    shown = [line.split()[0] for line in helped("train", "learning_rate") if line[:4] == "  --"]
    assert shown == ["--train.sft.learning_rate", "--train.dpo.learning_rate"]
    with pytest.raises(MaltError, match="did you mean 'learning_rate'"):
        helped("train", "leraning_rate")


def test_sections_and_all():
    everything = [line.split()[0][2:] for line in helped("train", "all") if line[:4] == "  --"]
    assert sorted(everything) == sorted([*NAMES, "overwrite", "plan", "show_prompts"])
    store = helped("train", "store")
    assert [line.split()[0] for line in store if line.startswith("  --")] == [
        *("--store.batch", "--store.interval", "--store.segment_mb")
    ]
    assert any(line.startswith("train.dpo:") for line in helped("train", "train"))
    assert any(line.startswith("train.dpo:") for line in helped("train", "dpo"))
    assert any("--seed" in line for line in helped("train", "general"))
    one = helped("train", "tree.branching")
    assert [line.split()[0] for line in one if line.startswith("  --")] == ["--tree.branching"]
    assert "(required)" in " ".join(helped("evaluate", "run"))
    with pytest.raises(MaltError, match="did you mean 'sampling'"):
        helped("train", "samplin")
    with pytest.raises(MaltError, match="no section or setting 'tree'"):
        helped("serve", "tree")  # which cannot be changed there


def test_bounds():
    infos = {name: info for name, info, _ in settings(Config)}
    assert bounds(infos["sampling.top_p"]) == "above 0, at most 1"
    assert bounds(infos["train.dpo.label_smoothing"]) == "at least 0, below 0.5"
    assert bounds(infos["seed"]) == "at least 0"
    assert bounds(infos["evaluate.bootstrap"]) == "at least 100, at most 10,000,000"
    assert bounds(infos["task.name"]) == ""


@pytest.mark.parametrize("program", PROGRAMS)
def test_examples_are_shown_and_accepted(program, monkeypatch):
    monkeypatch.chdir(ROOT)
    known, text = PROGRAMS[program], "\n".join(helped(program))
    for line in known.examples:
        values, _ = parse_arguments(known, shlex.split(line))
        make(known.takes, with_task_defaults(values) if program in OF_CONFIG else values)
        assert f"  python -m malt_fast.{program} {line}".rstrip() in text


def test_facts_of_options():
    train, export, evaluate = (" ".join(helped(p)) for p in ("train", "export", "evaluate"))
    assert "--plan int" in train and "250 if no number is given" in train
    assert "--run PATH       the run directory (required)" in export
    assert "--merged true|false" in export and "(default false)" in export
    assert "short: --suite" in evaluate


@pytest.mark.parametrize(
    ("program", "line", "values"),
    [
        ("train", "--plan", {"plan": 250}),
        ("train", "--plan --seed 3", {"plan": 250, "seed": 3}),
        ("train", "--plan=7", {"plan": 7}),
        ("train", "--seed 3", {"plan": None}),
        ("export", "--run r --merged --out 1e3", {"merged": True, "out": Path("1e3")}),
        ("export", "--run r --merged false", {"merged": False}),
        ("report", "--out=x --run 7", {"run": [Path("7")], "out": Path("x")}),
        ("report", "--run a,b --run 7", {"run": [Path("a,b"), Path("7")]}),
        ("demo.build", "--out x --steps 3", {"steps": 3, "batch": 128}),
    ],
)
def test_options_of_the_programs(program, line, values):
    found = read_command(PROGRAMS[program], line.split())
    assert {name: getattr(found, name) for name in values} == values
    assert "plan" not in found.model_dump()


@pytest.mark.parametrize(
    ("program", "line", "sentence"),
    [
        ("train", "--plan 0", "plan = '0' is not possible: it must be at least 1"),
        ("train", "--plan many", "plan = 'many' is not possible: it must be a whole number"),
        ("train", "--plann", "'plann' is not a setting: did you mean 'plan'?"),
        ("train", "--seed -h", "--seed needs a value"),
        ("train", "--tree", "--tree is a section: write `--tree.FIELD VALUE`, see --help tree"),
        ("train", "--model.device gpu", "it must be auto, cpu, cuda or cuda:N"),
        ("report", "--run r --suite x", "known are run, out"),
        ("train", "--plan=", "--plan needs a value: the one given is empty"),
        ("train", "--run=", "--run needs a value: the one given is empty"),
        ("train", "--lora.target_modules null", "lora.target_modules = null is not possible"),
        ("train", "--config", "--config needs a value"),
        ("export", "--merged", "--run is missing: give --run PATH, the run"),
        ("export", "--run r --mergd", "did you mean 'merged'?"),
        ("export", "--run r --merged maybe", "merged = 'maybe' is not possible"),
        ("report", "--run r x", "'x' is not an option"),
        ("evaluate", "--run r --suite", "--suite needs a value"),
        ("evaluate", "--rum r", "'rum' is not a setting: did you mean 'run'?"),
        ("sweep", "--run r", "r holds no run"),
        ("sweep", "--sweep x=1", "--run is missing: give --run DIR"),
        ("demo.build", "--out x --steps 0", "steps = '0' is not possible: it must be at least 1"),
    ],
)
def test_mistakes_of_the_programs(program, line, sentence):
    with pytest.raises(MaltError) as caught:
        read_command(PROGRAMS[program], line.split())
    assert sentence in str(caught.value)


def test_a_flag_before_help_is_no_topic(capsys):
    with pytest.raises(SystemExit):
        read_command(PROGRAMS["export"], ["--merged", "-h"])
    assert capsys.readouterr().out.startswith("usage: python -m malt_fast.export [--option value")


@pytest.mark.parametrize("program", MODULES)
def test_help_imports_no_torch(program):
    code = f"""
import sys
from malt_fast.{program} import main
try:
    main(["--help"])
finally:
    heavy = {{"torch", "transformers", "peft"}} & set(sys.modules)
    assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_may_be_read_in_part():
    """As `... --help | head -1` does."""
    with subprocess.Popen(
        [sys.executable, "-m", "malt_fast.report", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as program:
        assert program.stdout is not None and program.stderr is not None
        program.stdout.close()
        assert program.stderr.read() == b""
    assert program.returncode == 0


def test_version(capsys):
    assert __main__.main(["--version"]) == 0
    assert capsys.readouterr().out == f"malt-fast {__version__}\n"
    command = [sys.executable, "-m", "malt_fast", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"malt-fast {__version__}\n"
