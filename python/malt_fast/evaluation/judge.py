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
from malt_fast.grading.grade_report import GradeReport, report
from malt_fast.grading.verdicts import RIGHT, grade_outputs, number_answers
from malt_fast.sampling.expand import Slot, slot_nodes
from malt_fast.sampling.grade import GRADED
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
    reply: Callable[[int, Any], str],
    grader: str,
    min_score: float = 0.5,
    strict: bool = False,
    custom: CustomGrader | None = None,
) -> Judged:
    """Extract and grade all outputs, GRADED at a time. reply: the text that is graded, by number of
    the prompt and tokens; min_score: the score of a custom grader that is right; strict: whether
    answers count only behind a marker; custom: how a custom grader is called. An output on which
    that fails is not right."""
    nodes = slot_nodes(forest, shape)
    numbers = np.array([slot.role for slot in shape])
    judged = Judged(
        np.full(nodes.shape, -1), np.zeros(nodes.shape, np.bool_), np.zeros(nodes.shape, np.int64)
    )
    reports = {number: GradeReport(grader) for number in np.unique(numbers).tolist()}
    size = max(1, GRADED // len(shape))
    for begin in range(0, len(questions), size):
        some = questions[begin : begin + size]
        part = nodes[begin : begin + size]
        rows, columns = np.nonzero(part >= 0)
        ids, prompts = part[rows, columns], numbers[columns]
        texts = [
            reply(number, forest.tokens_of(int(i)))
            for number, i in zip(prompts.tolist(), ids, strict=True)
        ]
        verdicts = grade(grader, texts, rows.tolist(), some, min_score, strict, custom)
        judged.right[begin + rows, columns] = verdicts == RIGHT
        judged.tokens[begin + rows, columns] = forest.token_len[ids]
        said: list[list[str | None]] = [[None] * len(shape) for _ in some]
        for q, slot, text in zip(rows, columns, texts, strict=True):
            said[q][slot] = text
        asked = [question.text for question in some]
        judged.answers[begin : begin + size] = number_answers(
            grader, said, strict=strict, questions=asked
        )
        for number in np.unique(prompts).tolist():
            own = np.flatnonzero(prompts == number)
            reports[number] += report(
                grader,
                [texts[i] for i in own],
                [some[q].gold for q in rows[own]],
                verdicts[own],
                strict=strict,
                questions=[some[q].text for q in rows[own]],
            )
    judged.grading.update({number: one.figures() for number, one in reports.items()})
    return judged


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
