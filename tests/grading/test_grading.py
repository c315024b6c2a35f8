"""Grading: real completions with known verdicts, conventions, and hostile text."""

import json
import string
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malt_fast import _core
from malt_fast.grading.verdicts import (
    GRADERS,
    NOTHING,
    RIGHT,
    WRONG,
    answers_equal,
    can_read,
    extract_answer,
    grade,
    grade_outputs,
    grade_with_reasons,
    number_answers,
)
from malt_fast.utils.errors import MaltError


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_published_gsm8k_solution(shared_data: Path) -> None:
    solutions, golds, expected = [], [], []
    for row in rows(shared_data / "gsm8k" / "example_model_solutions.jsonl"):
        for key, value in row.items():
            if key not in ("question", "ground_truth"):
                solutions.append(value["solution"])
                golds.append(row["ground_truth"].rpartition("A:")[2].strip())
                expected.append(value["is_correct"])
    assert len(solutions) == 5276
    assert grade("number", solutions, golds).tolist() == expected


@pytest.mark.parametrize(
    ("name", "share"), [("gsm8k_openai_solutions", 1.0), ("gsm8k_tora", 0.998)]
)
def test_labelled_completions(shared_data: Path, name: str, share: float) -> None:
    data = rows(shared_data / "grading" / f"{name}.jsonl")
    got = grade("number", [r["prediction"] for r in data], [r["gold"] for r in data])
    expected = np.array([r["expected"] for r in data], bool)
    assert (got == expected).mean() >= share
    assert not (got & ~expected).any()  # never calls a wrong answer right


class MadeOnDemand:
    """A sequence by __len__ and __getitem__ alone; nothing else holds its items."""

    def __init__(self, items: list[str]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, at: int) -> str:
        return "".join(list(self.items[at]))


@pytest.mark.parametrize("made", [np.array, MadeOnDemand])
def test_sequences_that_make_their_items(made: Callable[[list[str]], Sequence[str]]) -> None:
    numbers = [str(n) for n in range(100_000, 102_000)]
    assert grade("number", made([f"Answer: {n}" for n in numbers]), made(numbers)).all()
    questions = [f"Where?\nA: {n}\nB: {n}0" for n in numbers]
    said = made([f"The answer is {n}0." for n in numbers])
    found = _core.answers.extract_answers("choice", said, False, made(questions))
    assert found == ["B"] * len(numbers)
    compared = _core.answers.compare_answers("number", made(numbers), made(numbers))
    assert compared.all()


def test_hostile_answers(shared_data: Path) -> None:
    for row in rows(shared_data / "grading" / "adversarial.jsonl"):
        for grader in GRADERS:
            right = grade(grader, [row["prediction"]], [row["gold"]])
            assert not (right.any() and row["expected"] == 0), row["id"]


