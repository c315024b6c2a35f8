"""Intervals and tests against enumeration and textbook definitions."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malt_fast.evaluation.statistics import (
    Z95,
    mcnemar,
    paired_bootstrap,
    wilson,
)


def bools(text: str) -> np.ndarray:
    return np.array([c == "1" for c in text], np.bool_)


@given(st.integers(1, 5000), st.data())
def test_wilson_ends_are_where_the_score_test_turns(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, n))
    for end in wilson(right, n):
        assert 0 <= end <= 1
        distance = abs(right / n - end)
        assert distance == pytest.approx(Z95 * math.sqrt(end * (1 - end) / n), abs=1e-9)
    low, high = wilson(right, n)
    assert low <= right / n <= high


def test_wilson_published_values_and_edges() -> None:
    # Newcombe 1998, table I, method 3.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(29, 29)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


def mcnemar_by_coins(only_a: int, only_b: int) -> float:
    """Toss every discordant question's coin in all ways; count splits at least as uneven."""
    n = only_a + only_b
    tosses = list(itertools.product((0, 1), repeat=n))
    uneven = [t for t in tosses if abs(2 * sum(t) - n) >= abs(only_a - only_b)]
    return len(uneven) / len(tosses)


@pytest.mark.parametrize("only_a", range(6))
@pytest.mark.parametrize("only_b", range(6))
def test_mcnemar_is_the_share_of_coin_tosses_as_uneven(only_a: int, only_b: int) -> None:
    a = bools("1" * only_a + "0" * only_b + "1100")
    b = bools("0" * only_a + "1" * only_b + "1100")
    assert mcnemar(a, b) == pytest.approx(mcnemar_by_coins(only_a, only_b))
    assert mcnemar(a, b) == mcnemar(b, a)


def test_mcnemar_of_thousands_of_questions() -> None:
    a, b = np.ones(4000, np.bool_), np.zeros(4000, np.bool_)
    assert mcnemar(a, b) == pytest.approx(0.0, abs=1e-300)
    assert mcnemar(a, a) == 1.0
    half = np.arange(4000) % 2 == 0
    assert mcnemar(half, ~half) == 1.0


def exact_bootstrap(differences: list[int]) -> tuple[float, float]:
    """Quantiles over all n^n ways to draw n questions with replacement."""
    n = len(differences)
    means = [sum(draw) / n for draw in itertools.product(differences, repeat=n)]
    return tuple(np.quantile(means, (0.025, 0.975)))


@pytest.mark.parametrize(
    ("a", "b"), [("11100", "01010"), ("111111", "000111"), ("101010", "010111"), ("1", "0")]
)
def test_bootstrap_against_all_resamples(a: str, b: str) -> None:
    differences = [int(x) - int(y) for x, y in zip(a, b, strict=True)]
    found = paired_bootstrap(bools(a), bools(b), resamples=200_000, seed=1)
    assert found == pytest.approx(exact_bootstrap(differences), abs=1e-12)


def test_bootstrap_against_resampled_indices() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(1000) < 0.6, rng.random(1000) < 0.5
    difference = a.astype(float) - b
    means = [difference[rng.integers(0, 1000, 1000)].mean() for _ in range(10_000)]
    expected = np.quantile(means, (0.025, 0.975))
    assert paired_bootstrap(a, b, resamples=10_000, seed=5) == pytest.approx(expected, abs=0.004)


def test_bootstrap_is_seeded_and_knows_no_order() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random(301) < 0.6, rng.random(301) < 0.5
    order = rng.permutation(301)
    first = paired_bootstrap(a, b, resamples=500, seed=9)
    assert first == paired_bootstrap(a[order], b[order], resamples=500, seed=9)
    assert first != paired_bootstrap(a, b, resamples=500, seed=10)
    low, high = paired_bootstrap(b, a, resamples=100_000, seed=9)
    assert (-high, -low) == pytest.approx(
        paired_bootstrap(a, b, resamples=100_000, seed=9), abs=0.01
    )
    assert paired_bootstrap(a, a, resamples=500, seed=9) == (0, 0)
