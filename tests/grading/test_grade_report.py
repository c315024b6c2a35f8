"""The report of what was graded: counts, the core's share, and a second opinion."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malt_fast.grading import grade_report, symbolic
from malt_fast.grading.grade_report import GradeReport
from malt_fast.grading.verdicts import GRADERS, grade_with_reasons


def test_counts_and_shares() -> None:
    texts = ["A: 5", "A: 6", "no idea", "A: 5"]
    verdicts = grade_with_reasons("number", texts, ["5"] * 4)
    figures = grade_report.report("number", texts, ["5"] * 4, verdicts).figures()
    assert figures["outputs"] == 4 and figures["decided_by_core"] == 1
    assert {key: n for key, n in figures["verdicts"].items() if n} == {
        "wrong": 1,
        "right": 2,
        "nothing extracted": 1,
    }
    assert "disagreements" not in figures  # only mathematics has a second opinion
    counts = "graded: 1 wrong, 2 right, 1 nothing extracted"
    assert grade_report.sentence(figures) == counts


def test_a_second_opinion_on_mathematics(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [rf"\boxed{{{i}}}" for i in range(60)] + [r"\boxed{\sqrt{x^2}}", ""]
    golds = ["7"] * 60 + ["x", "7"]
    verdicts = grade_with_reasons("math", texts, golds)
    figures = grade_report.report("math", texts, golds, verdicts).figures()
    assert figures["checked_by_math_verify"] == grade_report.SAMPLE
    assert figures["disagreements"] == []
    assert figures["decided_by_core"] == pytest.approx(61 / 62)
    monkeypatch.setattr(symbolic, "equal", lambda pairs, workers: ["equal"] * len(pairs))
    figures = grade_report.report("math", texts, golds, verdicts).figures()
    assert len(figures["disagreements"]) >= grade_report.SAMPLE - 2
    assert figures["disagreements"][0]["ours"] is False
    assert f"of {grade_report.SAMPLE}" in grade_report.sentence(figures)


def test_a_grader_of_ones_own_is_only_counted() -> None:
    verdicts = np.array([1, 0], np.uint8)
    figures = grade_report.report("my.module:score", ["a", "b"], ["", ""], verdicts).figures()
    assert figures == {"outputs": 2, "verdicts": figures["verdicts"]}
    assert figures["verdicts"]["right"] == figures["verdicts"]["wrong"] == 1


@pytest.mark.parametrize("grader", [*GRADERS, "my.module:score"])
def test_a_report_of_nothing_is_a_report(grader: str) -> None:
    nothing = grade_report.report(grader, [], [], np.zeros(0, np.uint8))
    assert nothing == GradeReport(grader)
    one = grade_report.report(grader, ["A"], ["A"], np.ones(1, np.uint8))
    assert nothing + one == one + nothing == one
    assert nothing.figures().keys() == one.figures().keys()
    assert grade_report.sentence(nothing.figures()) == "graded: nothing"


OUTPUTS = st.lists(
    st.tuples(st.sampled_from(["1", "A: 2", "B", "", "?", r"\boxed{\frac919}"]), st.just("1")),
    max_size=12,
)


@given(st.sampled_from([*GRADERS, "my.module:score"]), OUTPUTS, st.lists(st.integers(0, 12)))
def test_reports_of_parts_add_up_to_the_report_of_the_whole(
    grader: str, outputs: list[tuple[str, str]], cuts: list[int]
) -> None:
    """Up to pairs of which several parts get a second opinion: these count once for each part."""
    texts, golds = [text for text, _ in outputs], [gold for _, gold in outputs]
    custom = ":" in grader
    verdicts = grade_with_reasons("exact" if custom else grader, texts, golds)
    if grader == "math":
        verdicts ^= verdicts < 2  # right for wrong, so that math-verify disagrees
    whole = grade_report.report(grader, texts, golds, verdicts)
    edges = [0, *sorted(cuts), len(outputs)]
    total = GradeReport(grader)
    for begin, end in pairwise(edges):
        part = slice(begin, max(begin, end))
        total += grade_report.report(grader, texts[part], golds[part], verdicts[part])
    assert (total.verdicts, total.decided) == (whole.verdicts, whole.decided)
    assert (total.strict, total.lenient) == (whole.strict, whole.lenient)
    assert total.checked >= whole.checked
    assert {str(one) for one in total.disagreements} == {str(one) for one in whole.disagreements}
    assert total.figures().keys() == whole.figures().keys()
