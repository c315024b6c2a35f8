"""Names and texts from elsewhere: they lead out of no run directory and steer no terminal."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from malt_fast import evaluate, train
from malt_fast.config.load import make_config
from malt_fast.evaluation.tables import Column, Table, as_terminal
from malt_fast.runs.console import Terminal
from malt_fast.runs.run import Run, open_run
from malt_fast.serving.answer import Answer
from malt_fast.sweep_runs import with_value
from malt_fast.tasks.checks import warn
from malt_fast.utils.errors import CONTROL, MaltError, printable
from malt_fast.utils.exit_status import exit_status
from malt_fast.utils.files import checksum
from tests.small_run import run, write_model
from tests.store.stored import fill, known, open_small

LONG = "a" * 5000
CLEAR = "a\x1b[2J\x07\r\x9b31m\u202e"
NAMES = ["../x", "/tmp/x", "a/b", "..", "", "a\0b", "\ud800", LONG, "é" * 40, CLEAR]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- names ----


@pytest.mark.parametrize("name", NAMES)
def test_no_role_is_called_like_a_path(name: str) -> None:
    with pytest.raises(MaltError, match=r"cannot name a role|chain = ") as told:
        make_config({"chain": ["generator", name, "refiner"]})
    assert len(str(told.value)) < 300
    make_config({"chain": ["generator", "Prüfer_2", "refiner"]})


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
@pytest.mark.parametrize("key", ["run", "task.path", "model.name_or_path", "reuse"])
def test_a_text_that_no_file_can_be_called_is_no_setting(key: str, text: str) -> None:
    nested: Any = [text] if key == "reuse" else text
    for part in reversed(key.split(".")):
        nested = {part: nested}
    with pytest.raises(MaltError, match="must be text without NUL, in UTF-8"):
        make_config(nested)
    with pytest.raises(MaltError, match="must be text without NUL, in UTF-8"):
        make_config({"model": {"roles": {"refiner": text}}})


@pytest.mark.parametrize("word", [*NAMES, "["])
def test_values_of_a_sweep_stay_in_its_folder(
    word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config({"run": str(tmp_path / "run")})

    def open_one() -> None:
        with open_run(with_value(config, "lora.target_modules", word, word), "test") as one:
            assert one.folder.parent == tmp_path / "run/sweeps"

    status = exit_status(open_one)
    assert {path.name for path in tmp_path.iterdir()} <= {"run"}
    told = capsys.readouterr()
    assert status == 0 or (told.err.startswith("error: ") and len(told.err) < 1000)
    with pytest.raises(MaltError, match="is not a setting"):
        with_value(config, f"lora/../../{word}", "1", 1)


def test_names_that_are_too_long_are_told_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for program, words in (
        (train.main, ["--model.name_or_path", "bundled", "--run", str(tmp_path / LONG)]),
        (evaluate.main, ["--run", LONG]),
    ):
        assert program(words) == 2
        told = capsys.readouterr().err
        assert "too long" in told and told.count("\n") == 1 and len(told) < 300


def test_what_only_looks_like_a_run_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("defaults: [model, data]\n")  # of another program
    (tmp_path / "data").mkdir()
    (tmp_path / "data/.thesis.old").touch()
    before = contents(tmp_path)
    with (
        pytest.raises(MaltError, match="'defaults' is not a setting"),
        open_run(make_config({"run": tmp_path}), "test"),
    ):
        pass
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["../outside.arrows", "/tmp/outside.arrows", "a\0b", LONG])
def test_a_store_reads_and_writes_its_own_files_only(name: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    fill(open_small(store), range(300))
    manifest = json.loads((store / "manifest.json").read_text())
    first = store / manifest["sealed"][0]["name"]
    (tmp_path / "outside.arrows").write_bytes(first.read_bytes())
    manifest["sealed"][0]["name"] = name
    del manifest["xxh3"]
    (store / "manifest.json").write_text(json.dumps(manifest | {"xxh3": checksum(manifest)}))
    (store / "samples-00001 (copy).arrows").touch()
    again = open_small(store)
    fill(again, range(300, 420))
    assert known(again, 430) == list(range(420))
    assert {path.name for path in tmp_path.iterdir()} == {"store", "outside.arrows"}


# ---- the terminal ----


def test_control_characters_are_shown_and_not_obeyed() -> None:
    assert printable("a\x1b[2J\r\u202e\ud800\x9b") == r"a\x1b[2J\r\u202e\ud800\x9b"
    plain = "tab\t, newline\n, é, 中, emoji 👩\u200d🔬, no\xa0break"
    assert printable(plain) == plain
    turns: list[dict[str, str | None]] = [{"refiner": CLEAR}]
    assert not CONTROL.search(str(Answer(CLEAR, CLEAR, CLEAR, 1, turns, "stop", 1, 1)))


def test_whatever_a_run_prints_is_printable(tmp_path: Path) -> None:
    out = io.StringIO()
    told = Run(tmp_path, make_config({}), console=Terminal(file=out, force_terminal=True, width=90))
    told.warn(f"[red]{CLEAR}[/]")
    told.say(f"[/]{CLEAR}")
    cells = Table("t", f"[/b]{CLEAR}", [Column("[i]", "text")], [[f"[red]{CLEAR}"]], f"[/]{CLEAR}")
    told.console.print(as_terminal(cells))
    with told.stage("[/]", total=1) as (_, figures):
        figures["x"] = CLEAR
    shown = out.getvalue()
    assert shown.count(r"a\x1b[2J\x9b31m\u202e") >= 5  # rich drops \r, and folds what is long
    assert "\x1b[2J" not in shown and "\x07" not in shown and "\u202e" not in shown
    for tag in ("[red]a", "[/]a", "[/b]a", "[i]"):
        assert tag in shown
    assert "\x1b[33mwarning" in shown  # its own colours stay


def test_an_error_is_one_line_whatever_it_names(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise MaltError(f"the id '{CLEAR}\nerror: another' is bad")

    assert exit_status(fail) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and not CONTROL.search(told)


def test_warnings_show_ids_printable(caplog: pytest.LogCaptureFixture) -> None:
    warn([CLEAR], "odd")
    assert "odd" in caplog.text and not CONTROL.search(caplog.text)


def test_a_run_with_hostile_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ids that look like paths, and texts that would steer a terminal."""
    ids = ["../../x", "/etc/x", ".", "..", "a\0b", LONG, "é" * 200, CLEAR, "[/]", "{question}"]
    rows = [
        {"id": id, "question": f"one or two? {id[:50]}", "answer": str(1 + i % 2)}
        for i, id in enumerate([*ids, *map(str, range(10))])
    ]
    inside = tmp_path / "a/b"
    inside.mkdir(parents=True)
    data = inside / "questions.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = write_model(inside / "model")
    before = contents(tmp_path)
    capsys.readouterr()  # what transformers says to that
    status = run(data, model, inside / "run", "--task.id_column", "id")
    told = capsys.readouterr()
    assert status == 0, told.err
    assert not CONTROL.search(told.out + told.err)
    new = contents(tmp_path).keys() - before.keys()
    assert all(Path(name).is_relative_to(inside / "run") for name in new)
    assert contents(inside / "model") == {k: v for k, v in before.items() if "/model/" in k}
