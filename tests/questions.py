"""Questions for tests: a fake hub, and rows in the formats of MATH and CommonsenseQA."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from malt_fast.config.command import read_command
from malt_fast.tasks.load import load_task
from malt_fast.tasks.task import Task
from malt_fast.train import PROGRAM
from malt_fast.utils.errors import MaltError


def serve(
    monkeypatch: pytest.MonkeyPatch, name: str, configurations: Mapping[str, Mapping[str, Any]]
) -> None:
    """Replaces the hub by one with a single data set: {configuration: {split: rows}}."""
    datasets = pytest.importorskip("datasets")

    def names(asked: str) -> list[str]:
        if asked != name:
            raise ConnectionError(f"{asked} is not on this hub\nand more")
        return list(configurations)

    monkeypatch.setattr("malt_fast.tasks.hub.offline", lambda: False)
    monkeypatch.setattr(datasets, "get_dataset_config_names", names)
    monkeypatch.setattr(datasets, "load_dataset", lambda _, part: configurations[part])


def load(name: str, path: Path | str, *argv: str) -> Task:
    """A task read from files, as the programs do."""
    options = ("--task.name", name, "--task.path", str(path), *argv)
    return load_task(read_command(PROGRAM, options))


def mistake(name: str, path: Path | str, *argv: str) -> str:
    """What loading says of a user's mistake, in one line."""
    with pytest.raises(MaltError) as caught:
        load(name, path, *argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_lines(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def problem(text: str, solution: str, **more: Any) -> dict[str, Any]:
    """A row in MATH's format."""
    return {"problem": text, "level": "Level 1", "type": "Algebra", "solution": solution, **more}


def write_math(folder: Path, split: str, problems: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes FOLDER/train/algebra/1.json from {"algebra/1": row}."""
    for name, row in problems.items():
        file = folder / split / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(row, indent=2), encoding="utf-8")


def choices(stem: str, answer: str, name: str, *texts: str) -> dict[str, Any]:
    """A row in the format of CommonsenseQA's authors."""
    listed = [{"label": "ABCDE"[i], "text": text} for i, text in enumerate(texts)]
    question = {"question_concept": "thing", "choices": listed, "stem": stem}
    return {"answerKey": answer, "id": name, "question": question}


def score(completion: str, row: dict[str, Any]) -> float:
    """A custom grader: the share of the row's words that an output contains."""
    words = str(row.get("words", "")).split()
    return sum(word in completion for word in words) / max(1, len(words))
