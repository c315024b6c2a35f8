"""Grades the leaves of a forest by the task's grader (grading/verdicts.py)."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from malt_fast import __version__
from malt_fast._core.forest import DONE, UNGRADED, Forest
from malt_fast.grading.calls import Limits
from malt_fast.grading.custom import CustomGrader, code_of, is_custom
from malt_fast.grading.grade_report import GradeReport, report
from malt_fast.grading.verdicts import FAILED, RIGHT, grade_outputs
from malt_fast.sampling.setup import Setup
from malt_fast.sampling.signs import Warn
from malt_fast.tasks.task import Question
from malt_fast.utils import interrupt

SCORES = "scores.txt"  # of a custom grader, in a run's folder
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


def custom_grader(setup: Setup, run: Path | None = None) -> CustomGrader | None:
    """The task's grader if it is custom; its scores are kept in the run's folder, and those of runs
    whose samples are reused count, too."""
    task, grader = setup.config.task, setup.task.grader
    if not is_custom(grader):
        return None
    limits = Limits(task.grader_workers, task.grader_retries, task.grader_timeout)
    others = [Path(other) / SCORES for other in setup.config.reuse]
    return CustomGrader(grader, limits, run and run / SCORES, others)


def warn_of_failures(custom: CustomGrader | None, warn: Warn) -> None:
    if custom and custom.failed:
        warn(
            f"the grader failed on {custom.failed:,} outputs, which are left out; the first time: "
            f"{next(iter(custom.failures.values()))}",
            "failed grader",
        )


def grade_leaves(
    setup: Setup,
    forest: Forest,
    questions: Sequence[Question],
    custom: CustomGrader | None = None,
) -> dict[str, Any]:
    """Set the outcome of every leaf, as set_outcomes does; returns a report of verdicts."""
    total = GradeReport(setup.task.grader)
    for part in set_outcomes(setup, forest, questions, custom):
        total += report(
            setup.task.grader,
            part.texts,
            part.golds,
            part.verdicts,
            strict=setup.config.task.strict,
            questions=part.questions,
        )
    return total.figures()


@dataclass(frozen=True)
class GradedPart:
    """Some graded outputs, with what they were graded by."""

    texts: list[str]
    golds: list[str]
    questions: list[str]
    verdicts: npt.NDArray[np.uint8]


def set_outcomes(
    setup: Setup,
    forest: Forest,
    questions: Sequence[Question],
    custom: CustomGrader | None = None,
    *,
    again: bool = True,
) -> Iterator[GradedPart]:
    """Set the outcome of every finished output of the last role, part by part.

    again: of those that have one, too. custom: how a custom grader is called. An output on which it
    fails has no outcome.
    """
    last = len(setup.config.chain)
    finished = (forest.level == last) & (forest.state == DONE)
    leaves = np.flatnonzero(finished if again else finished & (forest.outcome == UNGRADED))
    trees = forest.roots()[leaves] // forest.tree_size
    grader, settings = setup.task.grader, setup.config.task
    custom = custom or custom_grader(setup)
    for begin in range(0, len(leaves), GRADED):
        some = leaves[begin : begin + GRADED]
        texts = [setup.prompts.reply(last, forest.tokens_of(int(leaf))) for leaf in some]
        asked = [questions[int(tree)] for tree in trees[begin : begin + GRADED]]
        golds, rows = [question.gold for question in asked], [question.row for question in asked]
        told = [question.text for question in asked]
        verdicts = grade_outputs(
            grader,
            texts,
            golds,
            rows,
            settings.min_score,
            strict=settings.strict,
            questions=told,
            custom=custom,
        )
        graded = verdicts != FAILED
        outcomes = (verdicts[graded] == RIGHT).astype(np.uint8)
        forest.set_outcomes(some[graded].astype(np.uint32), outcomes)
        yield GradedPart(texts, golds, told, verdicts)
        interrupt.check()
