"""
Answers found in completions and compared.
"""

from __future__ import annotations

import collections.abc

import numpy
import numpy.typing

__all__: list[str] = ["can_read", "compare_answers", "extract_answers"]

def can_read(grader: str, gold: str) -> bool:
    """
    Whether the grader can read a gold answer, so that answers can be compared with it.
    """

def compare_answers(
    grader: str, golds: collections.abc.Sequence[str], answers: collections.abc.Sequence[str]
) -> numpy.typing.NDArray[numpy.uint8]:
    """
    Compare each answer with its gold answer.

    Returns [n]: 0 different, 1 equal, 2 undecided.
    """

def extract_answers(
    grader: str,
    completions: collections.abc.Sequence[str],
    strict: bool = False,
    questions: collections.abc.Sequence[str] = (),
) -> list[str | None]:
    """
    Find the answer that each completion gives; None where it gives none.

    strict: only behind a marker of a final answer; for the grader exact it makes no difference.
    questions: of the completions, or none; for the grader choice the text of a choice
    that its question lists stands for its letter.
    """
