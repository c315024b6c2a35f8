"""GSM8K: grade-school word problems, from local files or the Hugging Face hub.

The gold answer is the number on the last line of a solution, after `####` (or `A:`).
"""

from pathlib import Path

from malt_fast.config.schema import TaskConfig
from malt_fast.grading.verdicts import can_read
from malt_fast.tasks.rows import Rows, by_columns, make_questions, sibling, split_questions
from malt_fast.tasks.task import Question, Report


def questions(task: TaskConfig, grader: str) -> tuple[list[Question], list[Question], Report]:
    """Training and held-out questions; the latter are in test.jsonl beside train.jsonl."""

    reader = by_columns(task, gold)

    def make(rows: Rows, source: str, kind: str) -> list[Question]:
        return make_questions(rows, source, kind, task, reader)

    beside = sibling(Path(task.path or ""), "train.jsonl", "test.jsonl")
    return *split_questions(task, make, beside), {}


def gold(answer: str) -> str:
    """The number at the end of a solution. Raises ValueError if there is none."""
    last = answer.strip().rpartition("\n")[2]
    for marker in ("####", "A:"):
        last = last.rpartition(marker)[2]
    number = last.strip()
    if not can_read("number", number):
        raise ValueError("the answer does not end with `#### NUMBER`")
    return number
