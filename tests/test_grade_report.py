"""The report of what was graded: counts, the core's share, and a second opinion."""

import numpy as np
import pytest

from malt_fast import grade_report, symbolic
from malt_fast.grading import grade_with_reasons


def test_counts_and_shares() -> None:
    texts = ["A: 5", "A: 6", "no idea", "A: 5"]
    verdicts = grade_with_reasons("number", texts, ["5"] * 4)
    told = grade_report.report("number", texts, ["5"] * 4, verdicts)
    assert told["outputs"] == 4 and told["decided_by_core"] == 1
    assert {key: n for key, n in told["verdicts"].items() if n} == {
        "wrong": 1,
        "right": 2,
        "nothing extracted": 1,
    }
    assert "disagreements" not in told  # only mathematics has a second opinion
    assert grade_report.sentence(told) == "graded: 1 wrong, 2 right, 1 nothing extracted"
    empty = grade_report.report("number", [], [], np.zeros(0, np.uint8))
    assert empty["outputs"] == 0 and grade_report.sentence(empty) == "graded: nothing"


def test_a_second_opinion_on_mathematics(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [rf"\boxed{{{i}}}" for i in range(60)] + [r"\boxed{\sqrt{x^2}}", ""]
    golds = ["7"] * 60 + ["x", "7"]
    verdicts = grade_with_reasons("math", texts, golds)
    told = grade_report.report("math", texts, golds, verdicts)
    assert told["checked_by_math_verify"] == grade_report.SAMPLE
    assert told["disagreements"] == []
    assert told["decided_by_core"] == pytest.approx(61 / 62)
    monkeypatch.setattr(symbolic, "equal", lambda pairs, workers: ["equal"] * len(pairs))
    told = grade_report.report("math", texts, golds, verdicts)
    assert len(told["disagreements"]) >= grade_report.SAMPLE - 2
    assert told["disagreements"][0]["ours"] is False
    assert f"of {grade_report.SAMPLE}" in grade_report.sentence(told)


def test_a_grader_of_ones_own_is_only_counted() -> None:
    told = grade_report.report("my.module:score", ["a", "b"], ["", ""], np.array([1, 0], np.uint8))
    assert told == {"outputs": 2, "verdicts": told["verdicts"]}
    assert told["verdicts"]["right"] == told["verdicts"]["wrong"] == 1
