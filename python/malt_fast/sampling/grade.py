"""Grades the leaves of a forest by the task's grader (grading/verdicts.py)."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from malt_fast import __version__
from malt_fast._core.forest import DONE, Forest
from malt_fast.grading.custom import code_of, is_custom
from malt_fast.grading.grade_report import GradeReport, report
from malt_fast.grading.verdicts import RIGHT, grade_outputs
from malt_fast.sampling.setup import Setup
from malt_fast.tasks.task import Question
from malt_fast.utils import interrupt

GRADED = 1 << 16  # outputs whose texts are in memory at once


def grading_fingerprint(setup: Setup, questions: Sequence[Question]) -> str:
    """Hash of everything the outcomes depend on, except the samples."""
    grader = setup.task.grader
    parts = [
        __version__,
        code_of(grader) if is_custom(grader) else grader,
        setup.config.task.min_score,
        setup.config.task.grading,
        [(question.text, question.gold, question.row) for question in questions],
    ]
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def grade_leaves(setup: Setup, forest: Forest, questions: Sequence[Question]) -> dict[str, Any]:
    """Set the outcome of every finished output of the last role; returns a report of verdicts."""
    leaves = np.flatnonzero((forest.level == len(setup.config.chain)) & (forest.state == DONE))
    trees = forest.roots()[leaves] // forest.tree_size
    grader, settings = setup.task.grader, setup.config.task
    total = GradeReport(grader)
    for begin in range(0, len(leaves), GRADED):
        some = leaves[begin : begin + GRADED]
        texts = [setup.prompts.decode(forest.tokens_of(int(leaf))) for leaf in some]
        asked = [questions[int(tree)] for tree in trees[begin : begin + GRADED]]
        golds, rows = [question.gold for question in asked], [question.row for question in asked]
        told = [question.text for question in asked]
        verdicts = grade_outputs(
            grader, texts, golds, rows, settings.min_score, strict=settings.strict, questions=told
        )
        forest.set_outcomes(some.astype(np.uint32), (verdicts == RIGHT).astype(np.uint8))
        total += report(grader, texts, golds, verdicts, strict=settings.strict, questions=told)
        interrupt.check()
    return total.figures()
