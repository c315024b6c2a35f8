"""Rows from files or the hub, questions made of them, and a held-out part; shared by the tasks.

The first bad row raises a MaltError with its place. A task passes a `Reader` for the format of its
rows.
"""

import json
import logging
import random
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from malt_fast.config.schema import TaskConfig
from malt_fast.grading.custom import is_custom
from malt_fast.tasks.hub import hub_rows, is_hub_id
from malt_fast.tasks.task import Question
from malt_fast.utils.errors import MaltError, nearest

log = logging.getLogger(__name__)

SPACE = " \r\n"  # around a text; a tab or form feed may be a damaged \text or \frac
Row = dict[str, Any]
Reader = Callable[[Row, str, str], tuple[str, str] | None]
"""(row, where, id) -> (text, gold); None to leave the row out."""


def split_questions(
    task: TaskConfig, read: Callable[[str, str], list[Question]], beside: str | None = None
) -> tuple[list[Question], list[Question]]:
    """Training and held-out questions, by `read(path, split)`.

    Held-out ones come from `task.test_path`, else from `beside`, a path next to the training
    questions, else from the hub's data set, else they are a tenth of the training questions.
    """
    path = task.path or ""
    train = read(path, "train")
    if task.test_path is None and beside is not None:
        log.info("held-out questions come from %s", beside)
    held_out = task.test_path or beside or (path if is_hub_id(path) else None)
    return hold_out(train, path) if held_out is None else (train, read(held_out, "test"))


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


def sibling(path: Path, train: str, test: str) -> str | None:
    """The path named `test` beside a path named `train`, if both exist."""
    there = path.with_name(test) if path.name == train else None
    return str(there) if there and there.exists() else None


# ---- from rows to questions ----


def make_questions(
    rows: Iterable[tuple[str, Row]],
    source: str,
    split: str,
    task: TaskConfig,
    read: Reader,
    own_id: str = "",
) -> list[Question]:
    """Questions from (where, row) pairs.

    A question's id is in `task.id_column`, else in `own_id` if the row has that, else its number.
    """
    keep = is_custom(task.grader or "")
    out: list[Question] = []
    rows_of: dict[str, int] = {}  # by id, counted from 1
    for i, (where, row) in enumerate(rows):
        column = task.id_column or (own_id if row.get(own_id) is not None else None)
        fix = "name yours by --task.id_column"
        name = text_of(row, column, where, fix, "id") if column else f"{split}-{i}"
        if (row_number := rows_of.setdefault(name, i + 1)) <= i:
            raise MaltError(
                f"{where} has the id '{name}' of row {row_number}: give every question its own"
            )
        found = read(row, where, name)
        if found is not None:
            out.append(Question(name, *found, row if keep else {}))
    if not out:
        raise MaltError(f"{source} holds no questions that can be used: give others")
    return out


def by_columns(task: TaskConfig, gold: Callable[[str], str], *, may_lack: bool = False) -> Reader:
    """A reader of the columns that the config names. gold: of an answer; may raise ValueError.

    may_lack: a row without an answer has gold "", unless the config names a column for it.
    """
    own = TaskConfig.model_fields["answer_column"].default

    def read(row: Row, where: str, name: str) -> tuple[str, str]:
        fix = "name yours by --task.{}_column"
        text = text_of(row, task.question_column, where, fix.format("question"), "question")
        if may_lack and task.answer_column == own and row.get(own) is None:
            return text, ""
        answer = text_of(row, task.answer_column, where, fix.format("answer"), "answer")
        try:
            return text, gold(answer)
        except ValueError as error:
            raise MaltError(f"{where}: {error}; correct it or remove the row") from None

    return read


def text_of(row: Row, column: str, where: str, fix: str, what: str = "value") -> str:
    """The stripped text of a column; a number as plain decimals. fix: for a missing column."""
    if column not in row:
        raise MaltError(f"{where} has no column '{column}' ({nearest(column, row)}): {fix}")
    value = row[column]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    text = format(Decimal(str(value)), "f") if number else value  # 1e20 as a grader reads it
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
    return text.strip(SPACE)


# ---- from files to rows ----


def read_rows(path: str, split: str) -> Iterator[tuple[str, Row]]:
    """(where, row) of a JSONL file, or of a split of a hub id."""
    return hub_rows(path, split) if is_hub_id(path) else file_rows(Path(path))


def file_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """(file:line, row) of every line that is not blank."""
    number = 0
    for lines in read_lines(path):
        for line in lines.splitlines():  # at a lone \r, too
            number += 1
            if line.strip():
                yield json_row(line, path, number)


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, without a byte order mark."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file):
                yield line if number else line.removeprefix(b"\xef\xbb\xbf")
    except FileNotFoundError:
        raise MaltError(f"{path} does not exist: check the path") from None
    except OSError as error:
        raise MaltError(f"{path} cannot be read ({error.strerror}): give a JSONL file") from None


def json_row(text: bytes, path: Path, number: int = 1) -> tuple[str, Row]:
    """(file:line, row) of a JSON object that begins at line `number`.

    Control characters in its texts are allowed, since MATH has some.
    """
    try:
        row = json.loads(text.decode("utf-8"), strict=False)
    except (ValueError, RecursionError) as error:
        where = f"{path}:{number + getattr(error, 'lineno', 1) - 1}"
        problem = getattr(error, "msg", None) or type(error).__name__
        if isinstance(error, UnicodeDecodeError):
            problem = "not UTF-8"
        raise MaltError(
            f"{where} is not valid JSON ({problem}): correct or remove that line"
        ) from None
    if not isinstance(row, dict):
        raise MaltError(f"{path}:{number} is not a JSON object: write one {{...}} per line")
    return f"{path}:{number}", row
