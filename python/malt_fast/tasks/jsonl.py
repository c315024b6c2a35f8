"""Any JSONL file with a question and an answer column, and the reading that other tasks share."""

import json
import logging
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from malt_fast.config import TaskConfig
from malt_fast.errors import MaltError, nearest
from malt_fast.grading import can_read
from malt_fast.tasks import Question

log = logging.getLogger(__name__)


def questions(task: TaskConfig, grader: str) -> tuple[list[Question], list[Question]]:
    """Questions of `task.path`, and of `task.test_path` or else a held-out tenth."""

    def gold(answer: str) -> str:
        if not can_read(grader, answer):
            raise ValueError(
                f"the answer {answer[:40]!r} is not one that the {grader} grader reads"
            )
        return answer

    train = read_questions(Path(task.path or ""), "train", task, gold)
    if task.test_path is None:
        return hold_out(train, task.path or "")
    return train, read_questions(Path(task.test_path), "test", task, gold)


def hold_out(rows: list[Question], source: str) -> tuple[list[Question], list[Question]]:
    """(the rest, a tenth): the same tenth for every run, whatever its seed."""
    if len(rows) < 2:
        raise MaltError(
            f"{source} holds one question and none can be held out: give --task.test_path FILE"
        )
    chosen = set(random.Random("held-out").sample(range(len(rows)), max(1, len(rows) // 10)))
    log.info("held out %d of the %d questions of %s", len(chosen), len(rows), source)
    return (
        [row for i, row in enumerate(rows) if i not in chosen],
        [row for i, row in enumerate(rows) if i in chosen],
    )


def read_questions(
    path: Path, split: str, task: TaskConfig, gold: Callable[[str], str]
) -> list[Question]:
    """Questions of a JSONL file; `gold` takes the answer column's text, or raises ValueError."""
    return make_questions(_rows(path), str(path), split, task, gold)


def make_questions(
    rows: Iterable[tuple[str, Any]],
    source: str,
    split: str,
    task: TaskConfig,
    gold: Callable[[str], str],
) -> list[Question]:
    """Questions from (where, row) pairs; the first bad row is a MaltError saying where it is."""
    out: list[Question] = []
    seen: dict[str, str] = {}
    for i, (where, row) in enumerate(rows):
        text = _text(row, task.question_column, "question", where)
        answer = _text(row, task.answer_column, "answer", where)
        name = _text(row, task.id_column, "id", where) if task.id_column else f"{split}-{i}"
        if name in seen:
            raise MaltError(
                f"{where} has the id '{name}' of {seen[name]}: give every question its own"
            )
        seen[name] = where
        try:
            out.append(Question(name, text, gold(answer)))
        except ValueError as error:
            raise MaltError(f"{where}: {error}; correct it or remove the row") from None
    if not out:
        raise MaltError(f"{source} holds no questions: give a file with one JSON object a line")
    return out


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, row) of every line that is not blank."""
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except FileNotFoundError:
        raise MaltError(f"{path} does not exist: check the path") from None
    except OSError as error:
        raise MaltError(f"{path} cannot be read ({error.strerror}): give a JSONL file") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problem = getattr(error, "msg", None) or type(error).__name__
            raise MaltError(
                f"{where} is not valid JSON ({problem}): correct or remove that line"
            ) from None
        if not isinstance(row, dict):
            raise MaltError(f"{where} is not a JSON object: write one {{...}} a line")
        yield where, row


def _text(row: dict[str, Any], column: str, what: str, where: str) -> str:
    """The text of a column, stripped; a number counts as its text."""
    if column not in row:
        hint = nearest(column, row)
        raise MaltError(
            f"{where} has no column '{column}' ({hint}): name yours by --task.{what}_column"
        )
    value = row[column]
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not text.strip():
        raise MaltError(
            f"{where} has an empty or non-text {what} in column '{column}': correct that row"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MaltError(
            f"{where} has half a Unicode character in column '{column}': correct that row"
        ) from None
    return text.strip()
