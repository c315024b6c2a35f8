"""The text of a choice as an answer: found as its letter, and never where something contradicts."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malt_fast import _core
from malt_fast.grading import extract_answer, grade, grade_report
from malt_fast.grading.verdicts import NOTHING, RIGHT, grade_with_reasons, number_answers

PLACES = "Where are books?\nA: bank\nB: library\nC: book store\nD: store\nE: under the bed"
NUMBERS = "How many?\n(A) 3\n(B) 30\n(C) -5\n(D) 3.5\n(E) 5%"

NAMED = [
    ("The answer is library.", "B"),
    ("So, the answer: the library", "B"),
    ("The answer is the Library!", "B"),
    ("Final Answer: a library.", "B"),
    ("**Answer:** *library*", "B"),
    ('Answer: "library"', "B"),
    ("The answer is in the library", "B"),
    ("The answer is most likely the library", "B"),
    ("The answer is library, because it lends books", "B"),
    ("The answer is library, because a bank lends money", "B"),
    ("The answer is library, not bank", "B"),
    ("The answer is not library but bank", "A"),
    ("The answer is a bank", "A"),
    ("The answer is book store", "C"),
    ("The answer is the store.", "D"),
    ("The answer is under the bed.", "E"),
    ("The answer is library (B)", "B"),
    ("The answer is library. This answer is correct.", "B"),
    ("The answer is bank. The answer is library.", "B"),
    (r"\boxed{library}", "B"),
    (r"So it is \boxed{\text{book store}}.", "C"),
    ("<think>bank</think><answer>library</answer>", "B"),
    ("Books are lent there.\nlibrary", "B"),
    ("Books are lent there.\n**The library.**", "B"),
]
LETTERS = [
    ("Answer: B", "B"),
    ("Answer: B: library", "B"),
    ("Answer: B (a library)", "B"),
    ("The answer is (B) library, where no bank clerk goes", "B"),
    ("Answer: B. The bank is for money.", "B"),
    ("Answer: B, unlike the bank", "B"),
    ("Answer: C: book store", "C"),
    ("A: bank", "A"),
    ("B: library", "B"),
]
LEADING = [  # the first line, above reasons
    ("B: library\n\nReasoning: books are lent there.", "B"),
    ("B\n\nExplanation: one may read there.", "B"),
    ("(B) library\nPeople read there.", "B"),
    ("\n**B.** library\n\nA place for readers.", "B"),
    ("B: a reading room\n\nIn numbered steps:", "B"),
    ("B: library\n\nReason: a bank lends money.", None),
    ("B: library\n\nA: bank\n", None),
    ("B: library\n\nThe text of C fits better.", None),
    ("B: library\n\nNo, that was too quick.", None),
    ("B: not sure\n\nIt could be anything.", None),
    ("A: library\n\nBooks are lent there.", None),
    ("B: library or bank\n\nBoth lend things.", None),
    ("I\n\nwent there.", None),
    ("A book\n\nis lent there.", None),
    ("B: library\n\n" + "They read. " * 500 + "\nAt last a bank.", None),
]
CONTRADICTIONS = [
    "The answer is A: library",
    "Answer: A. The library.",
    "Answer: A (a library)",
    "The answer is A, i.e. the library",
    "The answer is A library",
    "The answer is library (A)",
    "Final Answer: D: book store",
    r"\boxed{\text{A. library}}",
    "A: library",
    "(C) store",
]
UNDECIDED = [
    "The answer is library or bank",
    "The answer is library and bank",
    "The answer is either library or bank",
    "The answer is library, and a bank lends money",
    "Final Answer: store, book store",
    "The answer is library?",
    "The answer is library, or maybe not",
    "The answer is library. But that is wrong.",
    "The answer is library. The answer is not library.",
    "The answer is library is wrong",
    "The answer is not library",
    "The answer isn't library",
    "The answer is anything but the library",
    "The answer is near the library",
    "The answer is a library-like place",
    "The answer is the library bank",
    "The answer is bookstore",
    "I like the library",
    "bank\nlibrary\nbook store",
    "- bank\n- library",
    "C: book store\nD: store",
]
OF_NUMBERS = [
    ("The answer is 3.", "A"),
    ("The answer is $30$.", "B"),
    ("The answer is -5", "C"),
    ("The answer is \u22125", "C"),
    ("The answer is 3.5", "D"),
    ("The answer is 5%", "E"),
    *((f"The answer is {other}", None) for other in ("-3", "5", "3.50", "2.3", "1/3", "3/4")),
    *((f"The answer is {other}", None) for other in ("3,000", "3:5", "3^2", "3 + 2", "3 apples")),
    (r"The answer is \frac{3}{5}", None),
    ("The answer is A: 3.5", None),
]


def letter(text: str, question: str = PLACES, *, strict: bool = False) -> str | None:
    return extract_answer("choice", text, strict=strict, question=question)


@pytest.mark.parametrize(("text", "answer"), [*NAMED, *LETTERS])
def test_the_text_of_a_choice_is_its_letter(text: str, answer: str) -> None:
    assert letter(text) == answer
    for gold in "ABCDE":
        assert grade("csqa", [text], [gold], questions=[PLACES]).all() == (gold == answer)


@pytest.mark.parametrize(("text", "answer"), NAMED)
def test_without_the_question_a_text_is_no_answer(text: str, answer: str) -> None:
    assert extract_answer("choice", text) in (None, answer if "(B)" in text else None)


@pytest.mark.parametrize("text", [*CONTRADICTIONS, *UNDECIDED])
def test_contradictions_and_several_choices_are_no_answer(text: str) -> None:
    assert letter(text) is None


@pytest.mark.parametrize(("text", "answer"), LEADING)
def test_a_first_line_chooses_unless_the_rest_names_another(text: str, answer: str | None) -> None:
    assert letter(text) == answer
    assert letter(text, strict=True) is None


@pytest.mark.parametrize(("text", "answer"), OF_NUMBERS)
def test_numbers_as_choices_are_whole(text: str, answer: str | None) -> None:
    assert letter(text, NUMBERS) == answer


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Where?\nA: bank\nB: library", "B"),
        ("Where?\n(A) bank\n(B) the Library.\n\nAnswer with a letter.", "B"),
        ("Where?\n\nA. bank\n\nB. library\nC. shop\n", "B"),
        ("A: Hello.\nB: Hi.\nWhere do they meet?\nA) library\nB) bank", "A"),
        ("Where?\nA: bank\nB: library\nC: a library", None),  # which of the two?
        ("Where?\nA: library", None),  # one is no choice
        ("Where?\nB: bank\nC: library", None),
        ("Where? A: bank B: library", None),
        ("", None),
    ],
)
def test_choices_are_lines_of_the_question(question: str, answer: str | None) -> None:
    assert letter("The answer is library.", question) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Final Answer: A: because", None),
        ("Final Answer: B: because", "B"),
        ("The answer is because.", "B"),
        ("The answer is not hungry.", "A"),
        ("The answer is think and not hungry", None),
        ("The answer is think, not because", "C"),
        ("The answer is think (A)", None),
        ("Answer: think, C", "C"),
        ("Answer: D. i.d", "D"),
        ("Answer: A. i.d", None),
    ],
)
def test_choices_that_are_words_of_the_rules(text: str, answer: str | None) -> None:
    question = "Why?\nA: not hungry\nB: because\nC: think\nD: i.d"
    assert letter(text, question) == answer


def test_every_choice_of_commonsense_qa(shared_data: Path) -> None:
    """By its text or letter almost every choice is found, and never for another one."""
    path = shared_data / "csqa" / "dev_rand_split.jsonl"
    read = {"{t}": 0.998, "The answer is {t}.": 0.998, r"\boxed{{{t}}}": 0.998, "{l}: {t}": 0.998}
    none = ("Final Answer: {l}: {o}", "Answer: {l}. {o}", "The answer is {o} ({l})", "{t} or {o}")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    asked, told = [], []
    for row in rows:
        texts = [one["text"] for one in row["question"]["choices"]]
        if len({text.lower() for text in texts}) == 5:
            lines = [f"{one}: {text}" for one, text in zip("ABCDE", texts, strict=True)]
            asked += ["\n".join(["?", *lines])] * 5
            told += zip("ABCDE", texts, texts[1:] + texts[:1], strict=True)
    letters = np.array([one for one, _, _ in told])

    def found(form: str) -> np.ndarray:
        said = [form.format(l=one, t=text, o=other) for one, text, other in told]
        answers = _core.answers.extract_answers("choice", said, False, asked)
        return np.array([answer or "" for answer in answers])

    for form, share in read.items():
        answers = found(form)
        assert (answers == letters).mean() > share and np.isin(
            answers[answers != letters], ""
        ).all()
    assert all((found(form) == "").all() for form in none)


def test_chinese() -> None:
    question = "\u54ea\u91cc\uff1f\nA: \u94f6\u884c\nB: \u56fe\u4e66\u9986"
    assert letter("\u7b54\u6848\u662f\u56fe\u4e66\u9986\u3002", question) == "B"
    assert letter("\u7b54\u6848\u662f\u56fe\u4e66\u9986\u6216\u94f6\u884c", question) is None


def test_a_text_needs_a_marker_if_strict() -> None:
    assert letter("The answer is library.", strict=True) == "B"
    assert letter(r"\boxed{library}", strict=True) == "B"
    assert letter("So it is\nlibrary", strict=True) is None


def test_a_letter_alone_in_any_font() -> None:
    for text in ("A: library", "(A)", r"\textbf{A}", r"\text{(A)}", "**A**", r"$\mathbf{A}$"):
        assert extract_answer("choice", text) == "A"
        assert grade("choice", [text], ["A"]).all()
    for text in (r"\textbf{C}", r"\text{(C)}", "**C**", r"$\mathrm{C}$", r"\textbf{(C)}"):
        assert _core.answers.compare_answers("choice", ["C", "E"], [text] * 2).tolist() == [1, 0]


def test_votes_and_reports_know_the_choices() -> None:
    other = "Where is money?\nA: library\nB: bank"
    said = ["The answer is library."] * 2
    assert number_answers("choice", [[said[0], "B"]], questions=[PLACES]).tolist() == [[0, 0]]
    rows = [[said[0], "Answer: B"], [said[0], "Answer: B"]]
    assert number_answers("choice", rows, questions=[PLACES, other]).tolist() == [[0, 0], [0, 1]]
    verdicts = grade_with_reasons("choice", said, ["B", "B"], questions=[PLACES, ""])
    assert verdicts.tolist() == [RIGHT, NOTHING]
    report = grade_report.report("choice", said, ["B"] * 2, verdicts, questions=[PLACES, ""])
    assert report.figures()["right_if"] == {"strict": 1, "lenient": 1}
    with pytest.raises(ValueError, match="must have the same length"):
        _core.answers.extract_answers("choice", said, False, [PLACES])


WORDS = ["bank", "library", "store", "book ", "A", "B: ", "(C) ", "the answer is ", ", not "]


@given(st.lists(st.sampled_from([*WORDS, " or ", " ", ". ", "\n", "a ", "it is "]), max_size=10))
def test_a_choice_that_is_found_is_in_the_answer(pieces: list[str]) -> None:
    """By its letter or its text, even where the words around it decide which one counts."""
    text = "".join(pieces)
    found = letter(text)
    if found is not None and "not" not in text:  # `A or B, not library` is A
        words = {"A": "bank", "B": "library", "C": "book store", "D": "store"}
        said = " ".join(word for word in text.lower().split() if word != "a")
        assert words[found] in said or re.search(rf"\b{found}\b", text, re.IGNORECASE)


def test_long_texts_take_linear_time() -> None:
    question = "\n".join(["?", *(f"{chr(65 + i)}: {'a b ' * 200}{i}" for i in range(26))])
    begin = time.process_time()
    for text in ("The answer is " + "a b " * 60_000, "A: b\n" * 50_000, "answer is A: " * 9_000):
        letter(text, question)
    letter("The answer is b", "A: b\n" * 50_000)
    assert time.process_time() - begin < 1


def test_the_choices_of_each_question_are_its_own() -> None:
    questions = [PLACES, PLACES, "Where?\nA: library\nB: bank", "", PLACES]
    found = _core.answers.extract_answers("choice", ["Answer: library"] * 5, False, questions)
    assert found == ["B", "B", "A", None, "B"]
    found = _core.answers.extract_answers("exact", ["Answer: library"], False, [PLACES])
    assert np.array(found).tolist() == ["library"]
