"""Watches trees while they are sampled, for bad signs (signs.py) and for what the trees yield."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from malt_fast._core.forest import Forest
from malt_fast.engines import Completion
from malt_fast.sampling.expand import complete, reserve
from malt_fast.sampling.sampled_trees import SampledTrees
from malt_fast.sampling.signs import Signs, Warn
from malt_fast.utils.errors import one_line

END = 160  # characters of an output that are shown
COUNTED = 200  # trees at least, evenly spread, whose yield is counted as they end

Count = Callable[[Forest], Mapping[str, int]]  # counts of a graded forest, by name


class TreeMonitor:
    """Told of every output and of every tree that ends."""

    def __init__(self, trees: SampledTrees, warn: Warn, count: Count) -> None:
        self.trees = trees
        self.signs = Signs(trees, warn)
        self.yields = YieldEstimate(trees, count)
        self.last: Completion | None = None  # a leaf

    def see(self, completions: Sequence[Completion]) -> None:
        self.signs.see(completions)
        outputs = [one for one in completions if one.finish_reason != "error"]
        self.yields.see(outputs)
        self.last = next(iter(self.trees.leaves(outputs[-1:])), self.last)

    def end(self, tree: int) -> None:
        """No more outputs of a tree will come."""
        self.yields.end(tree)

    def summary(self, trees: int) -> str:
        """For people: what the first `trees` that ended yield, and how many groups are mixed."""
        facts = [self.yields.summary(trees)] if self.yields.counted else []
        if blocks := self.signs.blocks:
            facts.append(f"{100 * self.signs.mixed / blocks:.0f} % of groups mixed")
        return " · ".join(facts)

    def sample(self) -> str:
        """For people: the end of a recent leaf, with its verdict."""
        trees, one = self.trees, self.last
        if one is None:
            return ""
        who, whole = trees.chain[-1], " ".join(trees.text(one).split())
        text = f"{'...' * (len(whole) > END)}{one_line(whole[-END:])}"
        if not trees.can_grade:
            return f"{who}: {text}"
        (answered,), (right,) = trees.grade([one])
        verdict = "right" if right else "wrong" if answered else "no answer"
        return f"{who}, {verdict}, gold {trees.questions[one.id // trees.size].gold}: {text}"


class YieldEstimate:
    """Counts what some trees yield, evenly spread over the questions, some trees at a time."""

    def __init__(self, trees: SampledTrees, count: Count) -> None:
        self.trees, self.count = trees, count
        self.every = max(1, len(trees.questions) // COUNTED)  # trees, of which one is counted
        self.growing: dict[int, list[Completion]] = {}  # outputs by tree
        self.grown: dict[int, list[Completion]] = {}  # trees that are complete and not counted yet
        self.ended = 0  # trees, of all
        self.counted = 0  # trees
        self.counts: Counter[str] = Counter()  # over the counted trees

    def see(self, outputs: Sequence[Completion]) -> None:
        for one in outputs if self.trees.can_grade else ():
            tree = one.id // self.trees.size
            if tree % self.every == 0:
                self.growing.setdefault(tree, []).append(one)

    def end(self, tree: int) -> None:
        self.ended += 1
        outputs = self.growing.pop(tree, [])
        if len(outputs) == len(self.trees.shape):
            self.grown[tree] = outputs
        last = self.ended == len(self.trees.questions)
        if self.grown and (4 * len(self.grown) > self.counted or last):
            self._count()

    def _count(self) -> None:
        """Count the trees that are complete, as a forest of their own."""
        leaves = self.trees.leaves([one for outputs in self.grown.values() for one in outputs])
        moves = {tree: (i - tree) * self.trees.size for i, tree in enumerate(self.grown)}
        forest = reserve(len(self.grown), self.trees.shape)
        complete(
            forest,
            [
                replace(one, id=one.id + moves[tree])
                for tree, outputs in self.grown.items()
                for one in outputs
            ],
        )
        nodes = [one.id + moves[one.id // self.trees.size] for one in leaves]
        _, right = self.trees.grade(leaves)
        forest.set_outcomes(np.array(nodes, np.uint32), np.array(right, np.uint8))
        self.counts.update(self.count(forest))
        self.counted += len(self.grown)
        self.grown.clear()

    def summary(self, trees: int) -> str:
        share, about = trees / self.counted, "about " * (trees > self.counted)
        counts = [f"{round(n * share):,} {name}" for name, n in list(self.counts.items())]
        return f"so far {about}{', '.join(counts)}"
