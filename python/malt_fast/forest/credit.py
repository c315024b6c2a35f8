"""Values and labels of all nodes under a run's settings."""

from fractions import Fraction

from malt_fast.config.schema import Config
from malt_fast.forest.forest import Credit, Forest, credit


def propagate(config: Config, forest: Forest) -> Credit:
    """Values and labels of every node under the config's threshold and means."""
    tree = config.tree
    threshold = Fraction(str(tree.threshold))
    return credit(
        forest,
        (threshold.numerator, threshold.denominator),
        tree.inclusive,
        mean=tree.mean,
        pooling=tree.pooling,
    )
