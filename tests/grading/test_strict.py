"""Strict grading: an answer counts only behind a marker, and is then the one of lenient grading."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malt_fast.grading import grade_report
from malt_fast.grading.verdicts import (
    GRADERS,
    NOTHING,
    RIGHT,
    WRONG,
    extract_answer,
    grade,
    grade_outputs,
    grade_with_reasons,
    number_answers,
)

MARKED = [
    ("number", "3 + 4 = 7\n#### 7", "7"),
    ("number", "#### 1,200", "1,200"),
    ("number", "Final Answer: 25", "25"),
    ("number", "**Final Answer:** 25", "25"),
    ("number", "Answer: 12 apples", "12"),
    ("number", "A: 18", "18"),
    ("number", "12 sides\nA: -18", "-18"),
    ("number", "So the answer is 9.", "9"),
    ("number", "the final answer is: $25", "$25"),
    ("number", r"It is \boxed{4}, of 5.", "4"),
    ("number", r"\fbox{7}", "7"),
    ("number", r"\boxed 2 it is", "2"),
    ("number", "<think>6</think><answer>5</answer>", "5"),
    ("number", "<answer>\n5\n</answer>", "5"),
    ("number", "<answer>There are 5 apples", "5 apples"),
    ("number", "<answer>\n2 + 3 = 5\nso\n#### 5\n</answer>", "5"),
    ("number", "The answer is 5. This answer is correct.", "5"),
    ("number", "答案是42", "42"),
    ("number", "So the answer to the question is 42, not 43.", "42"),
    ("number", "**The answer to this problem** is: 42", "42"),
    ("math", "The answer to your question is $x+1$.", "$x+1$"),
    ("choice", "The answer to the original question is (D).", "D"),
    ("choice", "Answer to the question: B", "B"),
    ("math", r"Hence \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
    ("math", "The answer is $x+1$.", "$x+1$"),
    ("math", "Final Answer:\n\\[\nx^2\n\\]", "x^2"),
    ("math", "#### $\\sqrt{2}$", r"$\sqrt{2}$"),
    ("math", "<answer>$(1,2)$</answer>", "(1,2)"),
    ("choice", "Final Answer: C", "C"),
    ("choice", "The answer is (b)", "B"),
    ("choice", "The correct option is D.", "D"),
    ("choice", "The best choice is (C) iron", "C"),
    ("choice", r"\boxed{\text{E}}", "E"),
    ("choice", "<answer>B</answer>", "B"),
    ("choice", "答案\uff1aC", "C"),
]
UNMARKED = [
    ("number", "42"),
    ("number", "the answer to life, the universe and everything is 42"),
    ("number", "what was said to the question is 42"),
    ("number", "it has 3 and then 4 legs"),
    ("number", "3 + 4 = 7"),
    ("number", "So there are $7$ of them."),
    ("number", "The result is 7."),
    ("number", "Thus x = 7"),
    ("number", "This answer is correct. 3 + 4 = 7."),
    ("number", "all in all 45 </answer>"),
    ("number", "<answer>\n3 + 4 = 7\nof 2 kinds\n</answer>"),
    ("number", "<think>the answer is 3</think>it is 4"),
    ("math", r"$\frac{1}{2}$"),
    ("math", "x^2 + 1"),
    ("math", "Hence\n\\[ x = 5 \\]"),
    ("math", "It follows that $n = 12$."),
    ("math", r"\(\sqrt{2}\)"),
    ("choice", "B"),
    ("choice", "(B)"),
    ("choice", "I think\n(A)"),
    ("choice", "(B) rainfall"),
    ("choice", "I'd pick B."),
    ("choice", "B is correct."),
]
NONE = [
    ("number", "no number"),
    ("number", "Final Answer: between 70 and 72"),
    ("number", r"so 5 and \boxed{5"),
    ("number", "The answer is not 5."),
    ("choice", "The answer is A or B"),
    ("choice", "whoever goes to the question is B"),
]


@pytest.mark.parametrize(("grader", "text", "answer"), MARKED)
def test_a_marked_answer_counts(grader: str, text: str, answer: str) -> None:
    lenient, strict = extract_answer(grader, text), extract_answer(grader, text, strict=True)
    assert lenient == strict
    assert grade(grader, [text], [answer], strict=True).all(), strict


@pytest.mark.parametrize(("grader", "text"), UNMARKED)
def test_an_unmarked_answer_does_not(grader: str, text: str) -> None:
    assert extract_answer(grader, text) is not None
    assert extract_answer(grader, text, strict=True) is None


@pytest.mark.parametrize(("grader", "text"), NONE)
def test_what_is_no_answer_is_none_in_either_grading(grader: str, text: str) -> None:
    assert extract_answer(grader, text) is extract_answer(grader, text, strict=True) is None


def test_exact_makes_no_difference() -> None:
    for text in ("new york", "Final Answer: new york", "a\nb"):
        assert extract_answer("exact", text) == extract_answer("exact", text, strict=True)


def test_custom_graders_make_no_difference() -> None:
    name, rows = f"{__name__}:is_five", [{}, {}]
    for strict in (False, True):
        verdicts = grade_outputs(name, ["5", "6"], ["", ""], rows, strict=strict)
        assert verdicts.tolist() == [RIGHT, WRONG]


def is_five(completion: str, row: dict) -> float:
    return float(completion == "5")


PIECES = ["A: ", "5", "\n", "The answer is ", "B", "<answer>", "</answer>", r"\boxed{7}", "#### "]


@given(st.lists(st.sampled_from([*PIECES, "not ", "correct. ", "$x$", " "]), max_size=8))
def test_strict_grading_finds_the_lenient_answer_or_none(pieces: list[str]) -> None:
    for grader in GRADERS:
        strict = extract_answer(grader, "".join(pieces), strict=True)
        assert strict is None or strict == extract_answer(grader, "".join(pieces))


def test_real_completions_end_with_a_marker(shared_data: Path) -> None:
    path = shared_data / "grading" / "gsm8k_openai_solutions.jsonl"
    data = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    got = grade("number", [r["prediction"] for r in data], [r["gold"] for r in data], strict=True)
    assert got.tolist() == [bool(r["expected"]) for r in data]


def test_votes_count_marked_answers_only() -> None:
    rows = [["A: 5", "it is 5", "#### 5.0", None]]
    assert number_answers("number", rows).tolist() == [[0, 0, 0, -1]]
    assert number_answers("number", rows, strict=True).tolist() == [[0, -1, 0, -1]]


@pytest.mark.parametrize("strict", [False, True])
def test_a_report_counts_what_either_grading_calls_right(strict: bool) -> None:
    texts = ["A: 5", "it is 5", "it is 6", "#### 6", "no idea", "5"]
    verdicts = grade_with_reasons("number", texts, ["5"] * 6, strict=strict)
    expected = [RIGHT, RIGHT, WRONG, WRONG, NOTHING, RIGHT]
    if strict:
        expected = [RIGHT, NOTHING, NOTHING, WRONG, NOTHING, NOTHING]
    assert verdicts.tolist() == expected
    one = grade_report.report("number", texts, ["5"] * 6, verdicts, strict=strict)
    assert one.figures()["right_if"] == {"strict": 1, "lenient": 3}
    assert (one + one).figures()["right_if"] == {"strict": 2, "lenient": 6}
    assert "right if strict 1, if lenient 3" in grade_report.sentence(one.figures())


@pytest.mark.parametrize("grader", ["exact", "my.module:score"])
def test_a_report_counts_only_once_where_there_is_no_difference(grader: str) -> None:
    figures = grade_report.report(grader, ["a"], ["a"], np.ones(1, np.uint8)).figures()
    assert "right_if" not in figures and "strict" not in grade_report.sentence(figures)
