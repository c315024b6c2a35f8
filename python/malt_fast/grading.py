r"""Is an answer right? Find the answer in a completion, then compare it with the gold one.

Model output is hostile text: lengths are capped, scans are linear, nothing is evaluated and no
completion raises. The answer stands in the last `\boxed{}`, else after the last `####`,
`Final Answer:` or `A:`; a malformed one there is no answer. Without any of these:

- number: the last number of the text. Numbers compare as exact fractions; `$1,200.00`, `40\%` and
  `10 cm` are numbers, while `3:1`, `1 1/2` and `10^2` are none.
- choice: a last line that is nothing but a letter. Letters compare without case.
- exact: the whole text. Texts compare character by character, runs of spaces being one.
"""

import re
from collections import deque
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from malt_fast.errors import MaltError, nearest

GRADERS = ("number", "choice", "exact")
MAX_COMPLETION = 1 << 18  # characters looked at, from the end
MAX_ANSWER = 512  # characters of a marked answer
MAX_DIGITS = 256  # characters of a number

_FINAL = r"(?i:final answer(?: is)?) ?[*_]{0,3}:|(?<!\w)A:"
# A markdown heading opens with #### too: for a number, a number has to follow.
_NUMBER_MARKER = re.compile(rf"####(?=\s{{0,8}}[-\u2212+$\\(*]{{0,4}}[\d.])|{_FINAL}")
_MARKER = re.compile(rf"####|{_FINAL}")
_BOX = re.compile(r"\\f?box(?:ed)?(?![A-Za-z])[ \t]{0,8}")

_NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:/\d+)?|(?<![\w.])[-+]?\.\d+"
)
_FRAC = re.compile(r"\\[dt]?frac\{([-+]?\d{1,64})\}\{(\d{1,64})\}")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\{([^{}]{0,128})\}")
_DROP = re.compile(r"\\[!,;()]|\\?\$|[*_`]")
_MINUS = str.maketrans(dict.fromkeys("\u2212\u2013\uff0d\ufe63", "-"))
# A number is not the whole answer when a function stands before it ...
_FUNCTION_BEFORE = re.compile(r"\\[A-Za-z]|\w\(\s{0,4}$|\^")
# ... or an operator, a list, a variable, an exponent or another number follows.
_MORE_AFTER = re.compile(
    r"\s{0,4}(?:[-+*/:\u00d7\u00f7]\s{0,4}[\d.(\\]|\\(?!%|circ)|\^(?!\{?\\circ))|\s{1,4}[\d.]*\d"
    r"|\s{0,4}(?:,|;|and|or|to)\s{0,4}[-+]?\d|[xyznkijab](?![A-Za-z])|[A-Za-z]{1,3}\d"
)
_UNIT = re.compile(r"(?:[A-Za-z\s%°.!/{})-]|\^[23]?|\\circ|\\%)*+")  # possessive: cannot backtrack

_CHOICE = re.compile(
    r"\W{0,8}(?:(?:the )?(?:correct )?(?:answer|option|choice)(?: is)?\W{1,8})?([A-Z])(?![\w'])",
    re.I,
)
_SECOND_CHOICE = re.compile(r"\W{0,4}(?:or|and|,|/)\W{0,4}[A-Z](?!\w)", re.I)
_LONE_LETTER = re.compile(r"\W{0,8}([A-Z])\W{0,8}", re.I)


def grade(grader: str, completions: Sequence[str], golds: Sequence[str]) -> npt.NDArray[np.bool_]:
    """bool[n]: which completions answer their gold. Without an answer a completion is wrong."""
    right = [
        (answer := extract_answer(grader, text)) is not None and answer == normal_gold(grader, gold)
        for text, gold in zip(completions, golds, strict=True)
    ]
    return np.array(right, dtype=np.bool_)


def extract_answer(grader: str, completion: str) -> str | None:
    """The answer of a completion in one spelling (`5,600.0` is `5600`), so that equal answers are
    equal strings; None if there is none. Raises MaltError for an unknown grader."""
    _check(grader)
    text = completion[-MAX_COMPLETION:]
    boxed, region = _marked(grader, text)
    if grader == "number":
        return _number(region, whole=boxed) if region is not None else _last_number(text)
    if grader == "choice":
        return _choice(region) if region is not None else _lone_letter(text)
    return _spaced(text if region is None else region)


