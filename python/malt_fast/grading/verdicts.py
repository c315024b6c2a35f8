r"""Decides whether completions are right: finds their answers and compares them with the gold ones.

The C++ core does both, in linear time and without evaluating anything. Where it cannot decide two
formulas, math-verify does, in processes that can be killed (symbolic.py). docs/grading.md says
where an answer is looked for and what counts as equal.

    number   a number in any spelling
    math     numbers, formulas, sets, intervals, matrices, words
    choice   a letter
    exact    a text

A strict grading takes only answers behind a marker: those that a lenient one finds, or none. It
makes no difference to `exact`.

A custom grader is `module:function`, called with (completion, row) for a score in [0, 1]; an output
is right if its score is at least `min_score`. Votes then count equal texts, found as by `exact`.
"""

import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from malt_fast import _core
from malt_fast.grading import symbolic
from malt_fast.grading.custom import CustomGrader, is_custom
from malt_fast.utils.errors import MaltError, nearest

GRADERS = ("number", "math", "choice", "exact")
MARKED = ("number", "math", "choice")  # those of which a strict grading takes only marked answers
OF_TASK = {"arithmetic": "number", "gsm8k": "number", "math": "math", "csqa": "choice"}

VERDICTS = ("wrong", "right", "nothing extracted", "unparseable", "timed out", "failed")
WRONG, RIGHT, NOTHING, UNPARSEABLE, TIMED_OUT, FAILED = range(6)  # failed: a custom grader
DIFFERENT, EQUAL, UNKNOWN = range(3)  # results of the core
SYMBOLIC = {
    **{"equal": RIGHT, "different": WRONG, "no proof": WRONG},
    **{"refused": UNPARSEABLE, "timed out": TIMED_OUT},
}


def extract_answer(
    task: str, completion: str, *, strict: bool = False, question: str = ""
) -> str | None:
    """The answer in a completion, verbatim; None if there is none.

    task: the name of a grader, or of a task that has one. Raises MaltError for any other.
    strict: only an answer behind a marker. question: for `choice`, where it may list the choices.
    """
    return _core.answers.extract_answers(_reader_of(task), [completion], strict, [question])[0]


def answers_equal(task: str, answer: str, gold: str) -> bool:
    """Whether an extracted answer equals the gold one. Raises MaltError for an unknown task."""
    return bool(_compare(grader_of(task), [gold], [answer], None)[0] == RIGHT)


def can_read(task: str, gold: str) -> bool:
    """Whether the grader can read a gold answer."""
    return _core.answers.can_read(_reader_of(task), gold)


def grade(
    task: str,
    completions: Sequence[str],
    golds: Sequence[str],
    workers: int | None = None,
    *,
    strict: bool = False,
    questions: Sequence[str] = (),
) -> npt.NDArray[np.bool_]:
    """bool[n]: which completions are right. A completion without an answer is wrong.

    workers: processes that run math-verify where it is needed; None: one per core. strict: only
    answers behind a marker count. questions: of the completions, where the texts of choices may
    stand for their letters.
    """
    verdicts = grade_with_reasons(
        task, completions, golds, workers, strict=strict, questions=questions
    )
    return verdicts == RIGHT


def grade_with_reasons(
    task: str,
    completions: Sequence[str],
    golds: Sequence[str],
    workers: int | None = None,
    *,
    strict: bool = False,
    questions: Sequence[str] = (),
) -> npt.NDArray[np.uint8]:
    """uint8[n]: the verdict on each completion, an index into VERDICTS; arguments as for `grade`.

    An answer is also unparseable if the grader cannot read its gold. Raises MaltError for an
    unknown task, and if math-verify is needed and missing.
    """
    if isinstance(completions, str) or isinstance(golds, str):
        raise TypeError("completions and golds must be sequences of texts, not a text")
    if len(completions) != len(golds):
        raise ValueError(f"{len(completions)} completions, but {len(golds)} golds")
    grader = grader_of(task)
    answers = _core.answers.extract_answers(grader, completions, strict, questions)
    gold = {text: gold_answer(grader, text) for text in dict.fromkeys(golds)}
    wanted = [gold[text] for text in golds]
    verdicts = _compare(grader, wanted, [answer or "" for answer in answers], workers)
    unreadable = {text for text, read in gold.items() if not _core.answers.can_read(grader, read)}
    if grader != "math":  # there math-verify reads more than the core
        verdicts[[text in unreadable for text in golds]] = UNPARSEABLE
    verdicts[[answer is None for answer in answers]] = NOTHING
    return verdicts