def test_every_gsm8k_gold_is_a_number(shared_data: Path) -> None:
    for name in ("train", "test"):
        for row in rows(shared_data / "gsm8k" / f"{name}.jsonl"):
            assert can_read("number", row["answer"].rpartition("####")[2].strip())


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Final Answer: 25", "25"),
        ("Final Answer: Final Answer: 125", "125"),
        ("Final Answer: 1 ... so\nFinal Answer: 2", "2"),
        ("**Final Answer:** 25", "25"),
        ("**Final Answer**: 25 apples", "25"),
        ("the final answer is: $25", "25"),
        ("Final Answer:\n\n  25\nbecause of 3", "25"),
        ("Final Answer: $1,234,567.50 per year", "2469135/2"),
        ("Final Answer: 5 * 3 = 15 apples", "15"),
        ("A: 18", "18"),
        ("12 sides\nA: -18", "-18"),
        ("#### 5,600", "5600"),
        ("#### 18.0", "18"),
        ("#### 72 clips", "72"),
        ("#### 5 Conclude\nFinal Answer: 7", "7"),
        ("#### Step 5\nIt is 7", "7"),
        ("Final Answer: 3 is wrong, so\n#### 4", "4"),
        (r"Final Answer: 3 or \boxed{4}", "4"),
        (r"\boxed{1} but in fact \boxed{2}", "2"),
        (r"\boxed 2 it is", "2"),
        (r"\fbox{7}", "7"),
        (r"\boxed{\$1{,}200}", "1200"),
        (r"\boxed{11,\!111}", "11111"),
        (r"\boxed{40.0\%}", "40"),
        (r"\boxed{\dfrac{6}{4}}", "3/2"),
        (r"\boxed{72^\circ}", "72"),
        (r"\boxed{10\text{ cm}^2}", "10"),
        (r"\boxed{10cm}", "10"),
        (r"\boxed{x = 5}", "5"),
        (r"\boxed{{5}}", "5"),
        ("it has 3 and then 4 legs", "4"),
        ("costs $-5", "-5"),
        ("10-5", "5"),
        ("\u22125", "-5"),
        ("\uff15", "5"),  # a full-width digit is that digit
        (".5", "1/2"),
        ("it is 5.", "5"),
        (" 85 66 91 55 69", "69"),
        # No answer: part of a formula, malformed, or not a number.
        ("no number", None),
        ("", None),
        ("Final Answer:", None),
        ("Final Answer: none\n", None),
        ("Final Answer: 72 clips (48 in April and 24 in May)", "72"),
        ("Final Answer: between 70 and 72", None),
        ("Final Answer: more than 72", None),
        ("Final Answer: 18 thousand", "18000"),
        ("Final Answer: 3:1", None),
        ("Final Answer: 10-15", "-5"),
        ("Final Answer: 1 1/2", "3/2"),
        ("Final Answer: 5 and 6", None),
        ("Final Answer: 12,34", None),
        ("Final Answer: 5\u00bd", "11/2"),
        ("Final Answer: 2x", None),
        (r"\boxed{10^{10^{10}}}", None),
        (r"\boxed{3\sqrt{2}}", None),
        (r"\boxed{\sqrt{2}}", None),
        (r"\boxed{\tan(90^\circ)}", None),
        (r"\boxed{1/0}", None),
        (r"\boxed{\frac{1}{0}}", None),
        (r"\boxed{}", None),
        (r"so 5 and \boxed{5", None),
        (r"\boxed{nan}", None),
        (r"\boxed{5, 6}", None),
        (r"\boxed{1e5}", "1e5"),
    ],
)
def test_number(text: str, answer: str | None) -> None:
    found = extract_answer("number", text)
    assert (found is None) == (answer is None)
    assert found is None or answers_equal("number", found, answer or "")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Final Answer: C", "C"),
        ("Final Answer: (c)", "C"),
        ("Final Answer: **B) bank**", "B"),
        ("Final Answer: the correct answer is D.", "D"),
        (r"\boxed{\text{E}}", "E"),
        ("I think\n(A)", "A"),
        ("a\nb.\n", "B"),
        ("Final Answer: A or B", None),
        ("Final Answer: either A or B", None),
        ("Final Answer: b) bank", "B"),
        ("Final Answer: B, a bank", "B"),
        ("So the answer is (C), not B.", "C"),
        ("The answer is A, B or C", None),
        ("Answer: B C", None),
        ("Answer: B & C", None),
        ("Answer: (B) bank and (C) cat", None),
        ("Answer: B, but C is also possible", None),
        ("Answer: B is incorrect", None),
        ("Answer: A dog", None),
        ("Answer: A. A dog", "A"),
        ("Answer: C) vitamin C", "C"),
        ("Answer: (C) plan B.", "C"),
        ("The correct option is B.", "B"),
        ("Final Answer: a bank", None),
        ("Final Answer: bank", None),
        ("It is A because", None),
        ("", None),
    ],
)
def test_choice(text: str, answer: str | None) -> None:
    assert extract_answer("choice", text) == answer
    assert answer is None or answers_equal("choice", answer, f"({answer.lower()})")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Final Answer:  new   york ", "new york"),
        ("new\nyork", "new york"),
        (r"\boxed{a {b}}", "a {b}"),
        (" \n", None),
        (r"\boxed{ }", None),
    ],
)
def test_exact(text: str, answer: str | None) -> None:
    assert extract_answer("exact", text) == answer


def test_grade_compares_with_the_gold() -> None:
    got = grade("number", ["A: 5,600.0", "A: 5601", "none", "A: 1/2"], ["5600", "5600", "1", "0.5"])
    assert got.dtype == np.bool_ and got.tolist() == [True, False, False, True]
    assert grade("number", [], []).shape == (0,)
    assert grade("choice", ["Final Answer: c"], ["C"]).all()
    assert not grade("exact", ["C"], ["c"]).any()
    assert not grade("number", [r"\boxed{}"], [""]).any()  # an empty answer is never right
    with pytest.raises(ValueError, match="1 completions, but 0 golds"):
        grade("number", ["1"], [])


@given(
    st.fractions(-(10**17), 10**17, max_denominator=10**17),  # both parts below 36 digits
    st.sampled_from(["A: {}", "Final Answer: {} km", r"\boxed{{{}}}", "is {}"]),
)
def test_numbers_come_back(value: Fraction, form: str) -> None:
    found = extract_answer("number", form.format(value))
    assert found is not None and answers_equal("number", found, str(value))
    assert not answers_equal("number", found, str(value + 1))
    assert can_read("number", str(value))


