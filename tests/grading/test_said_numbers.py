"""Which number or formula a text says its answer is: each kind with answers and other numbers."""

import time

import pytest

from malt_fast.grading.verdicts import extract_answer, grade

# (grader, completion, the answer or None, other numbers of the completion) of each kind
KINDS: dict[str, list[tuple[str, str, str | None, list[str]]]] = {
    "an answer that is called wrong": [
        ("number", "Final Answer: 12 apples, which is not correct.", None, ["12"]),
        ("number", "Final Answer: 12 apples (incorrect)", None, ["12"]),
        ("number", "The answer is 12. That's not right.", None, ["12"]),
        ("number", "The answer is 12. Hmm, that can't be right.", None, ["12"]),
        ("number", "#### 12\n\nThis is incorrect.", None, ["12"]),
        ("number", "#### 12\n\nWait, I made an error.", None, ["12"]),
        ("number", "$\\boxed{12}$ is incorrect.", None, ["12"]),
        ("number", "We get \\boxed{12}, but that is wrong.", None, ["12"]),
        ("number", "\\boxed{12}\n\nWait, that's wrong.", None, ["12"]),
        ("number", "It cannot be \\boxed{12}.", None, ["12"]),
        ("number", "It isn't \\boxed{12}.", None, ["12"]),
        ("number", "So the total is 12. No, that's wrong.", None, ["12"]),
        ("number", "12? No.", None, ["12"]),
        ("number", "Could it be 12?", None, ["12"]),
        ("math", "The answer is $x+1$. That is wrong.", None, ["x+1"]),
        ("math", "So we get $x+1$. That is incorrect.", None, ["x+1"]),
    ],
    "an answer that is corrected": [
        ("number", "#### 12\n\nOops, it should be 14.", "14", ["12"]),
        ("number", "Final Answer: 12\n\nI was wrong. The total is 14.", "14", ["12"]),
        ("number", "Final Answer: 12. Hold on, we need to add 2, so 14.", "14", ["12", "2"]),
        ("number", "Final Answer: 12 \u2014 no, 14", "14", ["12"]),
        ("number", "Final Answer: 12, sorry, 14", "14", ["12"]),
        ("number", "Answer: 12. No, 14.", "14", ["12"]),
        ("number", "Answer: 12. Correction: 14.", "14", ["12"]),
        ("number", "\\boxed{12}. No, \\boxed{14}.", "14", ["12"]),
        ("math", "The answer is $x+1$. Actually, it is $x+2$.", "x+2", ["x+1"]),
    ],
    "an answer that stands": [
        ("number", "The answer is 12. Actually, 3 * 4 = 12.", "12", ["3", "4"]),
        ("number", "The answer is 12. Let me verify: 3 * 4 = 12. Correct!", "12", ["4"]),
        ("number", "The answer is 12. No other number works.", "12", []),
        ("number", "The answer is 12. It is not valid to add 5.", "12", ["5"]),
        ("number", "The answer is 12. This avoids a mistake that many make.", "12", []),
        ("number", "The answer is 12. Note that 13 is wrong.", "12", ["13"]),
        ("number", "The answer is 12, not 13, which is wrong.", "12", ["13"]),
        ("number", "The answer is 12. I made sure that no mistake happened.", "12", []),
        ("number", "The answer is 12. Is that right? Yes.", "12", []),
        ("number", "#### 12\n\nLet me know if you need help with problem 2!", "12", ["2"]),
        ("number", "\\boxed{12}\n\nWait, let me check: 3 * 4 = 12. Yes.", "12", ["4"]),
        ("number", "\\boxed{12}. It is wrong to count 13.", "12", ["13"]),
        ("number", "It is not 13 but \\boxed{12}.", "12", ["13"]),
        ("math", "The answer is $x+1$. Which is what we wanted.", "x+1", []),
    ],
    "two quantities, bounds and multiples": [
        ("number", "Answer: 5 m by 6 m", None, ["5", "6", "30"]),
        ("number", "Answer: 5 pears plus 6 figs", None, ["5", "6"]),
        ("number", "Answer: $5 to $6", None, ["5", "6"]),
        ("number", "Answer: 5~6", None, ["5", "6", "30"]),
        ("number", "Answer: 6'2\"", None, ["6", "2"]),
        ("number", "The answer is within 5", None, ["5"]),
        ("number", "The answer is beyond 5", None, ["5"]),
        ("number", "It exceeds 5.", None, ["5"]),
        ("number", "Answer: triple 4", None, ["4"]),
        ("number", "It is half of 10.", None, ["10"]),
        ("number", "Half of 10 is 5.", "5", ["10"]),
        ("number", "Answer: double 6, which is 12", "12", ["6"]),
        ("number", "Answer: a multiple of 7", None, ["7"]),
        ("number", "Answer: Over the year she earns 5 dollars", "5", []),
    ],
    "asides behind a marker": [
        ("number", "Answer: Ben saves $30 in 6 weeks.", "30", ["6"]),
        ("number", "Answer: Ben needs 30 eggs for 6 cakes.", "30", ["6"]),
        ("number", "Answer: Ben has 30 cards left of 36.", "30", ["36"]),
        ("number", "Answer: In 6 weeks, Ben saves $30.", "30", ["6"]),
        ("number", "Answer: After 6 weeks Ben has 30 dollars.", "30", ["6"]),
        ("number", "Answer: So he pays 5 * 6 = \u20ac30 for 5 books.", "30", ["5", "6"]),
        ("number", "Answer: 8 pens cost 8 x $1.5 = $12.00.", "12", ["8", "1.5"]),
        ("number", "Answer: She must sell 4 cups, or 20-4=16 cups.", "16", ["4", "20"]),
        ("number", "Answer: Ben has 30 apples and Ann has 6 pears.", None, ["30", "6"]),
        ("number", "Answer: Ben has 30 apples, 6 pears.", None, ["30", "6"]),
        ("number", "Answer: Ben is 30 or 36.", None, ["30", "36"]),
        ("number", "The answer is a 5-digit number.", None, ["5"]),
    ],
    "asides of the last sentence": [
        ("number", "So Ben saves $30 in 6 weeks.", "30", ["6"]),
        ("number", "So Ben has 30 cards left after giving away 6.", "30", ["6"]),
        ("number", "So 5 pens and 4 cups cost 5 * 6 = $30 for 5 men.", "30", ["5", "4"]),
        ("number", "So 3 rows of 4 make 12.", "12", ["3", "4"]),
        ("number", "The 4 friends can sit in 24 ways.", "24", ["4"]),
        ("number", "He sold 3 cakes for $18.", "18", ["3"]),
        ("number", "So it will be done in 5 days.", "5", []),
        ("number", "There are 12 girls when there are 20 boys.", "12", ["20"]),
        ("number", "If she sells 4, she has 18 left.", "18", ["4"]),
        ("number", "She has 18 left because 22 - 4 = 18 of 22.", "18", ["4", "22"]),
        ("number", "Since 5 + 4 = 9, he needs 11 more.", "11", ["9"]),
        ("number", "In total, 5 of the 12 are red.", "5", ["12"]),
        ("number", "The cost is a total of $18 for 3 cakes.", "18", ["3"]),
        ("number", "The cassette as a whole is 5+8=13 minutes", "13", ["8"]),
        ("math", "The maximum is $9$ at $x = 2$.", "9", ["2"]),
        ("math", "The maximum is attained at $x = 2$.", "2", []),
        ("math", "The function $x^2-4x$ has its minimum at $x = 2$.", "2", []),
        ("math", "We get $x = 2$, because $y = 3$.", "2", ["3"]),
        ("math", "Since $y = 3$, we get $x = 2$.", "2", ["3"]),
        ("math", "So $3+4=7$ and the product is 12.", "12", ["7"]),
    ],
    "remarks in brackets": [
        ("number", "Answer: It will take 18 days (assuming 5 hours a day).", "18", ["5"]),
        ("number", "Answer: The total is $18 (including the $2 tip).", "18", ["2"]),
        ("number", "So it will take 18 days (assuming 5 hours a day).", "18", ["5"]),
        ("number", "Answer: He needs 5 boxes (5 * 6 = 30 eggs).", "5", ["30"]),
        ("number", "Answer: He sells them all (18 in all).", "18", []),
        ("math", "Answer: The minimum is $3$ (attained at $x = 2$).", "3", ["2"]),
    ],
    "signs around an answer": [
        ("number", "Answer: 18 \u2705", "18", []),
        ("number", "Answer: **18** \u2705", "18", []),
        ("number", "Answer: **$18** \U0001f389", "18", []),
        ("number", "Answer: \u2705 **18** \u2714\ufe0f", "18", []),
        ("number", "#### 18 \u2705", "18", []),
        ("number", "\\boxed{18 \u2705}", "18", []),
        ("number", "Answer: 18 \U0001f44e", None, ["18"]),
        ("number", "Answer: 18 \u274c", None, ["18"]),
        ("number", "Answer: 18 \U0001f937", None, ["18"]),
        ("math", "Answer: $\\frac12$ \u2705", "1/2", []),
        ("math", "Answer: 18 \u2705", "18", []),
        ("math", "18 \U0001f389", "18", []),
        ("number", "Answer: \u20b918", "18", []),
        ("number", "Answer: \u20b118", "18", []),
        ("number", "Answer: Rs. 18", "18", []),
        ("number", "Answer: The 3 books cost Rs. 18.", "18", ["3"]),
        ("math", "Answer: Rs. 18", "18", []),
    ],
    "conditions, references and remarks": [
        ("number", "Answer: see problem 7", None, ["7"]),
        ("number", "The answer to question 7 is 12.", "12", ["7"]),
        ("number", "Let me solve question 3.", None, ["3"]),
        ("number", "In step 3 we get 12.", "12", ["3"]),
        ("number", "Answer: 4 if n is even, and 5 otherwise", None, ["4", "5"]),
        ("number", "The answer is unknown. We need 7 more facts.", None, ["7"]),
        ("number", "I cannot tell from the 3 facts.", None, ["3"]),
        ("number", "1. Add.\n2. Subtract.", None, ["1", "2"]),
        ("number", "1. Add 3 and 4.\n2. The sum is 7.", "7", ["2"]),
        ("number", "The total is 36.\n\nNote: a day has 24 hours.", "36", ["24"]),
        ("number", "The total is 36\n(for 4 people)", "36", ["4"]),
        ("number", "The total is 36. (40 minus 4)", "36", ["40", "4", "-4"]),
    ],
    "notation": [
        ("number", "Answer: 2e-4", "0.0002", ["2", "4"]),
        ("number", "Answer: 2.5e-1", "0.25", ["2.5"]),
        ("number", "Answer: 12 x 3 = 36", "36", ["12", "3"]),
        ("number", "Answer: 12 x 3 = 35", None, ["36", "12", "35"]),
        ("number", "Answer: $12 x 3 = $36", "36", ["12"]),
        ("number", "Answer: 2 hours (120 minutes)", "2", ["120"]),
        ("number", "Answer: a grand total of 36", "36", []),
        ("number", "Answer: 36; 35 is incorrect", "36", ["35"]),
        ("number", "Answer: 36; 35", None, ["36", "35"]),
        ("number", "Answer: In 4 hours, 36 cars", "36", ["4"]),
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: str) -> None:
    wrong = []
    for grader, completion, answer, others in KINDS[kind]:
        golds = [gold for gold in [answer, *others] if gold is not None]
        said = grade(grader, [completion] * len(golds), golds, workers=1)
        if said.tolist() != [gold == answer for gold in golds]:
            wrong.append((grader, completion, extract_answer(grader, completion)))
    assert not wrong


def test_strict_grading_takes_no_correction_without_a_marker() -> None:
    assert extract_answer("number", "Answer: 12. No, 14.", strict=True) is None
    assert extract_answer("number", "Answer: 12. No. Answer: 14", strict=True) == "14"
    assert extract_answer("number", r"\boxed{12} is wrong.", strict=True) is None


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "5 in ",
            "5. No. ",
            "5? ",
            "wait, ",
            "wait. ",
            "5 and ",
            "for 5 ",
            "(5) ",
            "- (",
            "1. a\n",
        ),
        *("= 5 of 5 ", "5 x ", "5e-1", "$5$ at $x$ ", "5~5'", "\\boxed{5} is not "),
    ],
)
def test_long_texts_take_linear_time(piece: str) -> None:
    begin = time.process_time()
    for grader in ("number", "math"):
        for lead in ("", "The answer is ", "\\boxed{5} "):
            extract_answer(grader, lead + piece * (262_144 // len(piece)))
    assert time.process_time() - begin < 1  # quadratic ones take minutes
