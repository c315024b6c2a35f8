"""Training questions that copy held-out ones, found in time linear in their characters.

Texts are read as arrays of code points, and words, texts and runs of words are compared by 64-bit
hashes: a million questions take seconds. Two of 50 million runs have the same hash by chance once
in ten thousand sets.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from malt_fast.tasks.task import Question

RUN = 13  # words
SHARE = 1 / 3
PUNCTUATION = re.compile(r"(?<!\d)[.,;:?\"']|[.,;:?\"'](?!\d)")  # not that of 3.5 and 12:30
SIGNS = "+*/^=<>"  # words of one letter, as is a minus unless it is a hyphen: `3-4` is not `3+4`
NUMERALS = (  # "one" is mostly a pronoun
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred "
    "thousand million half third quarter twice thrice double triple dozen"
)
CHARACTERS = 1 << 20  # of texts at a time

# Kinds of characters
UNKNOWN, OTHER, SIGN, MINUS, DIGIT, LETTER = range(6)

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
ODD = np.uint64(0x9E3779B97F4A7C15)


def contaminated(train: Sequence[Question], test: Sequence[Question]) -> list[str]:
    """Ids of training questions that are copies of held-out ones.

    A copy has the same words as a held-out question; or it has the same numbers in the same order,
    and at least a third of its words lie in runs of 13 words that held-out questions have, too.

    The numbers are compared because word problems come in families that share their sentences. Of
    GSM8K's 7,473 training questions three share 0.76, 0.76 and 0.45 of their words with a question
    of the test set and have other numbers: another problem with another answer. The share is needed
    because a single run may be a phrase. Of CommonsenseQA's 9,741 one is a copy (0.46).
    """
    kinds = np.zeros(0x110000, np.uint8)  # of all code points, filled in as they come
    held = [_read(texts, kinds) for texts in _chunks(q.text for q in test)]
    wholes = _known(one.whole for one in held)
    runs = _known(one.run[one.fits] for one in held)
    keys = {_key(q.text) for q in test}
    found, first = list[str](), 0
    for texts in _chunks(q.text for q in train):
        words = _read(texts, kinds)
        share = _share(words, _are_in(words.run, runs) & words.fits)
        for i in np.flatnonzero(_are_in(words.whole, wholes) | (share >= SHARE)):
            if share[i] >= SHARE or _key(texts[i]) in keys:
                found.append(train[first + int(i)].id)
        first += len(texts)
    return found


def _key(text: str) -> str:
    """The text without case, white space and the punctuation of sentences, but with all signs.

    Texts with the same key have the same words.
    """
    return " ".join(PUNCTUATION.sub(" ", text.casefold()).split()) or text.strip()


class Words(NamedTuple):
    """The W words of T texts, one after the other."""

    begin: Ints  # [T + 1]: those of text i are begin[i] : begin[i + 1]
    whole: Hashes  # [T]: of all words of a text in any order
    run: Hashes  # [W]: of the RUN words from here on, and of the numbers of the whole text
    fits: npt.NDArray[np.bool_]  # [W]: whether these are all of one text


def _read(texts: list[str], kinds: npt.NDArray[np.uint8]) -> Words:
    """kinds [0x110000]: of code points, UNKNOWN before they first come."""
    lines = [_without_drawings(text.casefold()) + "\n" for text in texts]
    codes = np.frombuffer("".join(lines).encode("utf-32-le", "surrogatepass"), np.uint32)
    new = np.unique(codes[kinds[codes] == UNKNOWN])
    kinds[new] = [_kind(chr(code)) for code in new]
    kind = kinds[codes]
    starts, ends = _bounds(kind)
    words = _mix(_sums_between(codes.astype(np.uint64), starts, ends))
    line = np.cumsum([0, *map(len, lines)])
    begin = np.searchsorted(starts, line)
    is_number = _are_in(words, _numerals())
    is_number[np.searchsorted(starts, np.flatnonzero(kind == DIGIT), "right") - 1] = True
    numbers = _numbers(words, begin, np.flatnonzero(is_number))
    sums = np.append(np.uint64(0), np.cumsum(words))
    ahead = np.append(words, np.zeros(RUN - 1, np.uint64))
    run = np.zeros(len(words), np.uint64)
    for k in range(RUN):
        run = run * ODD + ahead[k : k + len(words)]
    left = np.repeat(begin[1:], np.diff(begin)) - np.arange(len(words))
    run = _mix(run) ^ np.repeat(numbers, np.diff(begin))
    return Words(begin, sums[begin[1:]] - sums[begin[:-1]], run, left >= RUN)


def _numbers(words: Hashes, begin: Ints, at: Ints) -> Hashes:
    """[T]: hashes of the numbers of each text, in their order; at: the places of all numbers."""
    first = np.searchsorted(at, begin)  # [T + 1]: numbers before each text
    rank = np.arange(len(at)) - np.repeat(first[:-1], np.diff(first))
    power = np.cumprod(np.full(int(rank.max(initial=0)) + 1, ODD))
    sums = np.append(np.uint64(0), np.cumsum(words[at] * power[rank]))
    return _mix(sums[first[1:]] - sums[first[:-1]])


@cache
def _numerals() -> "Known":
    """The hashes of numbers that are written as words."""
    codes = np.frombuffer(NUMERALS.encode("utf-32-le"), np.uint32)
    ends = np.cumsum([len(word) + 1 for word in NUMERALS.split()]) - 1
    starts = ends - [len(word) for word in NUMERALS.split()]
    return _known([_mix(_sums_between(codes.astype(np.uint64), starts, ends))])


def _without_drawings(text: str) -> str:
    """A text without its Asymptote drawings, which begin alike in MATH."""
    before, *drawings = text.split("[asy]")
    return " ".join([before, *(after.rpartition("[/asy]")[2] for after in drawings)])


def _kind(letter: str) -> int:
    if letter == "-":
        return MINUS
    if letter.isalnum():
        return DIGIT if letter.isdecimal() else LETTER
    return SIGN if letter in SIGNS else OTHER


def _bounds(kind: npt.NDArray[np.uint8]) -> tuple[Ints, Ints]:
    """First characters of words and those behind their last; kind [N]: of the characters."""
    before, after = np.append(np.uint8(OTHER), kind[:-1]), np.append(kind[1:], np.uint8(OTHER))
    hyphen = (before == LETTER) & (after == LETTER)
    alone = (kind == SIGN) | ((kind == MINUS) & ~hyphen)
    inside = kind >= DIGIT
    starts = np.flatnonzero(alone | (inside & (before < DIGIT)))
    return starts, np.flatnonzero(alone | (inside & (after < DIGIT))) + 1


def _sums_between(codes: Hashes, starts: Ints, ends: Ints) -> Hashes:
    """Polynomials in ODD of the codes from `starts` to `ends`, modulo 2^64."""
    power = np.cumprod(np.full(len(codes), ODD))
    inverse = np.cumprod(np.full(len(codes), np.uint64(pow(int(ODD), -1, 1 << 64))))
    sums = np.append(np.uint64(0), np.cumsum(codes * power))
    return (sums[ends] - sums[starts]) * inverse[starts]


def _mix(x: Hashes) -> Hashes:
    """A bijection after which every bit depends on all bits (the last steps of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Known(NamedTuple):
    """A set of hashes."""

    ascending: Hashes
    first_bits: npt.NDArray[np.bool_]  # [2^n]: which values of their first n bits there are


def _known(parts: Iterable[Hashes]) -> Known:
    ascending = np.unique(np.concatenate([np.zeros(0, np.uint64), *parts]))
    bits = len(ascending).bit_length() + 3
    table = np.zeros(1 << bits, np.bool_)
    table[ascending >> np.uint64(64 - bits)] = True
    return Known(ascending, table)


def _are_in(hashes: Hashes, known: Known) -> npt.NDArray[np.bool_]:
    """[n]: whether each hash is known; most are not, which their first bits tell faster."""
    bits = len(known.first_bits).bit_length() - 1
    found = known.first_bits[hashes >> np.uint64(64 - bits)]
    some = hashes[found]
    place = np.searchsorted(known.ascending, some)
    found[found] = known.ascending[np.minimum(place, len(known.ascending) - 1)] == some
    return found


def _share(words: Words, copied: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """[T]: the share of each text's words that lie in copied runs; copied [W]: by first word."""
    starts = np.flatnonzero(copied)
    depth = np.zeros(len(copied) + 1, np.int64)
    depth[starts] += 1
    np.subtract.at(depth, starts + RUN, 1)
    sums = np.append(0, np.cumsum(np.cumsum(depth[:-1]) > 0))
    first, behind = words.begin[:-1], words.begin[1:]
    return (sums[behind] - sums[first]) / np.maximum(1, behind - first)


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts of about CHARACTERS together."""
    chunk, size = list[str](), 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
