"""The waves in which less than full trees are sampled: each is graded before the next is chosen."""

import hashlib
import time
from collections.abc import Sequence

import numpy as np

from malt_fast._core.forest import UNGRADED, Credit, Forest
from malt_fast.config.schema import Config
from malt_fast.forest.credit import assign_credit
from malt_fast.forest.preferences import select_examples, select_pairs
from malt_fast.forest.yields import unlimited
from malt_fast.grading.custom import CustomGrader
from malt_fast.sampling.allocation import ENOUGH, NONE, Allocation, Floats, Ints, next_nodes
from malt_fast.sampling.grade import set_outcomes
from malt_fast.sampling.setup import Setup
from malt_fast.tasks.task import Question
from malt_fast.utils.errors import MaltError


class Waves:
    """Called with the forest so far, it gives the nodes to sample next."""

    def __init__(
        self,
        setup: Setup,
        questions: Sequence[Question],
        how: Allocation,
        custom: CustomGrader | None = None,
    ) -> None:
        self.setup, self.questions, self.how, self.custom = setup, questions, how, custom
        self.outcome = np.zeros(0, np.uint8)  # by node, of the waves before
        self.count = 0  # waves
        self.last = False  # whether the budget holds no more
        self.seconds = 0.0  # for grading and deciding

    def __call__(self, forest: Forest) -> Ints:
        begun = time.monotonic()
        known = np.flatnonzero(self.outcome != UNGRADED)
        forest.set_outcomes(known.astype(np.uint32), self.outcome[known])
        given = (self.setup, forest, self.questions, self.custom)
        for _ in set_outcomes(*given, again=False):
            pass
        if self.custom:
            self.custom.failed = 0  # they are counted when the whole forest is graded
        self.outcome = np.array(forest.outcome)
        nodes = NONE if self.last else self._choose(forest)
        self.count += len(nodes) > 0
        self.seconds += time.monotonic() - begun
        return nodes

    def _choose(self, forest: Forest) -> Ints:
        credit = assign_credit(self.setup.config.tree, forest)
        counts = [
            count_pairs(self.setup.config, forest, credit, level) if level in self.how.learns else 0
            for level in range(1, len(self.how.branching) + 1)
        ]
        nodes, self.last = next_nodes(self.how, forest, credit, counts)
        return nodes

    def figures(self) -> dict[str, float]:
        return {"waves": self.count, "deciding_seconds": round(self.seconds, 3)}


def count_pairs(config: Config, forest: Forest, credit: Credit, level: int) -> int:
    """The pairs of a level, or its examples if its role gets no DPO; ENOUGH if no more are used."""
    prefs, seed = unlimited(config).preferences, config.seed
    examples = len(select_examples(forest, credit, level, prefs, seed))
    most, most_pairs = config.preferences.max_examples, config.preferences.max_pairs
    sated = most is not None and examples >= most
    if config.chain[level - 1] not in config.dpo_roles:
        return ENOUGH if sated else examples
    pairs = len(select_pairs(forest, credit, level, prefs, seed)[0])
    return ENOUGH if sated and most_pairs is not None and pairs >= most_pairs else pairs


def full_outputs(config: Config) -> int:
    """Outputs of one full tree."""
    return int(np.cumprod(config.tree.branching).sum())


def most_outputs(config: Config, trees: int) -> int:
    """The most outputs of a forest of so many trees, as far as outputs limit it."""
    full, tree = full_outputs(config) * trees, config.tree
    if tree.max_outputs is not None:
        return min(full, tree.max_outputs)
    return full // 2 if tree.allocation == "adaptive" and tree.max_tokens is None else full


def allocation_of(
    config: Config,
    trees: int,
    learns: Sequence[str],
    share: float = 1.0,
    right: Floats | None = None,
) -> Allocation | None:
    """How the outputs of a forest are chosen; None: all of full trees.

    learns: the roles that learn from it. share: part of the budget, for some of the questions.
    right: by tree, the share of right leaves in the round before.
    """
    tree = config.tree
    if tree.allocation == "full" and tree.max_outputs is None and tree.max_tokens is None:
        return None
    levels = [level for level, role in enumerate(config.chain, 1) if role in learns]
    adaptive = tree.allocation == "adaptive"
    return Allocation(
        branching=tree.branching,
        learns=levels if adaptive else [],
        order=np.random.default_rng(config.seed).permutation(trees),
        most_outputs=most_outputs(config, round(trees / share)) * share,
        most_tokens=np.inf if tree.max_tokens is None else tree.max_tokens * share,
        right=np.nan if right is None else right,
    )


def identity(config: Config, how: Allocation, graded: str) -> str:
    """Everything that decides which outputs are chosen. graded: fingerprint of the grading."""
    known = hashlib.blake2b(np.asarray(how.right).tobytes(), digest_size=16).hexdigest()
    return (
        f"{config.tree!r} {config.preferences!r} {config.dpo_roles} {how.learns} {known} {graded}"
    )


def check_budget(config: Config, trees: int) -> None:
    """Raises MaltError for a budget that is too small to begin, or larger than full trees."""
    tree, full = config.tree, full_outputs(config) * trees
    if not trees:  # which is told elsewhere
        return
    for name, most in (("max_outputs", tree.max_outputs), ("max_tokens", tree.max_tokens)):
        if most is not None and most < trees:
            raise MaltError(
                f"tree.{name} = {most:,} is less than one output for each of the {trees:,} "
                "questions: raise it, or set task.limit"
            )
    if tree.max_outputs is not None and tree.max_outputs > full:
        raise MaltError(
            f"tree.max_outputs = {tree.max_outputs:,} is more than the {full:,} outputs of full "
            "trees: lower it, or leave it out and set tree.allocation to full"
        )
