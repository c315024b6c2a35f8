"""Credit against exact rational arithmetic in plain Python."""

from fractions import Fraction
from itertools import chain
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malt_fast._core.forest import Forest, credit
from tests.core.forests import Node, grow, trees

THRESHOLDS = st.fractions(0, 1, max_denominator=8)


def average(values: list[Fraction | None]) -> Fraction | None:
    known = [value for value in values if value is not None]
    return sum(known, Fraction(0)) / len(known) if known else None


def value_of(node: Node, mean: str = "children") -> Fraction | None:
    """The definition, top down."""
    if node.outcome is not None:
        return Fraction(node.outcome)
    if mean == "leaves":
        return average([None if v.outcome is None else Fraction(v.outcome) for v in node.walk()])
    return average([value_of(child) for child in node.children])


def passes(value: Fraction | None, threshold: Fraction, inclusive: bool) -> int:
    """The label: 1, 0 or -1 for none."""
    if value is None:
        return -1
    return int(value >= threshold if inclusive else value > threshold)


def local_value_of(node: Node, threshold: Fraction, inclusive: bool) -> Fraction | None:
    if node.outcome is not None:
        return Fraction(node.outcome)
    values = [local_value_of(child, threshold, inclusive) for child in node.children]
    labels = [passes(value, threshold, inclusive) for value in values]
    return average([None if label < 0 else Fraction(label) for label in labels])


@given(trees(), THRESHOLDS, st.booleans(), st.sampled_from(["children", "leaves", "local"]))
def test_credit_is_the_exact_mean(
    questions: list[Node],
    threshold: Fraction,
    inclusive: bool,
    kind: Literal["children", "leaves", "local"],
) -> None:
    forest, node_of = grow(questions)
    result = credit(
        forest,
        (threshold.numerator, threshold.denominator),
        inclusive,
        "children" if kind == "local" else kind,
        "local" if kind == "local" else "global",
    )
    for i, node in node_of.items():
        if kind == "local":
            value = local_value_of(node, threshold, inclusive)
        else:
            value = value_of(node, kind)
        assert result.label[i] == passes(value, threshold, inclusive)
        np.testing.assert_equal(result.value[i], np.nan if value is None else float(value))


def tree_with_leaves(outcomes: list[list[int]]) -> tuple[Forest, dict[int, Node]]:
    """One question, a child per list, a graded leaf per entry."""
    question = Node((0,))
    for i, leaves in enumerate(outcomes):
        child = Node((0, i), tokens=[i])
        child.children = [Node((0, i, k), tokens=[k], outcome=o) for k, o in enumerate(leaves)]
        question.children.append(child)
    return grow([question])


@pytest.mark.parametrize("n", range(1, 9))
def test_a_tie_at_the_threshold_is_a_tie(n: int) -> None:
    """k of n right leaves against the threshold k/n: a float mean gets some of these wrong."""
    for k in range(n + 1):
        forest, node_of = tree_with_leaves([[1] * k + [0] * (n - k)])
        child = next(i for i, node in node_of.items() if node.path == (0, 0))
        assert credit(forest, (k, n)).label[child] == 0
        assert credit(forest, (k, n), inclusive=True).label[child] == 1


def test_a_tie_of_unequal_denominators_is_a_tie() -> None:
    """(1/3 + 2/3 + 1/2) / 3 = 1/2, which floats summed in this order miss on some machines."""
    forest, _ = tree_with_leaves([[1, 0, 0], [1, 1, 0], [1, 0]])
    assert credit(forest).value[0] == 0.5
    assert credit(forest).label[0] == 0


def test_ragged_trees_tell_children_from_leaves() -> None:
    forest, _ = tree_with_leaves([[1], [0, 0, 0]])
    assert credit(forest).value[0] == 0.5
    assert credit(forest, mean="leaves").value[0] == 0.25


def test_fan_outs_too_ragged_for_exact_means_are_refused() -> None:
    primes = [n for n in range(2, 60) if all(n % d for d in range(2, n))]
    forest, _ = tree_with_leaves([[1] * (n - 1) + [0] for n in primes])
    with pytest.raises(ValueError, match="2\\*\\*63"):
        credit(forest)
    share = Fraction(sum(n - 1 for n in primes), sum(primes))
    assert credit(forest, mean="leaves").value[0] == float(share)


def test_thirty_ragged_children_of_thirty_are_exact() -> None:
    outcomes = [[1] + [0] * (n - 1) for n in range(1, 31)]
    forest, _ = tree_with_leaves(outcomes)
    exact = sum((Fraction(1, n) for n in range(1, 31)), Fraction(0)) / 30
    assert credit(forest, (exact.numerator, exact.denominator)).label[0] == 0
    assert credit(forest, (exact.numerator - 1, exact.denominator)).label[0] == 1
    assert credit(forest).value[0] == pytest.approx(float(exact), rel=1e-15)


def test_credit_equals_numpy_on_a_uniform_forest() -> None:
    rng, n = np.random.default_rng(0), 4
    forest, level, widths = Forest(), np.arange(50), []
    forest.add_questions(50)
    for _ in range(3):
        first = forest.reserve(level, np.full(level.size, n))
        level = (first[:, None] + np.arange(n)).ravel()
        widths.append(level)
        forest.complete(level, [], np.zeros(level.size + 1), np.zeros(level.size))
    outcome = rng.integers(0, 2, level.size)
    forest.set_outcomes(level, outcome)
    value, mean = credit(forest).value, outcome.astype(float)
    for ids in reversed([np.arange(50), *widths]):
        np.testing.assert_array_equal(value[ids], mean)
        mean = mean.reshape(-1, n).mean(axis=1) if ids.size > 50 else mean


def test_empty_and_ungraded_forests_have_no_values() -> None:
    assert credit(Forest()).value.shape == (0,)
    forest, _ = grow([Node((0,), children=[Node((0, 0))])])
    assert np.isnan(credit(forest).value).all()
    assert credit(forest).label.tolist() == [-1, -1]


def test_results_are_read_only_and_outlive_their_owner() -> None:
    value = credit(tree_with_leaves([[1, 0, 1]])[0]).value
    assert value.tolist() == [*chain([2 / 3] * 2, [1, 0, 1])]
    assert not value.flags.writeable


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": (1, 0)},
        {"threshold": (3, 2)},
        {"threshold": (-1, 2)},
        {"mean": "median"},
        {"pooling": "none"},
        {"mean": "leaves", "pooling": "local"},
    ],
)
def test_misuse_raises(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        credit(Forest(), **wrong)  # type: ignore[arg-type]
