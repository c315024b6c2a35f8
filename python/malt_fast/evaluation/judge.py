"""Judges every output of an evaluation: its answer is extracted and graded, whatever its role.

Arrays are [questions, slots]. A failed output has no answer, and no answer is not right.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from malt_fast._core.forest import Forest
from malt_fast.grading.custom import CustomGrader
from malt_fast.grading.grade_report import report
from malt_fast.grading.verdicts import RIGHT, grade_outputs, number_answers
from malt_fast.sampling.expand import Slot, slot_nodes
from malt_fast.tasks.task import Question

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Judged:
    """The outputs of an evaluation, [questions, slots]."""

    answers: Ints  # equal answers to a question have equal numbers; -1: no answer
    right: Bools
    tokens: Ints  # sampled
    grading: dict[int, dict[str, Any]] = field(default_factory=dict)  # report by prompt number


def judge(
    forest: Forest,
    shape: Sequence[Slot],
    questions: Sequence[Question],
    decode: Callable[[Any], str],
    grader: str,
    min_score: float = 0.5,
    strict: bool = False,
    custom: CustomGrader | None = None,
) -> Judged:
    """Extract and grade all outputs. min_score: the score of a custom grader that is right; strict:
    whether answers count only behind a marker; custom: how a custom grader is called. An output on
    which that fails is not right."""
    nodes = slot_nodes(forest, shape)
    places = rows, columns = np.nonzero(nodes >= 0)
    ids = nodes[places]
    texts = [decode(forest.tokens_of(int(i))) for i in ids]
    verdicts = grade(grader, texts, rows.tolist(), questions, min_score, strict, custom)
    right, tokens = np.zeros(nodes.shape, np.bool_), np.zeros(nodes.shape, np.int64)
    right[places], tokens[places] = verdicts == RIGHT, forest.token_len[ids]
    said: list[list[str | None]] = [[None] * len(shape) for _ in questions]
    for q, slot, text in zip(rows, columns, texts, strict=True):
        said[q][slot] = text
    prompts, grading = np.array([slot.role for slot in shape])[columns], {}
    for number in np.unique(prompts).tolist():
        own = np.flatnonzero(prompts == number)
        asked = [questions[q] for q in rows[own]]
        grading[number] = report(
            grader,
            [texts[i] for i in own],
            [question.gold for question in asked],
            verdicts[own],
            strict=strict,
            questions=[question.text for question in asked],
        ).figures()
    numbers = number_answers(grader, said, strict=strict, questions=[q.text for q in questions])
    return Judged(numbers, right, tokens, grading)


def grade(
    grader: str,
    texts: Sequence[str],
    rows: Sequence[int],
    questions: Sequence[Question],
    min_score: float,
    strict: bool,
    custom: CustomGrader | None,
) -> npt.NDArray[np.uint8]:
    """uint8[n]: the verdict on texts[i] for questions[rows[i]]; a repeated text is graded once."""
    cases = list(zip(texts, rows, strict=True))
    distinct = dict.fromkeys(cases)
    asked = [questions[q] for _, q in distinct]
    verdicts = grade_outputs(
        grader,
        [text for text, _ in distinct],
        [question.gold for question in asked],
        [question.row for question in asked],
        min_score,
        strict=strict,
        questions=[question.text for question in asked],
        custom=custom,
    )
    verdict = dict(zip(distinct, verdicts.tolist(), strict=True))
    return np.array([verdict[case] for case in cases], np.uint8)
