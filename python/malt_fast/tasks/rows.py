"""Questions from the rows of files or the hub, and a held-out part; shared by the tasks.

The first bad row raises a MaltError with its place. A task passes a `Reader` for the format of its
rows.
"""

import logging
import os
import random
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path

from malt_fast.config.schema import TaskConfig
from malt_fast.grading.custom import is_custom
from malt_fast.tasks.files import Row, file_rows
from malt_fast.tasks.hub import is_hub_id, load_hub
from malt_fast.tasks.task import Question
from malt_fast.utils.errors import MaltError, not_there

log = logging.getLogger(__name__)

SPACE = " \r\n"  # around a text; a tab or form feed may be a damaged \text or \frac
HELD_OUT = ("test", "validation")  # splits of the hub with held-out questions, by preference
Rows = Iterable[tuple[str, Row]]  # each with its place
NAMES = {  # of columns in other data sets
    "question": ("problem", "prompt", "instruction", "input", "query"),
    "answer": ("solution", "final_answer", "target", "label", "output", "gold"),
}
Reader = Callable[[Row, str, str], tuple[str, str] | None]
"""(row, where, id) -> (text, gold); None to leave the row out."""


def check_paths(task: TaskConfig) -> None:
    """Raises MaltError for a file of questions that is not there."""
    for source in filter(None, (task.path, task.test_path)):
        if not is_hub_id(source) and not os.path.exists(source):
            raise MaltError(
                f"{not_there(source)}: check the path, or name a data set of the hub as OWNER/NAME"
            )


def split_questions(
    task: TaskConfig,
    make: Callable[[Rows, str, str], list[Question]],
    beside: str | None = None,
    *,
    read: Callable[[str, str], Rows] = lambda path, kind: file_rows(Path(path)),
    held_out: Sequence[str] = HELD_OUT,
) -> tuple[list[Question], list[Question]]:
    """Training and held-out questions, by `make(rows, source, kind)`; kind: train or test.

    Held-out ones come from `task.test_path`, else from `beside`, a path next to the training
    questions, else from a split of the hub's data set, `task.test_split` or the first it has of
    `held_out`, else they are a tenth of the training questions. read: the rows of a local path.
    """
    check_paths(task)
    path, other = task.path or "", task.test_path or beside
    source = other or path
    hub = {s: load_hub(s, task.subset) for s in (path, source) if is_hub_id(s)}
    wanted = [n for n in held_out if n != task.split or source != path]

    def questions(source: str, kind: str, split: str) -> list[Question]:
        option = "split" if kind == "train" else "test_split"
        rows = hub[source].rows(split, option) if source in hub else read(source, kind)
        return make(rows, source, kind)

    train = questions(path, "train", task.split)
    split = (task.test_split or hub[source].first_of(wanted)) if source in hub else None
    if other is None and split is None:
        return hold_out(train, path)
    if task.test_path is None:
        log.info("held-out questions come from %s", other or f"its split {split}")
    return train, questions(source, "test", split or [*wanted, *held_out][0])


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
    rows: Rows,
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


def likely(column: str, row: Row) -> str:
    """`did you mean 'x'?` for a column that often has this name elsewhere, else what there is."""
    close = get_close_matches(column, map(str, row), 1, 0.8)
    named = [*close, *(name for name in NAMES.get(column, ()) if name in row)]
    return f"did you mean '{named[0]}'?" if named else f"known are {', '.join(map(str, row))}"


def text_of(row: Row, column: str, where: str, fix: str, what: str = "value") -> str:
    """The stripped text of a column; a number as plain decimals. fix: for a missing column."""
    if column not in row:
        raise MaltError(f"{where} has no column '{column}' ({likely(column, row)}): {fix}")
    value = row[column]
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        number = Decimal(str(value))
        value = format(number, "f") if number.is_finite() else None  # 1e20 as a grader reads it
    if not isinstance(value, str) or not value.strip():
        raise MaltError(
            f"{where} has an empty or non-text {what} in column '{column}': correct that row"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise MaltError(
            f"{where} has half a Unicode character in column '{column}': correct that row"
        ) from None
    return value.strip(SPACE)
