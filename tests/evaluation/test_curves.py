"""Curves against the enumeration of all subsets, and against drawing them at random."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malt_fast.evaluation.curves import majority_at_k, pass_at_k
from malt_fast.evaluation.statistics import bootstrap_means
from tests.volume import volume


def majority(said: list[int], correct: set[int]) -> Fraction:
    """Chance that a vote with ties split evenly is right."""
    counts = {answer: said.count(answer) for answer in said if answer >= 0}
    winners = [answer for answer, n in counts.items() if n == max(counts.values())]
    return Fraction(len([a for a in winners if a in correct]), max(1, len(winners)))


def average(n: int, k: int, chance) -> Fraction:
    subsets = list(combinations(range(n), k))
    return sum(map(chance, subsets), Fraction(0)) / len(subsets)


@settings(max_examples=volume(120))
@given(st.lists(st.integers(-1, 4), min_size=1, max_size=8), st.sets(st.integers(0, 4)))
def test_all_subsets(said, correct):
    n, right = len(said), np.array([[answer in correct for answer in said]])
    found = majority_at_k(np.array([said]), right)[0]
    exact = [
        average(n, k, lambda subset: majority([said[i] for i in subset], correct))
        for k in range(1, n + 1)
    ]
    assert found == pytest.approx([float(x) for x in exact], abs=1e-12)
    passes = [
        average(n, k, lambda subset: Fraction(any(right[0, i] for i in subset)))
        for k in range(1, n + 1)
    ]
    assert pass_at_k(right)[0] == pytest.approx([float(x) for x in passes], abs=1e-12)


def test_27_passes_by_drawing_subsets():
    rng = np.random.default_rng(0)
    said = rng.choice([-1, 0, 1, 2, 3, 4, 5], p=[0.1, 0.3, 0.25, 0.15, 0.1, 0.05, 0.05], size=27)
    right = (said == 1)[None]
    curve, passes = majority_at_k(said[None], right)[0], pass_at_k(right)[0]
    for k in (1, 2, 3, 9, 20, 27):
        drawn = [said[rng.permutation(27)[:k]].tolist() for _ in range(4000)]
        assert curve[k - 1] == pytest.approx(
            np.mean([float(majority(d, {1})) for d in drawn]), abs=0.03
        )
        assert passes[k - 1] == pytest.approx(np.mean([1 in d for d in drawn]), abs=0.03)
    assert curve[0] == pytest.approx(right.mean()) == passes[0]


def test_known_cases():
    answers = np.array([[3, 3, 3], [-1, -1, -1], [0, 1, 2], [0, 0, 1]])
    right = np.array([[True] * 3, [False] * 3, [True, False, False], [False, False, True]])
    assert majority_at_k(answers, right).tolist() == pytest.approx(
        np.array([[1, 1, 1], [0, 0, 0], [1 / 3, 1 / 3, 1 / 3], [1 / 3, 1 / 3, 0]])
    )
    assert pass_at_k(right)[3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert majority_at_k(np.zeros((0, 5), int), np.zeros((0, 5), bool)).shape == (0, 5)


@pytest.mark.parametrize("n", [1, 256])
def test_the_largest_pool_stays_finite(n):
    rng = np.random.default_rng(1)
    answers = rng.integers(-1, 12, (20, n))
    curve = majority_at_k(answers, answers == 3)
    assert np.isfinite(curve).all() and (curve >= 0).all() and (curve <= 1 + 1e-9).all()
    # with all passes there is one subset: the plain vote
    for q in range(20):
        assert curve[q, -1] == pytest.approx(float(majority(answers[q].tolist(), {3})))


def test_bootstrap_of_means_is_that_of_resampled_questions():
    rng = np.random.default_rng(2)
    values = rng.random((200, 2)) ** [1, 3]
    low, high = bootstrap_means(values, resamples=4000, seed=3)
    drawn = [values[rng.integers(0, 200, 200)].mean(0) for _ in range(4000)]
    assert np.array([low, high]) == pytest.approx(np.quantile(drawn, (0.025, 0.975), 0), abs=5e-3)
    assert (bootstrap_means(values, resamples=4000, seed=3) == [low, high]).all()
    many = bootstrap_means(np.ones((3_000_000, 1)), resamples=3, seed=0)  # one resample at a time
    assert many == pytest.approx(np.ones((2, 1)))
