"""Checks of a task's questions: unusual ones, copies of held-out ones, ids; and subsets."""

import hashlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from malt_fast.tasks.contamination import contaminated
from malt_fast.utils import distributed
from malt_fast.utils.errors import MaltError, printable

if TYPE_CHECKING:
    from malt_fast.tasks.task import Question, Report

log = logging.getLogger(__name__)

MEANING = {  # of each kind in a report
    "no gold": "have no gold answer, or an empty one, and are left out",
    "several boxes": "have several boxes in their solution: the last one is the gold answer",
    "unreadable gold": "have a gold answer that the grader cannot read: only a copy of it is right",
    "another box": "have a box that differs from `answer`, which is the gold",
}
SHOWN = 10  # ids in a warning
MOST = 1 / 5  # of the training questions that may be left out as copies


def warn_of(report: "Report", total: int) -> None:
    """Log a warning for each kind of unusual question. total: number of all questions."""
    for kind, ids in report.items():
        if ids:
            warn(ids, f"{total:,} questions {MEANING[kind]}")


def warn(ids: Sequence[str], what: str) -> None:
    if distributed.is_leader():
        log.warning("%s of %s: %s", f"{len(ids):,}", what, _first(ids))


def _first(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - SHOWN:,} more" if len(ids) > SHOWN else ""
    return printable(", ".join(ids[:SHOWN])) + more


def check_ids(train: "Sequence[Question]", test: "Sequence[Question]") -> None:
    both = {q.id for q in train} & {q.id for q in test}
    if both:
        raise MaltError(
            f"the id '{min(both)}' is in both the training and the held-out questions: "
            "make ids unique, or leave --task.id_column out"
        )


def decontaminate(
    train: "list[Question]", test: "Sequence[Question]", leave_out: bool
) -> "tuple[list[Question], list[str]]":
    """The training questions to use, and the ids of copies of held-out ones.

    leave_out: whether copies are left out. Raises MaltError if these are more than a fifth.
    """
    ids = contaminated(train, test)
    if not ids:
        return train, ids
    what = f"{len(train):,} training questions are copies of held-out ones, or nearly so"
    if not leave_out:
        warn(ids, f"{what}; task.decontaminate would leave them out")
        return train, ids
    if len(ids) > MOST * len(train):
        raise MaltError(
            f"{len(ids):,} of {what} ({_first(ids)}): give other held-out questions by "
            "--task.test_path FILE, or train on the copies, too, by --task.decontaminate false"
        )
    warn(ids, f"{what}, and are left out (task.decontaminate)")
    copies = set(ids)
    return [q for q in train if q.id not in copies], ids


def subset(questions: "list[Question]", limit: int | None, seed: int | None) -> "list[Question]":
    """The first `limit` questions; with a seed those with the smallest hashes of their ids.

    A smaller subset of the same questions is the beginning of a larger one.
    """
    if seed is not None:
        questions = sorted(questions, key=lambda q: _hash(f"{seed}:{q.id}"))
    return questions[:limit]


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
