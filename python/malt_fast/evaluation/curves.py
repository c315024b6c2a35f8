"""pass@k and maj@k from one pool of n passes, averaged exactly over all subsets of k passes.

Every subset is as likely a sample as the first k passes, so the exact mean removes the chance of
the draw from a curve. Per question:

    pass@k    is any of k right?       1 - C(n - c, k) / C(n, k), c of n right (Chen et al., 2021)
    maj@k     is their vote right?     see `majority_at_k`
"""

from collections import Counter
from functools import cache
from math import comb

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def pass_at_k(right: npt.NDArray[np.bool_]) -> Floats:
    """float64[questions, n]: P(any of k passes is right), k = 1 .. n, of right[questions, n]."""
    n = right.shape[1]
    table = [[1 - comb(n - c, k) / comb(n, k) for k in range(1, n + 1)] for c in range(n + 1)]
    return np.array(table)[right.sum(1)]


def majority_at_k(answers: npt.NDArray[np.int64], right: npt.NDArray[np.bool_]) -> Floats:
    """float64[questions, n]: P(k passes vote for a right answer), k = 1 .. n.

    answers, right [questions, n] as in judge.Judged: equal answers have equal numbers, -1 does not
    vote. Tied answers share the win evenly. A custom grader may accept an answer in some passes
    only: its win then counts by the share of them.
    """
    rows = []
    for said, good in zip(answers.tolist(), right.tolist(), strict=True):
        sizes = Counter(answer for answer in said if answer >= 0)
        correct = Counter(a for a, is_right in zip(said, good, strict=True) if is_right and a >= 0)
        rows.append(
            sum(
                (
                    n / sizes[answer] * _wins(len(said), *_sizes(sizes, answer))
                    for answer, n in correct.items()
                ),
                np.zeros(len(said)),
            )
        )
    return np.array(rows).reshape(answers.shape)


def _sizes(sizes: Counter[int], answer: int) -> tuple[int, tuple[int, ...]]:
    """Votes for `answer`, and for each other answer."""
    return sizes[answer], tuple(sorted(n for other, n in sizes.items() if other != answer))


@cache
def _wins(n: int, own: int, others: tuple[int, ...]) -> Floats:
    """float64[n]: P(an answer wins the vote of k out of n passes), k = 1 .. n.

    own: passes with this answer; others: passes with each other answer; the rest have no answer.
    With `a` votes the answer wins if no other has more, and shares the win with t others that have
    as many: 1 / (t + 1). Answers of fewer than `a` passes cannot tie; they only fill the subset.
    """
    subsets = np.zeros(n + 1)  # [k], weighted by the share of the win
    for a in range(1, own + 1):
        rivals = [size for size in others if size >= a]
        ways = _ways(a, rivals, fillers=n - own - sum(rivals), most=n - a)
        share = (1 / np.arange(1, len(ways) + 1)) @ ways
        subsets[a:] += comb(own, a) * share
    return subsets[1:] / np.array([comb(n, k) for k in range(1, n + 1)], np.float64)


def _ways(a: int, rivals: list[int], fillers: int, most: int) -> Floats:
    """float64[t, r]: ways to draw r <= most other passes: t rivals have `a` votes, none more.

    Dynamic programming over the rivals; all terms are positive, so nothing cancels.
    """
    ways = np.zeros((len(rivals) + 1, most + 1))
    ways[0, : fillers + 1] = [comb(fillers, r) for r in range(min(fillers, most) + 1)]
    for size in rivals:
        more = np.zeros_like(ways)
        for votes in range(min(a, most + 1)):
            more[:, votes:] += comb(size, votes) * ways[:, : most + 1 - votes]
        if a <= most:
            more[1:, a:] += comb(size, a) * ways[:-1, : most + 1 - a]
        ways = more
    return ways
