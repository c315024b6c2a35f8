"""Demonstrations: outputs of roles that were written elsewhere, for `train.warm_start`.

A JSONL file has a question and outputs of roles in every row:

    {"question": "How much is 2 + 3?", "generator": "2 + 3 = 5\\nFinal Answer: 5"}

A role learns from a row that holds its output and those of the roles that it reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from malt_fast.tasks.checks import decontaminate
from malt_fast.tasks.files import Row, file_rows
from malt_fast.tasks.rows import SPACE
from malt_fast.tasks.task import Question
from malt_fast.utils.errors import MaltError, nearest


@dataclass(frozen=True, slots=True)
class Demonstration:
    where: str  # file and line
    question: str
    outputs: dict[str, str]  # by role


def read_demonstrations(
    path: Path, chain: Sequence[str], held_out: Sequence[Question], leave_out: bool
) -> list[Demonstration]:
    """The rows of a file. leave_out: those whose question copies a held-out one.

    Raises MaltError for the first bad row, and if there is none.
    """
    rows = {where: _demonstration(row, where, chain) for where, row in file_rows(path)}
    if not rows:
        raise MaltError(f"{path} holds no demonstrations: write one JSON object per line")
    asked = [Question(where, one.question, "") for where, one in rows.items()]
    kept, _ = decontaminate(asked, held_out, leave_out)
    return [rows[question.id] for question in kept]


def _demonstration(row: Row, where: str, chain: Sequence[str]) -> Demonstration:
    known = ["question", "id", *chain]
    for key, value in row.items():
        if key not in known:
            raise MaltError(f"{where} names the role '{key}': {nearest(key, known)}")
        if key in ["question", *chain] and not (isinstance(value, str) and value.strip(SPACE)):
            raise MaltError(f"{where} has an empty or non-text {key}: correct or remove that row")
    if "question" not in row or not row.keys() & set(chain):
        raise MaltError(f"{where} needs a question and the output of a role: correct that row")
    outputs = {role: row[role].strip(SPACE) for role in chain if role in row}
    return Demonstration(where, row["question"].strip(SPACE), outputs)
