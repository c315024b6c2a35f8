"""Golds changed in one place, which no grader may call equal (bench_grading.py)."""

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from malt_fast import _core
from malt_fast.grading import symbolic
from malt_fast.grading.verdicts import EQUAL, UNKNOWN

DRAWS = 3  # of a digit or a letter in every place
SWAPPED = {
    "sign": {"+": "-", "-": "+"},
    "relation": {
        **{"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", r"\leq": r"\geq", r"\geq": r"\leq"},
        **{"=": r"\ne", r"\in": r"\notin", r"\cup": r"\cap", r"\cap": r"\cup"},
    },
    "unit": {
        **{"cm": "m", "m": "km", "inches": "feet", "feet": "yards", "cents": "dollars"},
        **{"dollars": "cents", "hours": "minutes", "minutes": "hours", "degrees": "radians"},
        **{"days": "weeks", "miles": "feet", "square": "cubic", "kg": "g", "grams": "pounds"},
    },
}
PIECES = {
    "sign": re.compile(r"(?<![\^{(,])[+-]"),  # not of what may be raised to an even power
    "relation": re.compile(r"\\(?:leq?|geq?|in|cup|cap)(?![A-Za-z])|[<>]|(?<=[A-Za-z0-9} ])="),
    "unit": re.compile(r"(?<![A-Za-z\\])[a-z]+(?![A-Za-z])(?=[^{}]*\})"),
    "number": re.compile(r"\d"),
    "letter": re.compile(r"(?<![A-Za-z\\])[a-zA-Z](?![A-Za-z])"),
}


def changes(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    """(what was changed, the gold with that change), for every place that can be changed."""
    head = gold.rfind("=") + 1  # the name before it is dropped by every grader,
    letters = {found.group() for found in PIECES["letter"].finditer(gold)}
    if PIECES["relation"].search(gold) and len(letters) == 1:
        head = len(gold)  # and so is the name of a bounded number
    rounded = gold.find("\\approx") if "\\approx" in gold else len(gold)
    for what, pattern in PIECES.items():
        for found in pattern.finditer(gold):
            old, at = found.group(), found.start()
            if at > rounded:
                continue
            if what == "number":
                new = rng.choice([d for d in "123456789" if d != old])
            elif what == "letter":
                if at < head or f"\\text{{{old}" in gold:
                    continue
                new = rng.choice([c for c in "abcknpqrstuvwxyz" if c != old.lower()])
                new = new.upper() if old.isupper() else new
            elif old in SWAPPED[what]:
                new = SWAPPED[what][old]
            else:
                continue
            yield what, gold[:at] + new + gold[found.end() :]


def count_equal(golds: Sequence[tuple[str, str]], number: int) -> dict[str, Any]:
    """How many changed golds are called equal, by what was changed and by who said so.

    golds: (grader, gold). At most about `number` changes are tried.
    """
    rng = random.Random(0)
    made = list(
        dict.fromkeys(
            (grader, gold, *change)
            for grader, gold in golds
            for _ in range(DRAWS)
            for change in changes(gold, rng)
        )
    )
    made = rng.sample(made, min(number, len(made)))
    tried, said = Counter[str](), Counter[str]()
    examples: list[str] = []
    for grader in sorted({grader for grader, *_ in made}):
        rows = [row for row in made if row[0] == grader]
        pairs = [(gold, new) for _, gold, _, new in rows]
        verdicts = _core.answers.compare_answers(grader, *map(list, zip(*pairs, strict=True)))
        unsure = np.flatnonzero(verdicts == UNKNOWN).tolist() if grader == "math" else []
        proved = dict(zip(unsure, symbolic.equal([pairs[i] for i in unsure]), strict=True))
        for i, (_, gold, what, new) in enumerate(rows):
            tried[what] += 1
            by = "core" if verdicts[i] == EQUAL else "math-verify"
            if verdicts[i] == EQUAL or proved.get(i) == "equal":
                said[f"{what}, {by}"] += 1
                examples.append(f"{by}: {gold} | {new}")
    equal = sum(said.values())
    return {
        "tried": dict(tried),
        "equal": dict(said),
        "share": equal / len(made),
        "examples": examples,
    }
