"""Intervals and tests for right and wrong answers to the same questions."""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Z95 = 1.959963984540054  # 97.5 % point of the standard normal distribution
Interval = tuple[float, float]


def wilson(right: int, n: int) -> Interval:
    """95 % score interval of a share `right / n` (Wilson 1927); (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = right / n, Z95 * Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # The ends are exactly 0 and 1 for none and all right; rounding must not move them.
    return (0.0 if right == 0 else centre - half), (1.0 if right == n else centre + half)


def paired_bootstrap(
    a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_], *, resamples: int, seed: int
) -> Interval:
    """95 % percentile interval of mean(a) - mean(b), questions drawn with replacement.

    a, b: bool[n], n > 0, aligned by question. A question's difference is -1, 0 or 1, and the counts
    of the three in a resample are multinomial: they are drawn instead of n indices.
    """
    values, counts = np.unique(a.astype(np.int64) - b.astype(np.int64), return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(a), counts / len(a), size=resamples)
    low, high = np.quantile(draws @ values / len(a), (0.025, 0.975))
    return float(low), float(high)


def mcnemar(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    """Exact two-sided p-value for the hypothesis that a and b are right equally often.

    McNemar (1947): a question that only one of them answers correctly is a fair coin under the
    hypothesis, so p = 2 P(Binomial(discordant, 1/2) <= the smaller count), at most 1.
    """
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    tail = sum(_binomials(only_a + only_b, min(only_a, only_b)))
    return min(1.0, 2 * tail / 2 ** (only_a + only_b))


def _binomials(n: int, last: int) -> Iterator[int]:
    """C(n, 0), ..., C(n, last)."""
    term = 1
    for i in range(last + 1):
        yield term
        term = term * (n - i) // (i + 1)


def bootstrap_means(
    values: npt.NDArray[np.float64], *, resamples: int, seed: int
) -> npt.NDArray[np.float64]:
    """float64[2, m]: 95 % percentile intervals of the column means of values[n, m], n > 0.

    Questions (rows) are drawn with replacement, the same ones for all columns.
    """
    n, rng = len(values), np.random.default_rng(seed)
    step = max(1, (1 << 22) // n)  # resamples at once: 32 MB of counts
    sizes = [min(step, resamples - done) for done in range(0, resamples, step)]
    draws = (rng.multinomial(n, np.full(n, 1 / n), size=size) for size in sizes)
    means = np.concatenate([drawn @ values / n for drawn in draws])
    return np.quantile(means, (0.025, 0.975), axis=0)
