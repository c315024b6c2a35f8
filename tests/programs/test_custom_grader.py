"""Whole runs with a grader of one's own that fails now and then: counted, told, and asked once."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from malt_fast import evaluate, report
from malt_fast.grading import calls
from tests.small_run import content, run, write_model, write_questions

ASKED: Counter[tuple[str, str]] = Counter()
CUSTOM = ("--task.grader", f"{__name__}:judge", "--task.grader_workers", "4")


def judge(completion: str, row: Mapping[str, Any]) -> float:
    """Whether an output says the answer; about some questions it cannot be asked."""
    ASKED[row["question"], completion] += 1
    if "(3)" in row["question"] or "(7)" in row["question"]:
        raise ConnectionError("the judge is away")
    return float(row["answer"] in completion)


def useless(completion: str, row: Mapping[str, Any]) -> float:
    raise ConnectionError("the judge is away")


def lines(folder: Path, stage: str) -> list[dict[str, Any]]:
    every = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in every if line["stage"] == stage]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "FIRST_PAUSE", 0.0)
    ASKED.clear()


def test_a_failing_grader_costs_its_outputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, model, folder = write_questions(tmp_path / "q.jsonl"), tmp_path / "model", tmp_path / "r"
    write_model(model)
    assert run(data, model, folder, *CUSTOM) == 0
    (graded,), (verdicts,) = lines(folder, "grade round 0"), lines(folder, "grading")
    assert graded["failed"] == verdicts["verdicts"]["failed"] > 0
    assert graded["first_failure"] == "the judge is away"
    texts = [line["text"] for line in lines(folder, "warning") if line["kind"] == "failed grader"]
    left_out = f"the grader failed on {graded['failed']:,} outputs, which are left out; the first"
    assert texts[0].startswith(left_out) and texts[0].endswith("time: the judge is away")
    assert left_out in capsys.readouterr().out
    assert report.main(["--run", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert left_out in page and f"{graded['failed']}, the first: the judge is away" in page
    (first,) = [verdicts["outputs"] - graded["failed"]]

    # A second run, and another evaluation, ask only about what failed.
    forest, asked = content(folder), dict(ASKED)
    (folder / "round-0" / "forest.arrows").unlink()
    (folder / "metrics.jsonl").unlink()
    assert run(data, model, folder, *CUSTOM, "--task.grader_retries", "1") == 0
    assert evaluate.main(["--run", str(folder), "--task.grader_workers", "2"]) == 0
    assert content(folder) == forest
    more = {key for key, times in ASKED.items() if times != asked.get(key)}
    assert more and all("(3)" in question or "(7)" in question for question, _ in more)
    (again,) = lines(folder, "grading")
    assert again["outputs"] - again["verdicts"]["failed"] == first

    # So does another run that reuses the samples.
    asked = dict(ASKED)
    assert run(data, model, tmp_path / "other", *CUSTOM, "--reuse", str(folder)) == 0
    more = {key for key, times in ASKED.items() if times != asked.get(key)}
    assert all("(3)" in question or "(7)" in question for question, _ in more)


def test_a_grader_that_always_fails_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, model = write_questions(tmp_path / "q.jsonl"), tmp_path / "model"
    write_model(model)
    options = ("--task.grader", f"{__name__}:useless", "--task.grader_retries", "0")
    assert run(data, model, tmp_path / "all", *options) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: the grader") and "(the judge is away)" in last
    few = ("--task.limit", "2", "--tree.branching", "1,1,1")
    assert run(data, model, tmp_path / "few", *options, *few) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "outputs 2 failed: the first failure was: the judge is away" in last
