"""Grading: answers found in completions, compared with gold answers, and reported."""

from malt_fast.grading.verdicts import (
    answers_equal,
    can_read,
    extract_answer,
    grade,
    grade_with_reasons,
)

__all__ = ["answers_equal", "can_read", "extract_answer", "grade", "grade_with_reasons"]
