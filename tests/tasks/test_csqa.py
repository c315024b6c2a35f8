"""CommonsenseQA: the authors' files, the hub's columns, and every bad row as one sentence."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from malt_fast.grading.verdicts import grade
from tests import questions
from tests.questions import choices, serve, write_lines

load = partial(questions.load, "csqa")
mistake = partial(questions.mistake, "csqa")


COLD = choices("Where is it cold?", "B", "x1", "oven", "fridge", "sauna", "bed", "sun")
WARM = choices("Where is it warm?", "A", "x2", "oven", "fridge", "ice", "pole", "moon")
TEXT = "Where is it cold?\nA: oven\nB: fridge\nC: sauna\nD: bed\nE: sun"


def test_real_files(shared_data: Path) -> None:
    task = load(shared_data / "csqa" / "train_rand_split.jsonl")
    assert (len(task.train), len(task.test)) == (9741 - 1, 1221)
    assert task.report == {"contaminated": ["1fe539f56d95d20110dab73c81de6dfc"]}
    assert (task.grader, task.chat) == ("choice", True)
    first = task.train[0]
    assert first.id == "075e483d21c29a511267ef62bedc0461" and first.gold == "A"
    lines = first.text.splitlines()
    assert lines[0].startswith("The sanctions against the school")
    assert lines[1:] == ["A: ignore", "B: enforce", "C: authoritarian", "D: yell at", "E: avoid"]
    golds = [q.gold for q in task.test]
    assert set(golds) == set("ABCDE")
    assert grade("choice", [f"1. So it is.\nFinal Answer: {g}" for g in golds], golds).all()


def test_dev_beside_train(tmp_path: Path) -> None:
    write_lines(tmp_path / "train_rand_split.jsonl", [COLD])
    write_lines(tmp_path / "dev_rand_split.jsonl", [WARM])
    task = load(tmp_path / "train_rand_split.jsonl")
    assert [(q.id, q.text, q.gold) for q in task.train] == [("x1", TEXT, "B")]
    assert [q.id for q in task.test] == ["x2"]
    other = write_lines(tmp_path / "other.jsonl", [WARM | {"id": "x3"}])
    assert load(tmp_path / "train_rand_split.jsonl", "--task.test_path", other).test[0].id == "x3"


def on_the_hub(row: dict[str, Any]) -> dict[str, Any]:
    listed = row["question"]["choices"]
    columns = {key: [choice[key] for choice in listed] for key in ("label", "text")}
    question = {"question": row["question"]["stem"], "question_concept": "thing"}
    return {"id": row["id"], **question, "choices": columns, "answerKey": row["answerKey"]}


def test_the_hubs_columns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unanswered = [on_the_hub(WARM) | {"answerKey": ""}]
    splits = {"train": [on_the_hub(COLD)], "validation": [on_the_hub(WARM)], "test": unanswered}
    serve(monkeypatch, "tau/commonsense_qa", {"default": splits})
    hub = load("tau/commonsense_qa")
    files = load(
        write_lines(tmp_path / "a.jsonl", [COLD]),
        *("--task.test_path", write_lines(tmp_path / "b.jsonl", [WARM])),
    )
    assert hub.train == files.train and hub.test == files.test


def test_training_on_the_only_split_with_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    splits = {"validation": [on_the_hub(COLD)], "test": [on_the_hub(WARM) | {"answerKey": ""}]}
    serve(monkeypatch, "tau/commonsense_qa", {"default": splits})
    options = ("--task.split", "validation", "--task.test_path")
    other = write_lines(tmp_path / "dev.jsonl", [WARM])
    assert [q.id for q in load("tau/commonsense_qa", *options, other).test] == ["x2"]
    same = mistake("tau/commonsense_qa", *options, "tau/commonsense_qa")
    assert "is in both the training" in same


def test_the_split_of_another_data_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    serve(monkeypatch, "a/b", {"default": {"validation": [on_the_hub(WARM)]}})
    options = ("--task.split", "validation", "--task.test_path", "a/b")
    train = write_lines(tmp_path / "a.jsonl", [COLD])
    assert [q.id for q in load(train, *options).test] == ["x2"]


def test_rows_of_ones_own_grader(tmp_path: Path) -> None:
    options = ("--task.test_path", write_lines(tmp_path / "b.jsonl", [WARM]))
    task = load(
        write_lines(tmp_path / "a.jsonl", [COLD]),
        *options,
        "--task.grader",
        "tests.questions:score",
    )
    assert task.train[0].row == COLD and task.train[0].gold == "B"


def test_other_ids_and_no_ids(tmp_path: Path) -> None:
    row = {key: value for key, value in COLD.items() if key != "id"}
    rows = [row, WARM | {"key": 7}]
    task = load(
        write_lines(tmp_path / "a.jsonl", [row]),
        *("--task.test_path", write_lines(tmp_path / "b.jsonl", rows[1:])),
    )
    assert task.train[0].id == "train-0"
    assert "has no column 'key'" in mistake(tmp_path / "a.jsonl", "--task.id_column", "key")


def changed(row: dict[str, Any], **question: Any) -> dict[str, Any]:
    return row | {"question": row["question"] | question}


@pytest.mark.parametrize(
    ("row", "part"),
    [
        (COLD | {"answerKey": ""}, "has no answerKey, as in the test split"),
        ({"id": "x", "question": COLD["question"]}, "use the dev split instead"),
        (COLD | {"answerKey": "F"}, "the answerKey 'F', which is none of its choices (A, B, C, D"),
        (COLD | {"answerKey": ["A"]}, "has an empty or non-text"),
        (COLD | {"question": "only a text"}, "has no choices"),
        (COLD | {"question": None}, "non-text value in column 'question'"),
        ({"answerKey": "A"}, "has no column 'question'"),
        (changed(COLD, stem=""), "non-text value in column 'stem'"),
        (changed(COLD, choices="A B"), "has no choices"),
        (changed(COLD, choices=["A", "B"]), "has no choices"),
        (changed(COLD, choices=[]), "has choices []"),
        (changed(COLD, choices={"label": ["A", "B"], "text": ["one"]}), "has no choices"),
        (changed(COLD, choices={"label": ["A", "A"], "text": ["a", "b"]}), "must be A, B, ..."),
        (changed(COLD, choices={"label": ["A", "B"], "text": ["a", " "]}), "non-text choice"),
        (changed(COLD, choices={"label": ["A", "B"], "text": ["a", None]}), "in column 'B'"),
        (COLD | {"id": "x2"}, "has the id 'x2' of"),
    ],
)
def test_bad_rows(tmp_path: Path, row: dict[str, Any], part: str) -> None:
    path = write_lines(tmp_path / "q.jsonl", [WARM, row])
    text = mistake(path)
    assert part in text and text.startswith(f"{path}:2")
