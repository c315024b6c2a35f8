"""Questions from CSV, TSV, JSON, Parquet and the hub; every bad file and name as one sentence."""

import gzip
import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malt_fast.models.loading import check_base
from malt_fast.tasks.files import file_rows
from malt_fast.tasks.task import Task
from malt_fast.utils import hub_access
from malt_fast.utils.errors import MaltError
from tests.questions import load, mistake, serve, write_lines

EXACT = ("--task.grader", "exact")
ROWS = [{"question": f"Größe, die {i}.?", "answer": f"a{i}"} for i in range(3)]
TEXTS = [(row["question"], row["answer"]) for row in ROWS]


def read(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in file_rows(path)]


def problem_of(path: Path) -> str:
    with pytest.raises(MaltError) as caught:
        list(file_rows(path))
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))
    return str(caught.value).removeprefix(str(path))


def quoted(separator: str) -> str:
    rows = [(row["question"], row["answer"]) for row in ROWS]
    return "".join(f'"{q}"{separator}{a}\r\n' for q, a in [("question", "answer"), *rows])


def parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path)


def text(content: str, encoding: str = "utf-8") -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content.encode(encoding)) and None


LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("commas.csv", text(quoted(","))),
        ("semicolons.csv", text(quoted(";"))),
        ("bars.csv", text(quoted("|"))),
        ("tabs.csv", text(quoted("\t"))),
        ("tabs.tsv", text(quoted("\t"))),
        ("mark.csv", text(quoted(","), "utf-8-sig")),
        ("utf16.csv", text(quoted(";"), "utf-16")),
        ("blank.csv", text(quoted(",").replace("\r\n", "\r\n\r\n,\r\n"))),
        ("array.json", text(json.dumps(ROWS, indent=1))),
        ("data.json", text(json.dumps({"version": 1, "data": ROWS}))),
        ("lines.json", text(LINES)),
        ("lines.ndjson", text(LINES)),
        ("lines", text(LINES)),
        ("utf16.jsonl", text(LINES, "utf-16")),
        ("rows.parquet", parquet),
        ("rows.bin", parquet),
    ],
)
def test_formats(name: str, write: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / name
    write(path)
    task = load("jsonl", path, *EXACT)
    asked = sorted([*task.train, *task.test], key=lambda question: question.text)
    assert [(question.text, question.gold) for question in asked] == TEXTS


def test_a_text_over_lines_in_quotes(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text('question,answer\n"Who ""is""\n\nAnn, Bob?",x\nn,y\n')
    assert list(file_rows(path)) == [
        (f"{path}:2", {"question": 'Who "is"\n\nAnn, Bob?', "answer": "x"}),
        (f"{path}:5", {"question": "n", "answer": "y"}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("q.csv", b"a,b\n1,2\n1,2,3\n", ":3 has 3 cells, but the first line names 2 columns: put"),
        ("q.csv", b"a,b\n1,2\n1\n", ":3 has 1 cells, but"),
        ("q.csv", b'a,b\n1,2\n"1,2\n3,4\n', ":3 is not valid CSV (unexpected end of data): put"),
        ("q.csv", b'a,b\n"1"x,2\n', ":2 is not valid CSV"),
        ("q.csv", b'a,b\n1,"' + b"x" * 200_000, ":2 is not valid CSV (field larger than"),
        ("q.csv", b"a,b,a\n1,2,3\n", ":1 names the column 'a' twice: rename one of them"),
        ("q.csv", b"a,b\n1,\0\n", ":2 holds a NUL: save the file as UTF-8 text"),
        ("q.csv", b"a,b\n1,2\n1,\xe9\n", ":3 is not UTF-8: convert the file, from Latin-1 by `ico"),
        ("q.csv", b"\xff\xfea", " is not UTF-16, as its first bytes say"),
        ("q.jsonl", b"\xff\xfea", " is not UTF-16, as its first bytes say"),
        ("q.json", b'[{"a": 1},\n{"a": 2,}]', ":2 is not valid JSON"),
        ("q.json", b"[1]", "[0] is not a JSON object"),
        ("q.json", b"3", " is neither a JSON array"),
        ("q.json", b'{"a": 1}\n{"a": \n', ":2 is not valid JSON"),
        ("q.parquet", b"PAR1 and no more", "[0] cannot be read as Parquet ("),
        ("q.parquet", b"", "[0] cannot be read as Parquet ("),
        ("q.jsonl.gz", gzip.compress(b"{}", mtime=0), " is compressed (gzip): unpack it"),
        ("q.xlsx", b"PK\x03\x04...", " is compressed (ZIP, as spreadsheets are)"),
    ],
)
def test_bad_files(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert problem_of(path).startswith(said)


@pytest.mark.parametrize("name", ["q.csv", "q.tsv", "q.json", "q.jsonl", "q.parquet"])
def test_files_without_rows(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    for content in (b"", b"question,answer\n") if name.endswith("sv") else (b"",):
        path.write_bytes(content)
        said = mistake("jsonl", path, *EXACT)
        assert said.startswith(str(path)) and len(said) < 300


def test_the_advice_on_latin_1_can_be_typed(tmp_path: Path) -> None:
    path = tmp_path / "my questions.csv"
    path.write_bytes(quoted(",").encode("latin-1"))
    command = problem_of(path).split("`")[1]
    assert shlex.split(command)[-1] == str(tmp_path / "my questions.utf8.csv")
    subprocess.run(command, shell=True, check=True)
    assert read(tmp_path / "my questions.utf8.csv") == ROWS


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
NAMED = st.lists(st.tuples(CELL, CELL), min_size=1, max_size=4)


@given(rows=NAMED)
def test_csv_comes_back(
    rows: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    import csv

    path = tmp_path_factory.getbasetemp() / "any.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("question", "answer"), *rows])
    kept = [row for row in rows if any(map(str.strip, row))]
    assert [(row["question"], row["answer"]) for row in read(path)] == kept


@given(content=st.binary(max_size=60), suffix=st.sampled_from([".csv", ".tsv", ".json", ".jsonl"]))
def test_any_bytes_are_rows_or_a_sentence(
    content: bytes, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"bytes{suffix}"
    path.write_bytes(content)
    try:
        read(path)
    except MaltError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)


def test_columns_and_values(tmp_path: Path) -> None:
    """Numbers of Parquet are golds in plain decimals; what is missing or empty is told."""
    path = tmp_path / "q.parquet"
    table = {"q": ["x", "y"], "a": pa.array([1e20, None])}
    pq.write_table(pa.table(table), path)
    names = ("--task.question_column", "q", "--task.answer_column", "a")
    assert f"{path}[1] has an empty or non-text answer" in mistake("jsonl", path, *EXACT, *names)
    assert "[0] has no column 'question'" in mistake("jsonl", path, *EXACT)
    pq.write_table(pa.table(table | {"a": [1e20, 3.5]}), path)
    task = load("jsonl", path, *EXACT, *names)
    assert {q.gold for q in [*task.train, *task.test]} == {"1" + 20 * "0", "3.5"}


def test_solutions_with_a_marked_answer_are_golds(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "answer": f"It is.\n#### {i}"} for i in range(2)]
    assert load("jsonl", write_lines(tmp_path / "q.jsonl", rows), "--task.grader", "number").train


def test_wrong_paths_are_told_before_anything_is_read(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{")
    for path in ("./tinny", "tinny", "data/tinny.csv", str(tmp_path / "none")):
        where = "" if path.startswith("/") else f" in {Path.cwd()}"
        advice = "check the path, or name a data set of the hub as OWNER/NAME"
        said = f"{path} does not exist{where}: {advice}"
        assert mistake("jsonl", path, *EXACT) == said
        assert mistake("jsonl", bad, *EXACT, "--task.test_path", path) == said


# ---- the hub ----


def from_hub(*argv: str) -> Task:
    return load("jsonl", "a/b", *EXACT, *argv)


def rows_of(name: str, count: int = 3) -> list[dict[str, str]]:
    return [{"question": f"{name} {i}", "answer": "x"} for i in range(count)]


def first_words(task: Task) -> tuple[set[str], set[str]]:
    return tuple({q.text.split()[0] for q in some} for some in (task.train, task.test))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("splits", "argv", "train", "test"),
    [
        (("train", "test", "validation"), (), "train", "test"),
        (("train", "validation"), (), "train", "validation"),
        (("train",), (), "train", "train"),
        (
            ("train", "test", "validation"),
            ("--task.test_split", "validation"),
            "train",
            "validation",
        ),
        (("train", "test", "validation"), ("--task.split", "test"), "test", "validation"),
        (("train", "test"), ("--task.split", "test"), "test", "test"),
    ],
)
def test_splits(
    splits: tuple[str, ...],
    argv: tuple[str, ...],
    train: str,
    test: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    serve(monkeypatch, "a/b", {"default": {name: rows_of(name) for name in splits}})
    assert first_words(from_hub(*argv)) == ({train}, {test})


def test_subsets_and_unknown_splits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parts = {
        name: {"train": rows_of(name), "test": rows_of(name + "!")} for name in ("main", "hard")
    }
    serve(monkeypatch, "a/b", parts)
    assert first_words(from_hub()) == ({"main"}, {"main!"})
    assert first_words(from_hub("--task.subset", "hard")) == ({"hard"}, {"hard!"})
    said = mistake("jsonl", "a/b", *EXACT, "--task.split", "trian")
    assert said.startswith("'a/b' has no trian split (it has train, test): name one that it has")
    said = mistake("jsonl", "a/b", *EXACT, "--task.test_split", "dev")
    assert "no dev split" in said and "--task.test_split" in said
    path = write_lines(tmp_path / "q.jsonl", rows_of("here"))
    assert first_words(load("jsonl", path, *EXACT, "--task.test_path", "a/b")) == (
        {"here"},
        {"main!"},
    )
    for key in ("subset", "split", "test_split"):
        said = mistake("jsonl", path, *EXACT, f"--task.{key}", "x")
        assert f"task.{key} is for data sets of the hub" in said


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """No way to the hub; the addresses that were asked."""
    from huggingface_hub import constants

    asked: list[str] = []

    def head(address: str, **_: Any) -> None:
        asked.append(address)
        raise httpx.ConnectError("no route")

    hub_access.offline.cache_clear()
    monkeypatch.setattr(httpx, "head", head)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    yield asked  # type: ignore[misc]
    hub_access.offline.cache_clear()


def test_the_hub_without_a_network(no_network: list[str], tmp_path: Path) -> None:
    """One question to the hub, and one sentence, for data sets and models."""
    pytest.importorskip("datasets")
    said = mistake("jsonl", "no-such/data-set", *EXACT)
    assert "(it is not in the cache, and the hub cannot be reached): check --task.path" in said
    for name in ("tinny", "no-such/model"):
        with pytest.raises(MaltError, match=f"'{name}' cannot .*neither a folder nor in the cache"):
            check_base(name)
    assert len(no_network) == 1


def test_models_that_are_certainly_not_there(no_network: list[str], tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_text("x")
    for name in ("./tinny", "../tinny", "~/tinny", "/no/tinny", "a/b/c", "", str(file)):
        with pytest.raises(MaltError, match="a model of the hub as OWNER/NAME"):
            check_base(name)
    check_base(str(tmp_path))
    assert not no_network