def normal_gold(grader: str, gold: str) -> str | None:
    """A gold answer in the spelling of `extract_answer`; None if the grader cannot read it."""
    _check(grader)
    if grader == "number":
        return _number(gold, whole=True)
    return _lone_letter(gold) if grader == "choice" else _spaced(gold)


def can_read(grader: str, gold: str) -> bool:
    """Is a gold answer one that the grader can compare others with?"""
    return normal_gold(grader, gold) is not None


def number_answers(
    grader: str, completions: Sequence[Sequence[str | None]]
) -> npt.NDArray[np.int64]:
    """int64[questions, outputs]: in a row, equal answers have equal numbers; -1 is no answer."""
    said: dict[str, str | None] = {}
    numbers = np.full((len(completions), len(completions[0]) if completions else 0), -1, np.int64)
    for q, row in enumerate(completions):
        seen: dict[str, int] = {}
        for i, text in enumerate(row):
            if text is None:
                continue
            if text not in said:
                said[text] = extract_answer(grader, text)
            answer = said[text]
            if answer is not None:
                numbers[q, i] = seen.setdefault(answer, len(seen))
    return numbers


def _check(grader: str) -> None:
    if grader not in GRADERS:
        raise MaltError(f"there is no grader '{grader}': {nearest(grader, GRADERS)}")


# ---- where the answer stands ----


def _marked(grader: str, text: str) -> tuple[bool, str | None]:
    """(is it a box, the text in the last box or after the last marker); None = nothing marked."""
    if last := _last(_BOX, text):
        return True, _braced(text[last.end() : last.end() + MAX_ANSWER])
    if not (last := _last(_NUMBER_MARKER if grader == "number" else _MARKER, text)):
        return False, None
    after = text[last.end() : last.end() + MAX_ANSWER].lstrip(" \t\r\n*_")
    return False, after.partition("\n")[0]


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = deque(pattern.finditer(text), maxlen=1)
    return found[0] if found else None


def _braced(text: str) -> str:
    """What the braces that open `text` hold, nested ones balanced; of `\\boxed 2`, the word."""
    if not text.startswith("{"):
        return (text.split(maxsplit=1) or [""])[0]
    depth = 0
    for i, char in enumerate(text):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return text[1:i]
    return ""  # never closed: no answer


# ---- what it says ----


def _number(region: str, *, whole: bool) -> str | None:
    """The first number after the last `=`; None if it is part of a formula.

    whole=True: nothing but the number and its unit may stand there.
    """
    if len(region) > MAX_ANSWER:
        return None
    text = _TEXT.sub(r" \1 ", region.translate(_MINUS))
    text = _DROP.sub("", _FRAC.sub(r" \1/\2 ", text)).replace("{,}", ",").rpartition("=")[2]
    match = _NUMBER.search(text)
    if not match:
        return None
    before, after = text[: match.start()], text[match.end() :]
    if _FUNCTION_BEFORE.search(before) or _MORE_AFTER.match(after) or after[:1].isnumeric():
        return None
    if whole and (before.strip(" \t\r\n({") or not _UNIT.fullmatch(after)):
        return None
    return _canonical(match.group())


def _last_number(text: str) -> str | None:
    last = _last(_NUMBER, _DROP.sub("", text.translate(_MINUS)))
    return _canonical(last.group()) if last else None


def _canonical(number: str) -> str | None:
    """`1,200.50` as `2401/2`; None for a zero denominator or an endless number."""
    if len(number) > MAX_DIGITS:
        return None
    top, _, bottom = number.replace(",", "").partition("/")
    divisor = Fraction(bottom or 1)
    return str(Fraction(top) / divisor) if divisor else None


def _choice(region: str) -> str | None:
    """The letter that opens the region; None if it names two or merely begins with a word."""
    text = _DROP.sub("", _TEXT.sub(r"\1", region))
    match = _CHOICE.match(text)
    if not match:
        return None
    letter, after = match.group(1), text[match.end() :]
    if _SECOND_CHOICE.match(after) or (letter.islower() and after.strip(" .)]}\"'")):
        return None
    return letter.upper()


def _lone_letter(text: str) -> str | None:
    tail = text[-MAX_ANSWER:].strip().rpartition("\n")[2]
    match = _LONE_LETTER.fullmatch(tail)
    return match.group(1).upper() if match else None


def _spaced(text: str) -> str | None:
    return " ".join(text.split()) or None