def grade_outputs(
    grader: str,
    completions: Sequence[str],
    golds: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    min_score: float = 0.5,
    *,
    strict: bool = False,
    questions: Sequence[str] = (),
    custom: CustomGrader | None = None,
) -> npt.NDArray[np.uint8]:
    """uint8[n]: the verdict on each output, an index into VERDICTS.

    A custom grader scores outputs by `rows`, the others compare them with `golds`. custom: how it
    is called; unset: one call after the other. Raises MaltError as CustomGrader.scores.
    """
    if not is_custom(grader):
        return grade_with_reasons(grader, completions, golds, strict=strict, questions=questions)
    scores = (custom or CustomGrader(grader)).scores(completions, rows)
    verdicts = np.where(scores >= min_score, RIGHT, WRONG)
    return np.where(np.isnan(scores), FAILED, verdicts).astype(np.uint8)


def gold_answer(grader: str, gold: str) -> str:
    """The marked answer in a gold that is a solution (a box, `#### 5`), else all of it."""
    boxed = grader == "math" and ("\\boxed" in gold or "\\fbox" in gold)
    marked = boxed or (grader == "number" and "####" in gold)
    return (_core.answers.extract_answers(grader, [gold])[0] or "") if marked else gold


def number_answers(
    task: str,
    completions: Sequence[Sequence[str | None]],
    workers: int | None = None,
    *,
    strict: bool = False,
    questions: Sequence[str] = (),
) -> npt.NDArray[np.int64]:
    """int64[questions, outputs]: equal answers of a row have equal numbers; -1: no answer.

    completions[question][output]: None if there is none. Two answers are compared as an answer and
    a gold are; the number is the index of the first output in the row that has the answer.
    """
    grader = _reader_of(task)
    asked = [*questions] or [""] * len(completions)
    if grader != "choice":
        asked = [""] * len(completions)  # a text that is said to several questions is read once
    said = list(
        dict.fromkeys(
            (text, question)
            for row, question in zip(completions, asked, strict=True)
            for text in row
            if text is not None
        )
    )
    answers = _core.answers.extract_answers(
        grader, [text for text, _ in said], strict, [question for _, question in said]
    )
    answer_of = dict(zip(said, answers, strict=True))
    rows = [
        [None if text is None else answer_of[text, question] for text in row]
        for row, question in zip(completions, asked, strict=True)
    ]
    distinct = [sorted({answer for answer in row if answer is not None}) for row in rows]
    pairs = list(dict.fromkeys(pair for row in distinct for pair in combinations(row, 2)))
    verdicts = _compare(grader, [a for a, _ in pairs], [b for _, b in pairs], workers)
    equal = {pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict == RIGHT}
    width = len(rows[0]) if rows else 0
    return np.array([_number(row, equal) for row in rows], np.int64).reshape(len(rows), width)


def _number(row: Sequence[str | None], equal: set[tuple[str, str]]) -> list[int]:
    """The number of each answer: that of the first answer it equals, or its own index."""
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
    """uint8[n]: an index into VERDICTS for each pair, by the core or else by math-verify."""
    results = _core.answers.compare_answers(grader, golds, answers)
    verdicts = np.where(results == EQUAL, RIGHT, WRONG).astype(np.uint8)
    unknown = {int(i): (golds[i], answers[i]) for i in np.flatnonzero(results == UNKNOWN)}
    pairs = sorted(set(unknown.values()))
    outcomes = symbolic.equal(pairs, workers or os.cpu_count() or 1)
    decided = dict(zip(pairs, outcomes, strict=True))
    for i, pair in unknown.items():
        verdicts[i] = SYMBOLIC[decided[pair]]
    return verdicts


# ---- which grader ----


def grader_of(task: str) -> str:
    """The grader of a task; the name of a grader means itself."""
    grader = OF_TASK.get(task, task)
    if grader not in GRADERS:
        hint = nearest(task, [*GRADERS, *OF_TASK])
        raise MaltError(f"there is no grader '{task}': {hint}")
    return grader


def _reader_of(task: str) -> str:
    """The grader that finds answers: `exact` for a custom one."""
    return "exact" if is_custom(task) else grader_of(task)
