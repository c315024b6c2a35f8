"""What was graded, and how far the verdicts can be trusted: counts, and a second opinion.

Of mathematics a sample of verdicts is held against math-verify alone; where the two disagree, the
pairs are kept for people to read.
"""

import os
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from malt_fast import _core, symbolic
from malt_fast.grading import RIGHT, UNKNOWN, VERDICTS, gold_answer, grader_of, is_custom

SAMPLE = 40  # pairs that get a second opinion


def counts(verdicts: npt.NDArray[np.uint8]) -> dict[str, int]:
    """How many outputs of each verdict."""
    numbers = np.bincount(verdicts.ravel(), minlength=len(VERDICTS)).tolist()
    return dict(zip(VERDICTS, numbers, strict=True))


def report(
    task: str, completions: Sequence[str], golds: Sequence[str], verdicts: npt.NDArray[np.uint8]
) -> dict[str, Any]:
    """Counts; the share of verdicts that the core gave; disagreements with math-verify."""
    out: dict[str, Any] = {"outputs": len(verdicts), "verdicts": counts(verdicts)}
    if is_custom(task) or not len(verdicts):
        return out
    grader = grader_of(task)
    answers = _core.extract_answers(grader, completions)
    wanted = {gold: gold_answer(grader, gold) for gold in dict.fromkeys(golds)}
    told = _core.compare_answers(
        grader, [wanted[gold] for gold in golds], [answer or "" for answer in answers]
    )
    out["decided_by_core"] = float(np.mean(told != UNKNOWN))
    if grader == "math":
        pairs = {
            (wanted[gold], answer): bool(verdict == RIGHT)
            for gold, answer, verdict in zip(golds, answers, verdicts, strict=True)
            if answer is not None
        }
        out |= second_opinion(pairs)
    return out


def merged(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One report of outputs that were graded piece by piece."""
    n = sum(part["outputs"] for part in parts)
    totals = {verdict: sum(part["verdicts"][verdict] for part in parts) for verdict in VERDICTS}
    out: dict[str, Any] = {"outputs": n, "verdicts": totals}
    decided = [part["decided_by_core"] * part["outputs"] for part in parts if len(part) > 2]
    if decided:
        out["decided_by_core"] = sum(decided) / n
    if any("disagreements" in part for part in parts):
        out["checked_by_math_verify"] = sum(part["checked_by_math_verify"] for part in parts)
        out["disagreements"] = [one for part in parts for one in part["disagreements"]]
    return out


def second_opinion(pairs: dict[tuple[str, str], bool]) -> dict[str, Any]:
    """What math-verify says of a sample of (gold, answer) pairs, beside our verdicts."""
    chosen = random.Random(0).sample(sorted(pairs), min(SAMPLE, len(pairs)))
    theirs = symbolic.equal(chosen, os.cpu_count() or 1)
    heard = [(pair, say) for pair, say in zip(chosen, theirs, strict=True) if say != "refused"]
    disagreements = [
        {"gold": gold, "answer": answer, "ours": pairs[gold, answer], "math_verify": say}
        for (gold, answer), say in heard
        if (say == "equal") != pairs[gold, answer]
    ]
    return {"checked_by_math_verify": len(heard), "disagreements": disagreements}


def sentence(told: dict[str, Any]) -> str:
    """The counts for the terminal: only what there is."""
    parts = [f"{n:,} {verdict}" for verdict, n in told["verdicts"].items() if n]
    if told.get("decided_by_core", 1) < 1:
        parts.append(f"{100 * told['decided_by_core']:.1f} % decided by the core")
    if told.get("disagreements"):
        n, of = len(told["disagreements"]), told["checked_by_math_verify"]
        parts.append(f"math-verify says otherwise of {n} of {of}")
    return "graded: " + (", ".join(parts) or "nothing")
