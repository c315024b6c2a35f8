r"""MATH: competition problems, from a local folder or files in its format, or the hub.

`FOLDER/train/algebra/1.json` has `problem` and `solution`; rows of MATH-500 and PRM800K's split
have `unique_id` and perhaps `answer`, too. The gold answer is in the column `answer`, else in the
last `\boxed{}` or `\fbox{}` of the solution. Known defects of the data set (empty boxes, several
boxes, `\boxed 2`) are reported and stop no run.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from malt_fast.config.schema import TaskConfig
from malt_fast.grading.custom import is_custom
from malt_fast.grading.verdicts import can_read, extract_answer, grade
from malt_fast.tasks.files import Row, file_rows, json_row, read_lines
from malt_fast.tasks.rows import (
    SPACE,
    Reader,
    Rows,
    make_questions,
    sibling,
    split_questions,
    text_of,
)
from malt_fast.tasks.task import Question, Report
from malt_fast.utils.errors import MaltError

BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
FORMAT = "a row of MATH has `problem`, and `solution` or `answer`"
SPLITS = ("train", "test")


def questions(task: TaskConfig, grader: str) -> tuple[list[Question], list[Question], Report]:
    """Training and held-out questions, and the ids of those with a defect."""
    report: Report = {"no gold": [], "several boxes": [], "unreadable gold": []}
    differing: dict[str, tuple[str, str]] = {}
    reader = _reader(grader, report, differing)

    def make(rows: Rows, source: str, kind: str) -> list[Question]:
        return make_questions(rows, source, kind, task, reader, own_id="unique_id")

    train, test = split_questions(task, make, _beside(Path(task.path or "")), read=_rows)
    boxed = [f"\\boxed{{{box}}}" for box, _ in differing.values()]
    same = grade("math", boxed, [answer for _, answer in differing.values()])
    report["another box"] = [name for name, equal in zip(differing, same, strict=True) if not equal]
    return train, test, report


def last_box(solution: str) -> str:
    """The content of the last box of a solution; "" if there is none, or nothing in it."""
    starts = [match.start() for match in BOX.finditer(solution)]
    return (extract_answer("math", solution[starts[-1] :]) or "").strip(SPACE) if starts else ""


# ---- a row ----


def _reader(grader: str, report: Report, differing: dict[str, tuple[str, str]]) -> Reader:
    """A reader that fills `report`, and `differing` with (box, answer) that are different texts."""

    def read(row: Row, where: str, name: str) -> tuple[str, str] | None:
        text = text_of(row, "problem", where, FORMAT, "problem")
        answer = _answer(row, where)
        solution = _solution(row, where, needed=answer is None)
        box = last_box(solution)
        gold = box if answer is None else answer
        if not gold:
            report["no gold"].append(name)
            return None
        boxes = len(BOX.findall(solution))
        if boxes > 1:
            report["several boxes"].append(name)
        if boxes and box != gold:
            differing[name] = (box, gold)
        if not is_custom(grader) and not can_read(grader, gold):
            report["unreadable gold"].append(name)
        return text, gold

    return read


def _answer(row: Row, where: str) -> str | None:
    """The column `answer`: "" if it is blank, None if the row has none."""
    value = row.get("answer")
    blank = isinstance(value, str) and not value.strip()
    return "" if blank else None if value is None else text_of(row, "answer", where, FORMAT)


def _solution(row: Row, where: str, *, needed: bool) -> str:
    absent = row.get("solution") is None and not needed
    return "" if absent else text_of(row, "solution", where, FORMAT)


# ---- where the rows are ----


def _rows(path: str, split: str) -> Iterator[tuple[str, Row]]:
    """(where, row) of a split of a folder; without splits, of all rows."""
    here = Path(path)
    there = _split_of(here, split)
    if there is None and any(_split_of(here, other) for other in SPLITS):
        raise MaltError(
            f"{path} holds no folder '{split}' and no {split}.jsonl: add one, or name another path"
        )
    here = there or here
    return _folder_rows(here, split) if here.is_dir() else file_rows(here)


def _split_of(folder: Path, split: str) -> Path | None:
    """FOLDER/train or FOLDER/train.jsonl, if it exists."""
    found = [folder / name for name in (split, f"{split}.jsonl") if (folder / name).exists()]
    return found[0] if found else None


def _beside(path: Path) -> str | None:
    """The folder itself if it holds a test split, else the test split next to a training one."""
    if _split_of(path, "test"):
        return str(path)
    return sibling(path, "train", "test") or sibling(path, "train.jsonl", "test.jsonl")


def _folder_rows(folder: Path, split: str) -> Iterator[tuple[str, Row]]:
    """Rows of every file below a folder, 1.json before 10.json; ids like `train/algebra/1.json`."""
    files = [
        file
        for file in folder.rglob("*")
        if file.suffix in (".json", ".jsonl")
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]
    for file in sorted(files, key=lambda file: (file.parent, len(file.name), file.name)):
        if file.suffix == ".jsonl":
            yield from file_rows(file)
            continue
        where, row = json_row(b"".join(read_lines(file)), file)
        name = file.relative_to(folder.parent).as_posix()
        name = name if name.startswith(f"{split}/") else f"{split}/{name}"
        yield where, {"unique_id": name} | row
