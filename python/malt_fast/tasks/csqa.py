"""CommonsenseQA: questions with five choices, from its authors' JSONL files or the hub.

The question's text is the stem and below it the choices, one `A: ...` per line; the gold is a
letter.
"""

import string
from pathlib import Path
from typing import Any

from malt_fast.config.schema import TaskConfig
from malt_fast.tasks.files import Row
from malt_fast.tasks.rows import Rows, make_questions, sibling, split_questions, text_of
from malt_fast.tasks.task import Question, Report
from malt_fast.utils.errors import MaltError

FORMAT = "a row of CommonsenseQA has `question` (with `stem` and `choices`, or beside `choices`)"
HELD_OUT = ("validation",)  # the test split has no answers


def questions(task: TaskConfig, grader: str) -> tuple[list[Question], list[Question], Report]:
    """Training and held-out questions; the latter are in dev_rand_split.jsonl beside
    train_rand_split.jsonl, or in the hub's validation split."""

    def make(rows: Rows, source: str, kind: str) -> list[Question]:
        return make_questions(rows, source, kind, task, _read, own_id="id")

    beside = sibling(Path(task.path or ""), "train_rand_split.jsonl", "dev_rand_split.jsonl")
    return *split_questions(task, make, beside, held_out=HELD_OUT), {}


def _read(row: Row, where: str, name: str) -> tuple[str, str]:
    asked = isinstance(row.get("question"), dict) or "choices" in row
    if asked and not row.get("answerKey"):
        raise MaltError(
            f"{where} has no answerKey, as in the test split, whose answers were never published: "
            "use the dev split instead (dev_rand_split.jsonl, `validation` on the hub)"
        )
    key = text_of(row, "answerKey", where, FORMAT)
    nested = row.get("question")
    own, column = (nested, "stem") if isinstance(nested, dict) else (row, "question")
    stem, choices = text_of(own, column, where, FORMAT), _choices(own.get("choices"), where)
    if key not in choices:
        raise MaltError(
            f"{where} has the answerKey '{key}', which is none of its choices "
            f"({', '.join(choices)}): correct that row"
        )
    return "\n".join([stem, *(f"{label}: {text}" for label, text in choices.items())]), key


def _choices(value: Any, where: str) -> dict[str, str]:
    """{letter: text} of `[{label, text}, ...]`, or as on the hub `{label: [...], text: [...]}`."""
    labels, texts = None, None
    if isinstance(value, list) and all(isinstance(choice, dict) for choice in value):
        labels, texts = ([choice.get(key) for choice in value] for key in ("label", "text"))
    elif isinstance(value, dict):
        labels, texts = value.get("label"), value.get("text")
    if not isinstance(labels, list) or not isinstance(texts, list) or len(labels) != len(texts):
        raise MaltError(f"{where} has no choices, each with a label and a text: correct that row")
    if len(labels) < 2 or labels != list(string.ascii_uppercase[: len(labels)]):
        raise MaltError(f"{where} has choices {labels}, which must be A, B, ...: correct that row")
    return {
        a: text_of({a: text}, a, where, FORMAT, "choice")
        for a, text in zip(labels, texts, strict=True)
    }
