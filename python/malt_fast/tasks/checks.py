"""Checks of a task's questions: unusual ones, copies of held-out ones, ids; and subsets."""

import hashlib
import logging
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

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

# Words of a question; a minus between letters is a hyphen, and `3-4` is not `3+4`.
WORD = re.compile(r"[^\W_]+|[+*/^=<>]|(?<![^\W\d_])-|-(?![^\W\d_])")
PUNCTUATION = re.compile(r"(?<!\d)[.,;:?\"']|[.,;:?\"'](?!\d)")  # not that of 3.5 and 12:30
RUN = 13  # words
SHARE = 1 / 3


def warn_of(report: "Report", total: int) -> None:
    """Log a warning for each kind of unusual question. total: number of all questions."""
    for kind, ids in report.items():
        if ids:
            warn(ids, f"{total:,} questions {MEANING[kind]}")


def warn(ids: Sequence[str], what: str) -> None:
    more = f" and {len(ids) - SHOWN:,} more" if len(ids) > SHOWN else ""
    if distributed.is_leader():
        log.warning(
            "%s of %s: %s%s", f"{len(ids):,}", what, printable(", ".join(ids[:SHOWN])), more
        )


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
    """The training questions to use, and the ids of copies of held-out ones."""
    ids = contaminated(train, test)
    if not ids:
        return train, ids
    what = f"{len(train):,} training questions are copies of held-out ones, or nearly so"
    if not leave_out:
        warn(ids, f"{what}; task.decontaminate would leave them out")
        return train, ids
    if len(ids) == len(train):
        raise MaltError(
            f"all {what}: give other held-out questions by --task.test_path, or set "
            "task.decontaminate to false"
        )
    warn(ids, f"{what}, and are left out (task.decontaminate)")
    copies = set(ids)
    return [q for q in train if q.id not in copies], ids


def contaminated(train: "Sequence[Question]", test: "Sequence[Question]") -> list[str]:
    """Ids of training questions that are copies of held-out ones, in time linear in the words.

    A copy has the same words as a held-out question, or at least a third of its words lie in runs
    of 13 words that held-out questions have, too.

    The share is needed because a single run may be a phrase. Of GSM8K's 7,473 training questions
    four share a run with the test set: three copy a test question with other names and numbers
    (0.76, 0.76 and 0.45 of their words), one only has a similar sentence (0.24: "the first movie is
    1 hour and 30 minutes long while ..."). Of CommonsenseQA's 9,741 one does, a copy (0.46).
    """
    same = {_key(q.text) for q in test}
    runs = {run for q in test for run in _runs(q.text)}
    return [q.id for q in train if _key(q.text) in same or _share(q.text, runs) >= SHARE]


def _words(text: str) -> list[str]:
    return WORD.findall(text.casefold())


def _key(text: str) -> str:
    """The text without case, white space and the punctuation of sentences, but with all signs."""
    return " ".join(PUNCTUATION.sub(" ", text.casefold()).split()) or text.strip()


def _runs(text: str) -> list[tuple[str, ...]]:
    """All runs of words in a text without its Asymptote drawings, which begin alike in MATH."""
    before, *drawings = text.split("[asy]")
    words = _words(" ".join([before, *(after.rpartition("[/asy]")[2] for after in drawings)]))
    return [tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)]


def _share(text: str, runs: set[tuple[str, ...]]) -> float:
    """The share of a text's words that lie in one of `runs`."""
    own = _runs(text)
    covered, end = 0, 0  # words covered, and the end of the last covered one
    for start, run in enumerate(own):
        if run in runs:
            covered += start + RUN - max(start, end)
            end = start + RUN
    return covered / (len(own) + RUN - 1) if own else 0.0


def subset(questions: "list[Question]", limit: int | None, seed: int | None) -> "list[Question]":
    """The first `limit` questions; with a seed those with the smallest hashes of their ids.

    A smaller subset of the same questions is the beginning of a larger one.
    """
    if seed is not None:
        questions = sorted(questions, key=lambda q: _hash(f"{seed}:{q.id}"))
    return questions[:limit]


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
