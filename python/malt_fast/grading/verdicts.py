r"""Is an answer right? Find the answer in a completion, then compare it with the gold one.

The C++ core does both, in linear time and without evaluating anything; of mathematics it says
"cannot tell" now and then, and math-verify decides in processes that can be killed (symbolic.py).
What counts as equal, and where an answer stands, is told in docs/grading.md.

    number   the gold is a number; another one in any spelling
    math     numbers, formulas, sets, intervals, matrices, words
    choice   a letter
    exact    a text

A grader of one's own is `module:function`, called with (completion, row) for a score in [0, 1]; an
output is right from `min_score` on. Votes then count equal texts, found as `exact` finds them.
"""

import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from malt_fast import _core
from malt_fast.grading import symbolic
from malt_fast.grading.custom import is_custom, score_custom
from malt_fast.utils.errors import MaltError, nearest

GRADERS = ("number", "math", "choice", "exact")
OF_TASK = {"arithmetic": "number", "gsm8k": "number", "math": "math", "csqa": "choice"}

VERDICTS = ("wrong", "right", "nothing extracted", "unparseable", "timed out")
WRONG, RIGHT, NOTHING, UNPARSEABLE, TIMED_OUT = range(5)
DIFFERENT, EQUAL, UNKNOWN = range(3)  # what the core says
SYMBOLIC = {"equal": RIGHT, "different": WRONG, "refused": UNPARSEABLE, "timed out": TIMED_OUT}

if TYPE_CHECKING:
    pass


def extract_answer(task: str, completion: str) -> str | None:
    """The answer that a completion gives, as it stands there; None if it gives none.

    task: a grader, or a task that has one. Raises MaltError for another name.
    """
    return _core.answers.extract_answers(_reader_of(task), [completion])[0]


def answers_equal(task: str, answer: str, gold: str) -> bool:
    """Is an extracted answer the gold one? Raises MaltError for an unknown task."""
    return bool(_compare(grader_of(task), [gold], [answer], None)[0] == RIGHT)


def can_read(task: str, gold: str) -> bool:
    """Is a gold answer one that others can be compared with?"""
    return _core.answers.can_read(_reader_of(task), gold)


def grade(
    task: str, completions: Sequence[str], golds: Sequence[str], workers: int | None = None
) -> npt.NDArray[np.bool_]:
    """bool[n]: which completions answer their gold. Without an answer a completion is wrong.

    workers: processes that run math-verify where it is needed; None is one a core.
    """
    return grade_with_reasons(task, completions, golds, workers) == RIGHT


def grade_with_reasons(
    task: str, completions: Sequence[str], golds: Sequence[str], workers: int | None = None
) -> npt.NDArray[np.uint8]:
    """uint8[n]: what each completion is worth, an index into VERDICTS.

    An answer is unparseable, too, where the gold is one that the grader cannot read. Raises
    MaltError for an unknown task, and where math-verify is needed and missing.
    """
    if isinstance(completions, str) or isinstance(golds, str):
        raise TypeError("completions and golds must be sequences of texts, not a text")
    if len(completions) != len(golds):
        raise ValueError(f"{len(completions)} completions, but {len(golds)} golds")
    grader = grader_of(task)
    answers = _core.answers.extract_answers(grader, completions)
    gold = {text: gold_answer(grader, text) for text in dict.fromkeys(golds)}
    wanted = [gold[text] for text in golds]
    verdicts = _compare(grader, wanted, [answer or "" for answer in answers], workers)
    unreadable = {text for text, read in gold.items() if not _core.answers.can_read(grader, read)}
    if grader != "math":  # of which math-verify reads more than the core
        verdicts[[text in unreadable for text in golds]] = UNPARSEABLE
    verdicts[[answer is None for answer in answers]] = NOTHING
    return verdicts


def grade_outputs(
    grader: str,
    completions: Sequence[str],
    golds: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    min_score: float = 0.5,
) -> npt.NDArray[np.uint8]:
    """uint8[n]: the verdict on each output, an index into VERDICTS.

    A custom grader scores outputs by `rows`, the others compare them with `golds`. Raises MaltError
    where a custom grader fails.
    """
    if not is_custom(grader):
        return grade_with_reasons(grader, completions, golds)
    scores = score_custom(grader, completions, rows)
    return np.where(scores >= min_score, RIGHT, WRONG).astype(np.uint8)


def gold_answer(grader: str, gold: str) -> str:
    """What a gold marks, as a solution does (a box, `#### 5`), else all of it."""
    boxed = grader == "math" and ("\\boxed" in gold or "\\fbox" in gold)
    marked = boxed or (grader == "number" and "####" in gold)
    return (_core.answers.extract_answers(grader, [gold])[0] or "") if marked else gold


def number_answers(
    task: str, completions: Sequence[Sequence[str | None]], workers: int | None = None
) -> npt.NDArray[np.int64]:
    """int64[questions, outputs]: in a row, equal answers have equal numbers; -1 is no answer.

    completions[question][output]: None where there is none. Two answers are equal as an answer and
    a gold one are; numbers are those of the answers' first outputs in their row.
    """
    grader = _reader_of(task)
    texts = list(dict.fromkeys(text for row in completions for text in row if text is not None))
    said = dict(zip(texts, _core.answers.extract_answers(grader, texts), strict=True))
    rows = [[None if text is None else said[text] for text in row] for row in completions]
    distinct = [sorted({answer for answer in row if answer is not None}) for row in rows]
    pairs = list(dict.fromkeys(pair for row in distinct for pair in combinations(row, 2)))
    told = _compare(grader, [a for a, _ in pairs], [b for _, b in pairs], workers)
    equal = {pair for pair, verdict in zip(pairs, told, strict=True) if verdict == RIGHT}
    width = len(rows[0]) if rows else 0
    return np.array([_number(row, equal) for row in rows], np.int64).reshape(len(rows), width)


def _number(row: Sequence[str | None], equal: set[tuple[str, str]]) -> list[int]:
    """Each answer's number: that of the first answer which it equals, or its own place."""
    first: dict[str, int] = {}
    for i, answer in enumerate(row):
        if answer is not None and answer not in first:
            same = [n for other, n in first.items() if _ordered(answer, other) in equal]
            first[answer] = min(same, default=i)
    return [-1 if answer is None else first[answer] for answer in row]


def _ordered(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a < b else (b, a)


def _compare(
    grader: str, golds: Sequence[str], answers: Sequence[str], workers: int | None
) -> npt.NDArray[np.uint8]:
    """uint8[n]: an index into VERDICTS for each pair, by the core and where it must by others."""
    told = _core.answers.compare_answers(grader, golds, answers)
    verdicts = np.where(told == EQUAL, RIGHT, WRONG).astype(np.uint8)
    unknown = {int(i): (golds[i], answers[i]) for i in np.flatnonzero(told == UNKNOWN)}
    pairs = sorted(set(unknown.values()))
    outcomes = symbolic.equal(pairs, workers or os.cpu_count() or 1)
    decided = dict(zip(pairs, outcomes, strict=True))
    for i, pair in unknown.items():
        verdicts[i] = SYMBOLIC[decided[pair]]
    return verdicts


# ---- which grader ----


def grader_of(task: str) -> str:
    """The grader of a task; a grader's own name stands for itself."""
    grader = OF_TASK.get(task, task)
    if grader not in GRADERS:
        hint = nearest(task, [*GRADERS, *OF_TASK])
        raise MaltError(f"there is no grader '{task}': {hint}")
    return grader


def _reader_of(task: str) -> str:
    """The grader that finds answers: texts, for one of one's own."""
    return "exact" if is_custom(task) else grader_of(task)