@given(st.integers(-(10**12), 10**12))
def test_thousands_separators(value: int) -> None:
    assert extract_answer("number", f"#### {value:,}") == f"{value:,}"
    assert grade("number", [f"#### {value:,}"], [str(value)]).all()


WORDS = [r"\boxed{", r"\text{", r"\frac{1}{2}", "Final Answer:", "A:", "####", "or"]
PIECES = [*WORDS, *string.printable, "\u00b2", "\ud800", "\u0667"]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_no_text_raises(text: str) -> None:
    for grader in GRADERS:
        answer = extract_answer(grader, text)
        assert answer is None or answer.strip()
        assert grade_with_reasons(grader, [text], ["A"], workers=1)[0] in range(5)


UNITS = ["1", "-", "{", "$", "1,", ",111", ".1", "9/", "*_", " ", "1 ", "a\n", "5ab\\"]


@pytest.mark.parametrize("unit", [*WORDS, *UNITS, "\\box ", "final answer", "\\frac{1}{"])
def test_scans_are_linear(unit: str) -> None:
    """Half a megabyte of any repeated piece is done at once; a quadratic scan would take hours."""
    for grader in GRADERS:
        extract_answer(grader, f"Final Answer: 5{unit * 50_000}\nA:" + unit * 50_000)
        extract_answer(grader, unit * (500_000 // len(unit)))
        extract_answer(grader, f"Final Answer: 5{unit * 100_000}")


@pytest.mark.parametrize(
    "text",
    [
        "####" * 40_000 + " \nx" + " " * 90_000,
        "####a\n" * 20_000 + "x" + "." * 130_000,
        "#" * 260_000 + "\nx",
        "So," * 60_000 + "$x$",
        "$\\$" * 80_000,
    ],
    ids=["signs", "lines", "one line", "leads", "escaped"],
)
def test_scans_of_many_markers(text: str) -> None:
    begin = time.process_time()
    for grader in GRADERS:
        extract_answer(grader, text)
    assert time.process_time() - begin < 2  # quadratic ones took 0.4 to 40 s


def test_unknown_grader() -> None:
    with pytest.raises(MaltError, match=r"did you mean 'number'\?"):
        grade("numbr", ["1"], ["1"])


# ---- reasons, votes, graders of one's own ----


def test_reasons_tell_wrong_from_nothing() -> None:
    verdicts = grade_with_reasons("gsm8k", ["A: 5", "A: 6", "no idea", ""], ["5"] * 4)
    assert verdicts.tolist() == [RIGHT, WRONG, NOTHING, NOTHING]
    assert grade_with_reasons("csqa", ["A", "the answer is (b)"], ["A", "A"]).tolist() == [1, 0]


def test_equal_answers_have_one_number() -> None:
    rows = [
        ["A: 1/2", "A: 0.5", None, "A: 2", "none", r"\boxed{\frac12}"],
        ["A: 2", "A: 2.0", "A: 2", "A: 2", "A: 3", None],
    ]
    for grader in ("number", "math"):
        numbers = number_answers(grader, [[*row[:4], "", row[5]] for row in rows])
        assert numbers.tolist() == [[0, 0, -1, 3, -1, 0], [0, 0, 0, 0, -1, -1]]
    assert number_answers("choice", [["A", "(a)", "B"]]).tolist() == [[0, 0, 2]]
    assert number_answers("exact", [["a b", "a  b", "A b"]]).tolist() == [[0, 0, 2]]
    assert number_answers("number", []).shape[0] == 0
    assert number_answers("number", [[], []]).shape == (2, 0)


@given(st.lists(st.sampled_from(["1", "1.0", "2/2", "2", "4/2", "x", ""]), max_size=8))
def test_numbers_of_answers_do_not_depend_on_their_order(texts: list[str]) -> None:
    value = {"1": 1, "1.0": 1, "2/2": 1, "2": 2, "4/2": 2}
    numbers = number_answers("number", [texts])[0].tolist()
    for i, text in enumerate(texts):
        assert (numbers[i] < 0) == (text not in value)
        for j, other in enumerate(texts):
            if text in value and other in value:
                assert (numbers[i] == numbers[j]) == (value[text] == value[other])


def length_score(completion: str, row: dict) -> float:
    """A grader of one's own, as a user writes it."""
    return len(completion) / row["longest"]


def test_a_custom_score_is_right_from_min_score_on() -> None:
    grader, texts, rows = f"{__name__}:length_score", ["ab", "abcd", "a"], [{"longest": 4}] * 3
    verdicts = grade_outputs(grader, texts, ["ignored"] * 3, rows, min_score=0.5)
    assert verdicts.tolist() == [RIGHT, RIGHT, WRONG]
