# ruff: noqa: RUF001
"""What the text around a chosen letter does to it: kinds of spellings, right and wrong ones."""

import pytest

from malt_fast.grading import extract_answer

BOOKS = (
    "Where would you borrow a book for free?\nA: bank\nB: library\nC: book store\nD: store\nE: park"
)
WET = "Is water wet?\nA) yes\nB) no\nC) maybe"
BOTH = "Which colours?\nA. red\nB. blue\nC. green\nD. both A and B"
VITAMINS = "Which one?\nA. vitamin C\nB. vitamin A\nC. vitamin D\nD. vitamin B12"
ELEMENTS = "Which one?\nA. Ca\nB. C\nC. K\nD. I"
BLOOD = "Which type?\nA. O\nB. A\nC. B\nD. AB"
WEIGHTS = "Which is heavier?\nA) a kilogram of feathers\nB) a kilogram of lead\nC) They are equal"
CITIES = "下列哪座城市是中国的首都?\nA. 上海\nB. 北京\nC. 广州\nD. 深圳"

# (question, completions that choose the letter, the letter or None)
KINDS: dict[str, list[tuple[str, str | None, list[str]]]] = {
    "boxes in one sentence": [
        (BOOKS, None, [r"\boxed{A} and \boxed{B}", r"\boxed{A}, \boxed{B}"]),
        (BOOKS, None, [r"\boxed{A} or perhaps \boxed{B}", r"Either \boxed{A} or \boxed{B}."]),
        (BOOKS, None, [r"\boxed{A}\boxed{B}", r"\boxed{A: bank} / \boxed{\text{library}}"]),
        (BOOKS, None, [r"\boxed{B} is wrong.", r"It is not \boxed{B}.", r"\boxed{B} (wrong)"]),
        (BOOKS, None, ["\\boxed{B}\n\nThat is wrong.", r"\boxed{B}. No, wait."]),
        (BOOKS, "B", [r"\boxed{B} and again \boxed{B}", r"\boxed{A}. So it is \boxed{B}."]),
        (BOOKS, "B", [r"$\boxed{B}$, since a bank is not free.", r"\boxed{B}, not A."]),
    ],
    "a letter called wrong": [
        ("", None, ["Answer: A is out.", "Answer: A is ruled out.", "Answer: A is unlikely."]),
        ("", None, ["The answer is A: false", "The answer is A (false)", "Answer: A ❌"]),
        ("", None, ["The answer is A: not true", "The answer is A, not!", "Answer: A, wrongly"]),
        ("", None, ["The answer is A, which is not correct.", "Answer: A makes no sense."]),
        (
            "",
            "A",
            ["The answer is A: correct"],
        ),
        ("", "A", ["The answer is A, not a dog.", "The answer is A, which does not bark."]),
        (
            BOOKS,
            "B",
            ["The answer is B, as A is wrong.", "Answer: B, where it is not out of reach"],
        ),
    ],
    "a second letter": [
        ("", None, ["The answer is A as well as B", "The answer is A, as is B."]),
        ("", None, ["The answer is A, if not B", "The answer is A, I mean C", "Answer: A to D"]),
        ("", None, ["The answer is A, then again C", "The answer is option A, option B"]),
        ("", None, ["The answer is A or not", "The answer is A?", "The answer is A no C"]),
        ("", None, ["The answer is A, although it is really B.", "Answer: A, since so is B"]),
        ("", None, ["The answer is A. bank B. library", "The answer is (A), (B)"]),
        (
            "",
            "D",
            ["The answer is D; A, B and C are wrong.", "The answer is D because A is wrong."],
        ),
        ("", "D", ["The answer is D. A, B, C and E are wrong.", "The answer is D over C."]),
        ("", "D", ["The answer is D. It cannot be A or C.", "The answer is D instead of A."]),
        (BOOKS, "B", ["The answer is B, neither A nor a store."]),
        (
            BOOKS,
            "B",
            ["The answer is B. Options A, C and D are wrong.", "Answer: B, unlike a bank"],
        ),
        (BOOKS, "B", ["The answer is B. The others (A, C, D, E) are wrong."]),
    ],
    "texts of choices that are not known": [
        ("", "B", ["Answer: B) 5 or more", "Answer: (B) no more than 5", "Answer: B: if it rains"]),
        ("", "B", ["B) two times or less", "Answer: (B) a very bad idea", "Answer: (B) plan A."]),
        ("", None, ["Answer: (B) 5 or more is wrong", "Answer: B) 5, or maybe not", "B: no, C"]),
    ],
    "letters of words": [
        (BOOKS, None, ["The answer is E-books", "The answer is C-grade", "Answer: A-frame"]),
        (BOOKS, None, ["The answer is C++.", "The answer is C#.", "The answer is A+"]),
        (BOOKS, None, ["The answer is A.I.", "The answer is B.C.", "The answer is B/W"]),
        (BOOKS, None, ["Answer: C. elegans", "The answer is E. coli.", "Answer: C major"]),
        (BOOKS, None, ["Answer: B minor", "Answer: A = 5", "The answer is D = 2r", "E = mc^2"]),
        (BOOKS, "B", ["Answer: B - library", "Answer: B = library", "Answer: B — library"]),
        (BOOKS, "B", ["Answer: B. It lends books", "Answer: B library", "Answer: B."]),
        ("", "D", ["Answer: D = safe", "Answer: D. safe", "Answer: D - safe", "Answer: D, safe"]),
        ("", "C", ["Answer: C) vitamin C", "Answer: (C) plan B.", r"Answer: $\bf C$"]),
    ],
    "spaces that do not break": [
        (BOOKS, None, ["(A)\u00a0library", "Answer: A:\u00a0library", "Answer: A\u00a0or\u00a0B"]),
        (BOOKS, "B", ["Answer:\u00a0B", "**Answer:**\u00a0B", "The answer is: \u00a0B."]),
        (BOOKS, "C", ["Answer: book\u00a0store", "Answer: C:\u00a0book\u202fstore"]),
    ],
    "Chinese": [
        (CITIES, None, ["答案是A或者B", "答案是A与B", "答案是A和北京", "答案是A还是B?"]),
        (CITIES, None, ["答案可能是B,也可能是C。", "答案是除了A", "答案是A以外的选项"]),
        (
            CITIES,
            None,
            ["答案是A,错误。", "答案是A（错误）", "答案是B是错误的。", "答案是A。错了。"],
        ),
        (CITIES, None, ["答案是A?不,是B。", "答案是A。不对,是B。", "答案是北京大学"]),
        (CITIES, "B", ["答案是B,不是A。", "答案是北京,不是上海。", "答案是B。A是上海,不是首都。"]),
        (CITIES, "B", ["答案是《北京》", "答案是Ｂ。", "答案是B因为北京是首都"]),
    ],
    "taken back in the next sentence": [
        (BOOKS, None, ["The answer is A. Actually, it's B.", "The answer is A. No, it's B."]),
        (BOOKS, None, ["The answer is A. But it is B.", "The answer is A. Sorry, I meant B."]),
        (BOOKS, None, ["The answer is A. Correction: B.", "The answer is A... or is it?"]),
        (BOOKS, None, ["The answer is A. Hmm, that can't be right.", "The answer is A. Well, B."]),
        (BOOKS, None, ["The answer is A\nThat is wrong.", "The answer is A\nWait, no, it's B."]),
        (BOOKS, None, ["The answer is A\n\nThis makes no sense.", "The answer is A\nB as well."]),
        (BOOKS, None, ["The answer is library\nThat is wrong.", "Answer: library. It's the park."]),
        (BOOKS, None, ["The answer is A. B is better.", "The answer is A. Let me see. No."]),
        (BOOKS, "B", ["The answer is B. Libraries do not charge.", "Answer: B. No bank is free."]),
        (BOOKS, "B", ["The answer is library. A bank lends money.", "Answer: B\n\nThat is right."]),
        (
            BOOKS,
            "B",
            ["The answer is B. In a store, you would have to pay.", "Answer: B. C sells."],
        ),
        (BOOKS, "B", ["Answer: B\n\nWhy the others are wrong:\n- A: bank is for money"]),
        (WET, "B", ["The answer is no. Water is not wet."]),
    ],
    "an answer that remains": [
        (BOOKS, "B", ["After careful thought, the correct answer remains (B).", "Answer: B."]),
        (BOOKS, "B", ["The answer remains B.", "The answer is still (B)", "The answer stays B."]),
        (BOOKS, "B", ["Answer: B. So the answer remains the same.", "Answer: still B"]),
        (BOOKS, "B", ["Answer: B\n\nThe answer remains unchanged."]),
        ("", "B", ["Answer: B. I disagree with the initial answer of A."]),
        (
            "",
            "B",
            ["Answer: B. I disagree with the first answer.", "Answer: B. Some may disagree."],
        ),
        ("", "B", ["The answer is B. The verifier says A; I disagree."]),
        ("", None, ["The answer remains A or B."]),
        ("", "B", ["Answer: B. Contrary to A, it is safe."]),
    ],
    "taken back below a first line": [
        (BOOKS, None, ["B\n\nScratch that.", "B\n\nOops.", "B\n\nSorry, I misread."]),
        (BOOKS, None, ["B\n\nI take that back.", "B\n\nLet me reconsider this.", "B: library\n✗"]),
        (BOOKS, None, ["B\n\nThis option can be ruled out.", "B\n\nCan be eliminated."]),
        (BOOKS, None, ["B\n\nThe least likely.", "B\n\nThus unlikely.", "B\n\nRejected."]),
        (BOOKS, None, ["B: library\n\nImpossible.", "B: library\n\nThis cannot be."]),
        (BOOKS, None, ["B: library\n\nThis makes little sense.", "B: library\n\nA bad choice."]),
        (BOOKS, None, ["B: library\n\nThat is what most people would mistakenly say."]),
        (BOOKS, "B", ["B: library\n\nA library lends books at no cost.", "**B**\n\nIt is free."]),
        (WET, "B", ["B) no\n\nWater makes things wet."]),
        (VITAMINS, "A", ["A. vitamin C\n\nScurvy comes from lack of vitamin C."]),
    ],
    "below a negative heading": [
        (BOOKS, None, ["Wrong:\n\nB", "The wrong options are:\nB", "Ruled out:\n(B)", "not\nB"]),
        (BOOKS, None, ["Everything but\nB", "Excluded:\n\nlibrary", "We can rule out:\nlibrary"]),
        (BOOKS, None, ["You can't borrow from:\nbank", "I would never say\nlibrary"]),
        (BOOKS, "B", ["You can't borrow from a bank.\nlibrary", "So it is:\nB", "A bank? No.\nB"]),
    ],
    "the text of a choice holds a letter": [
        (BOTH, "D", ["Answer: D: both A and B", "Answer: D) both A and B", "D. both A and B"]),
        (BOTH, "D", ["The answer is both A and B.", r"\boxed{D: both A and B}", "both A and B"]),
        (BOTH, None, ["The answer is A. both A and B", "The answer is A and B"]),
        (VITAMINS, "B", ["The answer is vitamin A.", "The answer is B: vitamin A"]),
        (VITAMINS, None, ["The answer is C: vitamin C", "The answer is vitamin E"]),
        (ELEMENTS, "B", ["The answer is B: C", "The answer is B. C", "The answer is (B) C."]),
        (ELEMENTS, "C", ["The answer is K.", "The answer is C. K"]),
        (ELEMENTS, None, ["The answer is A. C", "The answer is A: K"]),
        (BLOOD, "B", ["The answer is B. A"]),
        (WEIGHTS, "B", ["The answer is A kilogram of lead.", "Answer: a kilogram of lead"]),
        (WEIGHTS, None, ["The answer is A) a kilogram of lead", "The answer is A kilogram."]),
    ],
    "a last line with its text": [
        (BOOKS, "B", ["Banks lend money.\n(B) library", "Banks lend money.\n**B: library**"]),
        (BOOKS, "B", ["## Answer\n\n**B: library**", "**Answer**\n\n**B: library**"]),
        (BOOKS, "B", ["## Final Answer\n\nB: library", "```\nB\n```", "B - library"]),
        (BOOKS, "B", ["A: bank\nB: library\nC: book store\n\nB", "Answer: B-library"]),
        (BOOKS, None, ["A\nB\nC", "A\n\nB", "Which of them:\nA, C, D or\nB"]),
        (BOOKS, None, ["A: bank\nB: library", "A) bank\n\nB) library", "Money.\nA: library"]),
    ],
    "hedges before the only choice": [
        (
            BOOKS,
            "B",
            ["The answer is maybe B.", "The answer is perhaps (B).", "Answer: possibly B"],
        ),
        (BOOKS, "B", ["The answer is in fact B.", "The answer is best described as B."]),
        (BOOKS, None, ["The answer is maybe B, maybe C", "The answer is B, perhaps C"]),
        (BOOKS, None, ["The answer is maybe B. It may also be C.", "The answer is A, maybe."]),
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: str) -> None:
    found = [
        (text, extract_answer("choice", text, question=question), letter)
        for question, letter, texts in KINDS[kind]
        for text in texts
    ]
    assert [one for one in found if one[1] != one[2]] == []
