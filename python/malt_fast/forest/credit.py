"""Calls the core's credit assignment (csrc/forest/credit.cpp) with a run's settings."""

from fractions import Fraction

from malt_fast._core.forest import Credit, Forest, credit
from malt_fast.config.schema import TreeConfig


def assign_credit(tree: TreeConfig, forest: Forest) -> Credit:
    """Values (NaN where a node has none) and labels (1 positive, 0 negative, -1 none) by node."""
    threshold = Fraction(str(tree.threshold)).as_integer_ratio()
    return credit(forest, threshold, tree.inclusive, mean=tree.mean, pooling=tree.pooling)
