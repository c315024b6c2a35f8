"""Which outputs are sampled next, where a budget does not allow for all of full trees.

`tree.allocation: full` takes whole trees until the budget is used. `adaptive` begins every tree
with one path. Waves of further outputs follow, each where it makes most pairs per token. A
candidate is one more child of an output, with a narrow tree below it, of two siblings for each role
that learns from the forest and one for the others:

    gain = sum over the learning roles k of  c_k E[new pairs of k] / (1 + pairs of k)

    E[new pairs] = p N + (1 - p) P      in its own block of P positive and N negative outputs
                   m (m - 1) p (1 - p)  in each block of m below it

p is the share of right leaves below the parent, shrunk by PRIOR leaves towards that of its own
parent, and of a question towards that of the forest: the mean of a Beta posterior (empirical Bayes,
level by level). c_k corrects what p cannot know: the outputs of some roles hardly ever differ. The
divisor, the slope of the sum of log(1 + pairs), lets roles that lack pairs go first (proportional
fairness, Kelly 1997). To take the best, look again, and take the best of what
is left is successive elimination (Even-Dar et al. 2006) with gains for the means of arms.

A wave is decided when all outputs before it are there, from their values alone, so the order in
which an engine answers changes nothing. Its size does not depend on the budget, which only cuts the
last one short: a larger budget keeps every output of a smaller one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from malt_fast._core.forest import DONE, RESERVED, UNGRADED, Credit, Forest

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Places = tuple[npt.NDArray[np.intp], ...]  # nodes of a level: their trees, and their child numbers
Candidates = tuple[Places, Floats]  # and their gains

PRIOR = 4.0  # leaves
WAVE = 2  # a wave takes as many outputs as the paths of one tree in so many
FIRST = 8  # trees, of which one begins before the lengths of outputs are known
ENOUGH = -1  # for the pairs of a level that needs no more
NONE: Ints = np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Allocation:
    """How the outputs of a forest are chosen."""

    branching: Sequence[int]  # most children per node, for each level
    learns: Sequence[int]  # levels of the roles that learn from the forest; none: full trees
    order: Ints  # trees, in the order in which they begin
    most_outputs: float = np.inf
    most_tokens: float = np.inf
    right: Floats | float = np.nan  # by tree: the share of right leaves that is known before

    @property
    def start(self) -> Sequence[int]:
        """Children per node with which a tree begins, for each level."""
        return [1] * len(self.branching) if self.learns else self.branching

    @property
    def narrow(self) -> Sequence[int]:
        """Children per node of what is added: two of each role that learns, one of the others."""
        levels = enumerate(self.branching, 1)
        return [min(n, 2 if level in self.learns else 1) for level, n in levels]


def next_nodes(
    how: Allocation, forest: Forest, credit: Credit, pairs: Sequence[int]
) -> tuple[Ints, bool]:
    """The nodes of the next wave, ascending, and whether it is the last.

    forest: trees of the full branching, graded; nodes that were not sampled are RESERVED. pairs: of
    each level so far, or ENOUGH.
    """
    trees = Trees(how, forest, credit)
    waiting = how.order[~trees.begun[how.order]]
    if len(waiting):
        return trees.begin(waiting if trees.tokens else waiting[: -(-len(how.order) // FIRST)])
    return trees.extend(pairs)


class Trees:
    """A forest of full trees, by level k: arrays [trees, branching[0], ... branching[k - 1]]."""

    def __init__(self, how: Allocation, forest: Forest, credit: Credit) -> None:
        self.how, self.depth, self.size = how, len(how.branching), forest.tree_size
        self.ends = list(accumulate(accumulate(how.branching, int.__mul__, initial=1)))
        levels = range(1, self.depth + 1)
        self.state = [self._level(forest.state, k) for k in levels]
        self.label = [self._level(credit.label, k) for k in levels]
        outcome = self._level(forest.outcome, self.depth)
        self.right, self.graded = self._sums(outcome == 1), self._sums(outcome != UNGRADED)
        done = (forest.state == DONE) & (forest.level > 0)
        self.tokens = int(forest.token_len[done].sum())
        self.outputs = int(np.count_nonzero((forest.state != RESERVED) & (forest.level > 0)))
        self.length = [_mean(forest.token_len[done & (forest.level == k)]) for k in levels]
        self.begun = (self.state[0] != RESERVED).any(-1)

    def _level(self, column: npt.NDArray[Any], k: int) -> npt.NDArray[Any]:
        """The nodes of level k >= 1 of a column."""
        part = column.reshape(-1, self.size)[:, self.ends[k - 1] : self.ends[k]]
        return part.reshape(-1, *self.how.branching[:k])

    def _sums(self, leaves: npt.NDArray[np.bool_]) -> list[Floats]:
        """Of each node of the levels 0 to depth - 1: the sum over the leaves below it."""
        sums = [leaves.sum(-1, dtype=np.float64)]
        while len(sums) < self.depth:
            sums.append(sums[-1].sum(-1))
        return sums[::-1]

    def begin(self, trees: Ints) -> tuple[Ints, bool]:
        """Begin as many trees as the budget allows."""
        costs = np.tile(self._cost(0, self.how.start), (len(trees), 1))
        count = self._fitting(costs)
        return self._nodes(0, (trees[:count],), self.how.start), count < len(trees)

    def extend(self, pairs: Sequence[int]) -> tuple[Ints, bool]:
        """Further children where they gain most per token, as far as the budget allows."""
        weight = {k: 1 / (1 + pairs[k - 1]) for k in self.how.learns if pairs[k - 1] != ENOUGH}
        share = self._shares()
        weight = {k: w * self._contrast(k, share[k - 1]) for k, w in weight.items()}
        levels = range(1, self.depth + 1)
        found = [self._candidates(k, share[k - 1], weight) for k in levels]
        sizes = [len(gain) for _, gain in found]
        costs = np.repeat([self._cost(k, self.how.narrow) for k in levels], sizes, axis=0)
        gain = np.concatenate([gain for _, gain in found])
        tree = np.concatenate([places[0] for places, _ in found])
        turn = np.argsort(self.how.order)[tree]  # chance decides between equal gains
        best = np.lexsort((turn, -gain / costs[:, 1]))
        most = len(self.how.order) * self.depth / WAVE  # outputs
        size = max(1, int(np.count_nonzero(np.cumsum(costs[best, 0]) <= most)))
        count = self._fitting(costs[best[:size]])
        taken = np.split(np.isin(np.arange(len(best)), best[:count]), np.cumsum(sizes)[:-1])
        nodes = [
            self._nodes(k, tuple(place[some] for place in places), self.how.narrow)
            for k, (places, _), some in zip(levels, found, taken, strict=True)
        ]
        return np.sort(np.concatenate(nodes)), count < size

    def _shares(self) -> list[Floats]:
        """p of every node of the levels 0 to depth - 1."""
        n = self.graded[0].sum()
        # All right or all wrong so far does not mean that it stays so (rule of succession).
        every = np.clip(self.right[0].sum() / max(1.0, n), 1 / (n + 2), 1 - 1 / (n + 2))
        known = np.where(np.isnan(self.how.right), every, self.how.right)
        shares = [(self.right[0] + PRIOR * known) / (self.graded[0] + PRIOR)]
        for right, graded in zip(self.right[1:], self.graded[1:], strict=True):
            shares.append((right + PRIOR * shares[-1][..., None]) / (graded + PRIOR))
        return shares

    def _contrast(self, k: int, share: Floats) -> float:
        """Sibling pairs of level k with different labels, over those that p leads one to expect."""
        positive, negative = ((self.label[k - 1] == label).sum(-1) for label in (1, 0))
        labelled = positive + negative
        expected = labelled * (labelled - 1) * share * (1 - share)
        return float((1 + (positive * negative).sum()) / (1 + expected.sum()))

    def _candidates(self, k: int, share: Floats, weight: dict[int, float]) -> Candidates:
        """The next children of level k, below parents that did not fail, and what they gain."""
        state, label = self.state[k - 1], self.label[k - 1]
        asked = (state != RESERVED).sum(-1)
        there = k == 1 or self.state[k - 2] == DONE
        positive, negative = (label == 1).sum(-1), (label == 0).sum(-1)
        gain = weight.get(k, 0.0) * (share * negative + (1 - share) * positive)
        width = 1
        for j in range(k + 1, self.depth + 1):
            m = self.how.narrow[j - 1]
            gain = gain + weight.get(j, 0.0) * width * m * (m - 1) * share * (1 - share)
            width *= m
        parents = np.nonzero(there & (asked > 0) & (asked < state.shape[-1]) & (gain > 0))
        return (*parents, asked[parents]), gain[parents]

    def _cost(self, k: int, start: Sequence[int]) -> tuple[int, float]:
        """(outputs, tokens) of a node of level k, and `start` children per node below it."""
        outputs, tokens, width = (0, 0.0, 1) if k == 0 else (1, self.length[k - 1], 1)
        for length, m in zip(self.length[k:], start[k:], strict=True):
            width *= m
            outputs, tokens = outputs + width, tokens + width * length
        return outputs, tokens

    def _fitting(self, costs: Floats) -> int:
        """How many candidates, one after the other, fit into what is left of the budget."""
        left = self.how.most_outputs - self.outputs, self.how.most_tokens - self.tokens
        return int(np.count_nonzero((np.cumsum(costs, 0) <= left).all(1)))

    def _nodes(self, k: int, places: Places, start: Sequence[int]) -> Ints:
        """The nodes at places of level k (0: trees) and those below, `start` children per node."""
        nodes = [NONE]
        while True:
            if k > 0:
                shape = (len(self.begun), *self.how.branching[:k])
                within = np.ravel_multi_index(places, shape) % int(np.prod(shape[1:]))
                nodes.append(places[0] * self.size + self.ends[k - 1] + within)
            if k == self.depth:
                return np.sort(np.concatenate(nodes)).astype(np.int64)
            m = int(start[k])
            places = tuple(np.repeat(place, m) for place in places)
            places = (*places, np.tile(np.arange(m), len(places[0]) // m))
            k += 1


def _mean(lengths: npt.NDArray[np.generic]) -> float:
    """The mean number of tokens; 1 where none is known."""
    return max(1.0, float(lengths.mean())) if len(lengths) else 1.0
