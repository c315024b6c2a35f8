"""Every task with every grader, through `train`, a resume and `evaluate`, on a tiny model.

Graded in parts of five outputs, so that parts lack answers, and one part is smaller.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malt_fast import evaluate, train
from malt_fast._core.forest import Forest
from malt_fast.config.command import read_command
from malt_fast.sampling import grade
from malt_fast.sampling.prepare import load_setup
from malt_fast.tasks.task import Question
from malt_fast.train import PROGRAM
from tests.questions import choices, problem, write_lines, write_math
from tests.tiny import tiny_llama

FAST = [
    *("--sampling.temperature", "1", "--sampling.max_tokens", "1", "--model.dtype", "float32"),
    *("--train.sft.max_steps", "1", "--train.dpo_roles", "[]", "--lora.r", "4"),
    *("--chain", "[generator, verifier]", "--tree.branching", "3,2"),
    *("--evaluate.bootstrap", "100", "--report_to", "[]", "--engine.name", "hf"),
]
SAYS = {
    "now and then right": {"1": 30.0, "A": 30.0, "2": 29.0, "B": 29.0, "Ġ": 28.0},
    "wrong": {"1": 30.0, "A": 30.0},
    "unreadable": {"Ġ": 30.0},
}
NOTHING_TO_LEARN = "error: no role has a single example or pair to learn from"
QUESTIONS = 6

Writer = Callable[[Path, str], list[str]]
"""(folder, gold) -> the options of a task whose every question has that gold; "": 1 or A."""


def math_rows(gold: str) -> dict[str, dict[str, Any]]:
    return {
        f"algebra/{i}": problem(f"one? ({i})", rf"So it is $\boxed{{{gold or '1'}}}$.")
        for i in range(QUESTIONS)
    }


def gsm8k(folder: Path, gold: str) -> list[str]:
    answer = f"It is.\n#### {gold or '1'}"
    rows = [{"question": f"one? ({i})", "answer": answer} for i in range(QUESTIONS)]
    return ["--task.name", "gsm8k", "--task.path", write_lines(folder / "gsm8k.jsonl", rows)]


def math_folder(folder: Path, gold: str) -> list[str]:
    for split in ("train", "test"):
        problems = {
            name: row | {"problem": f"{split}: {row['problem']}"}
            for name, row in math_rows(gold).items()
        }
        write_math(folder / "MATH", split, problems)
    return ["--task.name", "math", "--task.path", str(folder / "MATH"), "--task.test_limit", "2"]


def math_jsonl(folder: Path, gold: str) -> list[str]:
    rows = [row | {"unique_id": name} for name, row in math_rows(gold).items()]
    return ["--task.name", "math", "--task.path", write_lines(folder / "math.jsonl", rows)]


def csqa(folder: Path, gold: str) -> list[str]:
    letter = "C" if gold else "A"
    rows = [choices(f"first? ({i})", letter, f"x{i}", "a", "b", "c") for i in range(QUESTIONS)]
    return ["--task.name", "csqa", "--task.path", write_lines(folder / "csqa.jsonl", rows)]


def jsonl(grader: str) -> Writer:
    def write(folder: Path, gold: str) -> list[str]:
        answer = ("C" if gold else "A") if grader == "choice" else (gold or "1")
        rows = [
            {"question": f"first? ({i})", "answer": answer, "words": answer}
            for i in range(QUESTIONS)
        ]
        data = write_lines(folder / "rows.jsonl", rows)
        return ["--task.name", "jsonl", "--task.path", data, "--task.grader", grader]

    return write


TASKS: dict[str, Writer] = {
    "gsm8k": gsm8k,
    "math folder": math_folder,
    "math jsonl": math_jsonl,
    "csqa": csqa,
    "jsonl number": jsonl("number"),
    "jsonl math": jsonl("math"),
    "jsonl choice": jsonl("choice"),
    "jsonl exact": jsonl("exact"),
    "jsonl custom": jsonl("tests.questions:score"),
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model for each key of SAYS, which says its tokens and next to nothing else."""
    folder = tmp_path_factory.mktemp("models")
    return {
        name: tiny_llama(folder / name, chat_template=True, layers=1, likes=likes)
        for name, likes in SAYS.items()
    }


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grade, "GRADED", 5)


