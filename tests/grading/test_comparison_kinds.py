"""Kinds of answers that look alike: the core decides them, equal and different ones."""

from pathlib import Path

import pytest

from malt_fast import _core
from malt_fast.grading import answers_equal

EQUAL = 1


def read_kinds(path: Path) -> dict[str, list[tuple[str, str, bool]]]:
    """The (prediction, gold, are they equal?) of every kind."""
    kinds: dict[str, list[tuple[str, str, bool]]] = {}
    for line in path.read_text(encoding="utf-8").replace("⏎", "\r").split("\n"):
        if line.startswith("## "):
            kinds[line[3:]] = rows = []
        elif line and not line.startswith("#"):
            sign = "  ===  " if "  ===  " in line else "  =/=  "
            prediction, gold = line.replace("\r", "\n").split(sign)
            rows.append((prediction, gold, "===" in sign))
    return kinds


KINDS = read_kinds(Path(__file__).with_name("comparison_kinds.txt"))


def core(prediction: str, gold: str) -> int:
    return int(_core.answers.compare_answers("math", [gold], [prediction])[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_core_decides(kind: str) -> None:
    told = [(a, b, core(a, b) == EQUAL, core(b, a) == EQUAL) for a, b, _ in KINDS[kind]]
    assert told == [(a, b, equal, equal) for a, b, equal in KINDS[kind]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_grader_decides_alike(kind: str) -> None:
    told = [(a, b, answers_equal("math", a, b)) for a, b, _ in KINDS[kind]]
    assert told == KINDS[kind]


def test_a_letter_behind_a_number_is_a_unit_where_the_gold_is_a_number() -> None:
    for prediction in ("5 m", "5 L", "18 m^3", "9.8 m/s^2"):
        number = prediction.split()[0]
        assert core(prediction, number) == EQUAL
        assert core(prediction, number + "1") != EQUAL
    assert core("18", "18 m^3") != EQUAL


@pytest.mark.parametrize(
    "text",
    [
        *(r"\log_2 " * 40 + "8", r"e^{\ln " * 15 + "2" + "}" * 15, r"\lfloor " * 20 + "x"),
        "(" * 15 + "a" + "=b)" * 15,
    ],
)
def test_nested_functions_and_relations_end(text: str) -> None:
    core(text, text.replace("2", "3").replace("b", "c"))
