"""The report on a grading: counts of verdicts, and for mathematics math-verify's opinion on some.

Pairs on which the two disagree are kept for people to read.
"""

import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from malt_fast import _core
from malt_fast.grading import symbolic
from malt_fast.grading.custom import is_custom
from malt_fast.grading.verdicts import (
    MARKED,
    NOTHING,
    RIGHT,
    UNKNOWN,
    VERDICTS,
    gold_answer,
    grade,
    grader_of,
)

SAMPLE = 40  # pairs that get a second opinion


@dataclass(frozen=True, slots=True)
class GradeReport:
    """The verdicts on some outputs, possibly none; reports of parts add up."""

    grader: str
    verdicts: Counter[str] = field(default_factory=Counter)  # outputs by verdict
    decided: int = 0  # outputs that the core decided alone
    strict: int = 0  # outputs that a strict grading calls right
    lenient: int = 0
    checked: int = 0  # pairs that got a second opinion
    disagreements: list[dict[str, Any]] = field(default_factory=list)

    def __add__(self, other: "GradeReport") -> "GradeReport":
        return GradeReport(
            self.grader,
            self.verdicts + other.verdicts,
            self.decided + other.decided,
            self.strict + other.strict,
            self.lenient + other.lenient,
            self.checked + other.checked,
            self.disagreements + other.disagreements,
        )

    def figures(self) -> dict[str, Any]:
        """The report as JSON. Its keys depend on the grader alone, never on the outputs."""
        outputs = self.verdicts.total()
        out: dict[str, Any] = {
            "outputs": outputs,
            "verdicts": {verdict: self.verdicts[verdict] for verdict in VERDICTS},
        }
        if not is_custom(self.grader):
            del out["verdicts"]["failed"]
            out["decided_by_core"] = self.decided / outputs if outputs else 1.0
        if self.grader in MARKED:
            out["right_if"] = {"strict": self.strict, "lenient": self.lenient}
        if self.grader == "math":
            out |= {"checked_by_math_verify": self.checked, "disagreements": self.disagreements}
        return out


def report(
    task: str,
    completions: Sequence[str],
    golds: Sequence[str],
    verdicts: npt.NDArray[np.uint8],
    *,
    strict: bool = False,
    questions: Sequence[str] = (),
) -> GradeReport:
    """Count verdicts, those that the core decides alone, and right outputs of either grading; for
    mathematics ask math-verify. strict: whether the verdicts are those of a strict grading."""
    counts = Counter(VERDICTS[verdict] for verdict in verdicts.tolist())
    if is_custom(task):
        return GradeReport(task, counts)
    grader = grader_of(task)
    answers = _core.answers.extract_answers(grader, completions, strict, questions)
    wanted = {gold: gold_answer(grader, gold) for gold in dict.fromkeys(golds)}
    by_core = _core.answers.compare_answers(
        grader, [wanted[gold] for gold in golds], [answer or "" for answer in answers]
    )
    decided = int(np.count_nonzero(by_core != UNKNOWN))
    right = right_of_either(grader, completions, golds, verdicts, strict, questions)
    if grader != "math":
        return GradeReport(grader, counts, decided, *right)
    pairs = {
        (wanted[gold], answer): bool(verdict == RIGHT)
        for gold, answer, verdict in zip(golds, answers, verdicts, strict=True)
        if answer is not None
    }
    return GradeReport(grader, counts, decided, *right, *second_opinion(pairs))


def right_of_either(
    grader: str,
    completions: Sequence[str],
    golds: Sequence[str],
    verdicts: npt.NDArray[np.uint8],
    strict: bool,
    questions: Sequence[str],
) -> tuple[int, int]:
    """How many outputs are right by a strict and by a lenient grading; `verdicts` are of one.

    Both find the same answer or the strict one none. So what is right if lenient is right if strict
    where the answer has a marker, and only outputs without a marked answer are graded again.
    """
    right = int(np.count_nonzero(verdicts == RIGHT))
    if grader not in MARKED:
        return 0, 0
    again = np.flatnonzero(verdicts == (NOTHING if strict else RIGHT))
    texts = [completions[i] for i in again]
    asked = [questions[i] for i in again] if questions else []
    if strict:
        more = grade(grader, texts, [golds[i] for i in again], questions=asked)
        return right, right + int(np.count_nonzero(more))
    marked = _core.answers.extract_answers(grader, texts, True, asked)
    return sum(answer is not None for answer in marked), right


def second_opinion(pairs: dict[tuple[str, str], bool]) -> tuple[int, list[dict[str, Any]]]:
    """Ask math-verify about a sample of (gold, answer) pairs.

    Returns how many it could read, and those of them on which it disagrees with our verdict.
    """
    chosen = random.Random(0).sample(sorted(pairs), min(SAMPLE, len(pairs)))
    theirs = symbolic.equal(chosen, os.cpu_count() or 1)
    none = ("refused", "no proof")
    read = [(pair, one) for pair, one in zip(chosen, theirs, strict=True) if one not in none]
    disagreements = [
        {"gold": gold, "answer": answer, "ours": pairs[gold, answer], "math_verify": outcome}
        for (gold, answer), outcome in read
        if (outcome == "equal") != pairs[gold, answer]
    ]
    return len(read), disagreements


def sentence(figures: dict[str, Any]) -> str:
    """The figures of a report in one line, without zeros and what is the same either way."""
    parts = [f"{n:,} {verdict}" for verdict, n in figures["verdicts"].items() if n]
    if figures.get("decided_by_core", 1) < 1:
        parts.append(f"{100 * figures['decided_by_core']:.1f} % decided by the core")
    right = figures.get("right_if") or {"strict": 0, "lenient": 0}
    if 0 < right["strict"] < right["lenient"]:
        parts.append(f"right if strict {right['strict']:,}, if lenient {right['lenient']:,}")
    if figures.get("disagreements"):
        n, of = len(figures["disagreements"]), figures["checked_by_math_verify"]
        parts.append(f"math-verify disagrees on {n} of {of}")
    return "graded: " + (", ".join(parts) or "nothing")
