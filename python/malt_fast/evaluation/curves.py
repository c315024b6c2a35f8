"""Accuracy against votes, from one pool of passes: what k of its n passes would give on average.

Every subset of k passes is as likely a sample as the first k: averaging over all of them exactly
takes the luck of the draw out of a curve. Per question:

    pass@k    is one of k right?       1 - C(n - c, k) / C(n, k), c of n right (Chen et al., 2021)
    maj@k     is a majority right?     see `majority_at_k`
"""

from collections import Counter
from functools import cache
from math import comb

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def pass_at_k(right: npt.NDArray[np.bool_]) -> Floats:
    """float64[questions, n]: the chance that one of k = 1 .. n passes of right[questions, n] is."""
    n = right.shape[1]
    table = [[1 - comb(n - c, k) / comb(n, k) for k in range(1, n + 1)] for c in range(n + 1)]
    return np.array(table)[right.sum(1)]


def majority_at_k(answers: npt.NDArray[np.int64], right: npt.NDArray[np.bool_]) -> Floats:
    """float64[questions, n]: the chance that k = 1 .. n passes vote for a right answer.

    answers, right [questions, n] as in scores.Judged: equal answers have equal numbers, -1 does not
    vote. Tied answers share the win evenly. A grader of one's own may find an answer right in some
    passes only: it then wins by their share.
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
    """How many gave `answer`, and how many each other one."""
    return sizes[answer], tuple(sorted(n for other, n in sizes.items() if other != answer))


@cache
def _wins(n: int, own: int, others: tuple[int, ...]) -> Floats:
    """float64[n]: the chance that an answer wins the vote of k = 1 .. n of n passes.

    own: passes that gave it; others: passes that gave each of the other answers; the rest has none.
    With `a` votes an answer wins if no other has more; with t others that have as many it wins
    1 / (t + 1). Answers that fewer than `a` passes gave cannot tie: they are mere company.
    """
    subsets = np.zeros(n + 1)  # [k], weighted by the share of the win
    for a in range(1, own + 1):
        rivals = [size for size in others if size >= a]
        ways = _ways(a, rivals, company=n - own - sum(rivals), most=n - a)
        share = (1 / np.arange(1, len(ways) + 1)) @ ways
        subsets[a:] += comb(own, a) * share
    return subsets[1:] / np.array([comb(n, k) for k in range(1, n + 1)], np.float64)


def _ways(a: int, rivals: list[int], company: int, most: int) -> Floats:
    """float64[t, r]: ways to draw r <= most others' passes, t rivals having `a` votes, none more.

    A dynamic program, rival by rival; all terms are positive, so that nothing cancels.
    """
    ways = np.zeros((len(rivals) + 1, most + 1))
    ways[0, : company + 1] = [comb(company, r) for r in range(min(company, most) + 1)]
    for size in rivals:
        more = np.zeros_like(ways)
        for votes in range(min(a, most + 1)):
            more[:, votes:] += comb(size, votes) * ways[:, : most + 1 - votes]
        if a <= most:
            more[1:, a:] += comb(size, a) * ways[:-1, : most + 1 - a]
        ways = more
    return ways
