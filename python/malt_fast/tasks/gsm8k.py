"""GSM8K: grade-school word problems, from local JSONL files or the Hugging Face hub.

The gold answer is the number on the last line of a solution, after `####` (or `A:`).
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from malt_fast.config import TaskConfig
from malt_fast.errors import MaltError, first_line
from malt_fast.grading import can_read
from malt_fast.tasks import Question
from malt_fast.tasks.jsonl import hold_out, make_questions, read_questions

log = logging.getLogger(__name__)


def questions(task: TaskConfig, grader: str) -> tuple[list[Question], list[Question]]:
    """Training and held-out questions.

    Held-out ones come from `task.test_path`, else the hub's test split or a test.jsonl beside
    train.jsonl, else a tenth of the training file.
    """
    path = task.path or ""
    local = _is_local(path)
    train = _read(path, "train", task)
    if task.test_path is not None:
        return train, _read(task.test_path, "test", task)
    if not local:
        return train, _read(path, "test", task)
    beside = Path(path).with_name("test.jsonl")
    if Path(path).name == "train.jsonl" and beside.is_file():
        log.info("held-out questions come from %s", beside)
        return train, _read(str(beside), "test", task)
    return hold_out(train, path)


def gold(answer: str) -> str:
    """The number that ends a solution; ValueError if there is none."""
    last = answer.strip().rpartition("\n")[2]
    for marker in ("####", "A:"):
        last = last.rpartition(marker)[2]
    number = last.strip()
    if not can_read("number", number):
        raise ValueError("the answer does not end with `#### NUMBER`")
    return number


def _read(path: str, split: str, task: TaskConfig) -> list[Question]:
    if _is_local(path):
        return read_questions(Path(path), split, task, gold)
    return make_questions(_hub_rows(path, split), path, split, task, gold)


def _is_local(path: str) -> bool:
    """A hub id is `owner/name`: one slash, no file ending; whatever exists here is local."""
    return Path(path).exists() or path.count("/") != 1 or path.endswith((".jsonl", ".json"))


def _hub_rows(name: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    from datasets import load_dataset

    try:
        rows = load_dataset(name, "main", split=split)
    except Exception as error:  # the hub's clients raise many kinds
        raise MaltError(
            f"'{name}' is neither a file here nor a data set that can be loaded "
            f"({first_line(error)}): check --task.path"
        ) from None
    for i, row in enumerate(rows):
        yield f"{name}:{split}[{i}]", dict(row)