def graded(run: Path) -> dict[str, Any]:
    """What metrics.jsonl says of the verdicts on the training forest."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return next(line for line in lines if line["stage"] == "grading")


def keys_of(figures: dict[str, Any]) -> set[str]:
    return figures.keys() - {"stage", "time", "round", "forest"}


def keys_for(task: str) -> set[str]:
    """The figures that a grader always gives, whatever the outputs are."""
    keys = {"outputs", "verdicts"} | ({"decided_by_core"} if "custom" not in task else set())
    if "custom" not in task and "exact" not in task:
        keys |= {"right_if"}
    return keys | ({"checked_by_math_verify", "disagreements"} if "math" in task else set())


@pytest.mark.parametrize("task", TASKS)
def test_train_resume_and_evaluate(task: str, models: dict[str, Path], tmp_path: Path) -> None:
    run, model = tmp_path / "run", models["now and then right"]
    options = [*TASKS[task](tmp_path, ""), "--model.name_or_path", str(model), "--run", str(run)]
    assert train.main([*options, *FAST]) == 0
    figures = graded(run)
    assert keys_of(figures) == keys_for(task)
    assert 0 < figures["verdicts"]["right"] < figures["outputs"]
    assert figures["outputs"] == sum(figures["verdicts"].values())
    assert train.main([*options, *FAST]) == 0
    assert evaluate.main(["--run", str(run)]) == 0
    evaluation = json.loads((run / "evaluation.json").read_text())
    for of_role in evaluation["grading"].values():
        assert keys_of(of_role) == keys_for(task)


def test_both_counts_stand_in_a_run_of_either_grading(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """The model answers `1` or `2` without a marker: right if lenient, no answer if strict."""
    run, model = tmp_path / "run", models["now and then right"]
    options = [*TASKS["jsonl number"](tmp_path, ""), "--model.name_or_path", str(model)]
    options += ["--run", str(run), *FAST]
    assert train.main(options) == 0
    lenient, evaluation = graded(run), json.loads((run / "evaluation.json").read_text())
    for figures in (lenient, *evaluation["grading"].values()):
        right = figures["right_if"]
        assert right["strict"] == 0 < right["lenient"] == figures["verdicts"]["right"]
    (run / "metrics.jsonl").unlink()
    options += ["--task.grading", "strict", "--overwrite"]
    assert train.main(options) == 2  # nothing right to learn from
    strict = graded(run)
    assert strict["right_if"] == lenient["right_if"]
    assert strict["verdicts"]["nothing extracted"] == strict["outputs"] == lenient["outputs"]


def test_a_run_reads_the_texts_of_choices(models: dict[str, Path], tmp_path: Path) -> None:
    """The model says `1`, which is choice C, and never C itself."""
    run, model = tmp_path / "run", models["now and then right"]
    rows = [choices(f"first? ({i})", "C", f"x{i}", "2", "3", "1") for i in range(QUESTIONS)]
    options = ["--task.name", "csqa", "--task.path", write_lines(tmp_path / "csqa.jsonl", rows)]
    options += ["--model.name_or_path", str(model), "--run", str(run)]
    assert train.main([*options, *FAST]) == 0
    evaluation = json.loads((run / "evaluation.json").read_text())
    for figures in (graded(run), *evaluation["grading"].values()):
        right = figures["right_if"]
        assert right["strict"] == 0 < right["lenient"] == figures["verdicts"]["right"]


@pytest.mark.parametrize("says", ["wrong", "unreadable"])
@pytest.mark.parametrize("task", TASKS)
def test_nothing_right_ends_in_one_sentence(
    task: str,
    says: str,
    models: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, model = tmp_path / "run", models[says]
    options = [*TASKS[task](tmp_path, "7"), "--model.name_or_path", str(model), "--run", str(run)]
    for _ in range(2):  # the second time the outputs, and their verdicts, are there
        assert train.main([*options, *FAST]) == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith(NOTHING_TO_LEARN)
    figures = graded(run)
    assert keys_of(figures) == keys_for(task)
    verdicts, outputs = figures["verdicts"], figures["outputs"]
    assert verdicts["right"] == 0 and outputs >= 30
    if says == "wrong":
        assert verdicts["wrong"] > 0
    elif "custom" not in task:  # such a grader does not say why an output is wrong
        assert verdicts["nothing extracted"] > 0.9 * outputs
    assert evaluate.main(["--run", str(run)]) == 2
    assert "holds no adapters" in capsys.readouterr().err


def test_a_gold_that_the_grader_cannot_read(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = math_jsonl(tmp_path, r"\frac919"), tmp_path / "run"
    options = [*data, "--model.name_or_path", str(models["wrong"]), "--run", str(run)]
    assert train.main([*options, *FAST]) == 2
    assert NOTHING_TO_LEARN in capsys.readouterr().err
    figures = graded(run)
    assert keys_of(figures) == keys_for("math") and figures["verdicts"]["right"] == 0


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("trees", [0, 2])
def test_a_forest_without_outputs(
    task: str, trees: int, models: dict[str, Path], tmp_path: Path
) -> None:
    """None was asked for, or all of them failed."""
    options = [*TASKS[task](tmp_path, ""), "--model.name_or_path", str(models["wrong"])]
    setup = load_setup(read_command(PROGRAM, [*options, *FAST]))
    forest = Forest()
    forest.add_trees(trees, np.array([-1, 0], np.int32))
    failed = np.arange(len(forest), dtype=np.uint32)[forest.level > 0]
    forest.fail(failed)
    questions: list[Question] = setup.task.train[:trees]
    figures = grade.grade_leaves(setup, forest, questions)
    assert figures["outputs"] == sum(figures["verdicts"].values()) == 0
    assert keys_of(figures) == keys_for(task)
