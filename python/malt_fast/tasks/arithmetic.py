"""The bundled task: generated chains of five + or - steps on two-digit numbers.

`47+38-10+25-36+14`: operands lie in 10..89, every running total in 10..99. Two or more steps of a
question carry, or borrow, but never both kinds: two forgotten carries cannot cancel, so a right
answer means a right chain. Question i of a split depends only on i: a smaller set is the beginning
of a larger one.
"""

import random
import re
import zlib

from malt_fast.config.schema import TaskConfig
from malt_fast.tasks.task import Question, Report
from malt_fast.utils.errors import MaltError

STEPS = 5
CHAIN = re.compile(r"\d\d(?:[+-]\d\d){5}")


def questions(task: TaskConfig, grader: str) -> tuple[list[Question], list[Question], Report]:
    """As many training and held-out questions as the limits ask for."""
    if task.limit is None or task.test_limit is None:
        raise MaltError(
            "arithmetic never runs out of questions: give --task.limit and --task.test_limit"
        )
    return (
        [_question("train", i) for i in range(task.limit)],
        [_question("held-out", i) for i in range(task.test_limit)],
        {},
    )


def totals(question: str) -> list[int]:
    """The five running totals of a chain. Raises ValueError for any other text."""
    if not CHAIN.fullmatch(question):
        raise ValueError(f"{question!r} is not a chain of {STEPS} steps")
    first, *steps = re.findall(r"[+-]?\d\d", question)
    total = int(first)
    return [total := total + int(step) for step in steps]


def _question(split: str, i: int) -> Question:
    rng = random.Random(f"{split}-{i}")
    # An eighth of all chains may be held-out questions, the others training ones: none is both.
    text = _chain(rng)
    while not _one_way(text) or (zlib.crc32(text.encode()) % 8 == 0) != (split == "held-out"):
        text = _chain(rng)
    return Question(f"{split}-{i}", text, str(totals(text)[-1]))


def _one_way(question: str) -> bool:
    """Whether two or more steps carry and none borrows, or the other way round."""
    first, *steps = re.findall(r"[+-]?\d\d", question)
    units, signs = int(first[1]), []
    for step in steps:
        units += int(step[0] + step[2])
        if not 0 <= units <= 9:
            signs.append(step[0])
        units %= 10
    return len(signs) > 1 and len(set(signs)) == 1


def _chain(rng: random.Random) -> str:
    total = rng.randint(10, 89)
    text = str(total)
    while len(text) < 2 + 3 * STEPS:
        step = rng.choice((-1, 1)) * rng.randint(10, 89)
        if 10 <= total + step <= 99:
            total += step
            text += f"{step:+d}"
    return text
