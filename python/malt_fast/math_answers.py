"""Mathematical answers: found and compared by the core, by math-verify where the core cannot tell.

The conventions (what counts as equal) are those of docs/grading.md.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from malt_fast import _core, symbolic

VERDICTS = ("wrong", "right", "nothing extracted", "unparseable", "timed out")
WRONG, RIGHT, NOTHING, UNPARSEABLE, TIMED_OUT = range(5)
DIFFERENT, EQUAL, UNKNOWN = range(3)  # what the core says
SYMBOLIC = {"equal": RIGHT, "different": WRONG, "refused": UNPARSEABLE, "timed out": TIMED_OUT}


def gold_answer(gold: str) -> str:
    """What is in a gold's last box, else all of it."""
    boxed = "\\boxed" in gold or "\\fbox" in gold
    return (_core.math_answers([gold])[0] or "") if boxed else gold


def grade_math(
    completions: Sequence[str], golds: Sequence[str], workers: int = 1
) -> npt.NDArray[np.uint8]:
    """uint8[n]: what each completion is worth, an index into VERDICTS.

    `workers` processes run math-verify, none where the core can tell everything. Raises MaltError
    where math-verify is needed and missing.
    """
    answers = _core.math_answers(completions)
    read = {gold: gold_answer(gold) for gold in set(golds)}
    wanted = [read[gold] for gold in golds]
    told = _core.compare_answers(wanted, [answer or "" for answer in answers])
    verdicts = np.where(told == EQUAL, RIGHT, WRONG).astype(np.uint8)
    verdicts[[answer is None for answer in answers]] = NOTHING
    unknown = {int(i): (wanted[i], answers[i] or "") for i in np.flatnonzero(told == UNKNOWN)}
    pairs = sorted(set(unknown.values()))
    outcomes = dict(zip(pairs, symbolic.equal(pairs, workers), strict=True))
    for i, pair in unknown.items():
        verdicts[i] = SYMBOLIC[outcomes[pair]]
    return verdicts
