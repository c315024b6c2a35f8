"""The nodes each role learns from: positive outputs (SFT), pairs (DPO), labelled outputs (KTO).

forest, credit --examples/pairs--> node ids --role_data--> prompts and completions as tokens
                                        `--yield_rows--> their counts
"""

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from malt_fast._core.forest import Credit, Forest, examples, labelled, pairs
from malt_fast.config.schema import PreferencesConfig

Ids = npt.NDArray[np.uint32]


def select_examples(
    forest: Forest, credit: Credit, level: int, prefs: PreferencesConfig, seed: int
) -> Ids:
    """Nodes for the SFT of a role, ascending. Outputs without a token are left out."""
    ids = examples(forest, credit, level, prefs.sft_source, prefs.dedup)
    ids = ids[forest.token_len[ids] > 0]
    if prefs.max_examples is None:
        return ids
    return ids[_subset(path_keys(forest, seed)[ids], prefs.max_examples)]


def select_pairs(
    forest: Forest, credit: Credit, level: int, prefs: PreferencesConfig, seed: int
) -> tuple[Ids, Ids]:
    """(chosen, rejected) nodes for the DPO of a role, [P] each, in node order."""
    chosen, rejected = pairs(
        forest,
        credit,
        level,
        prefs.policy,
        seed,
        prefs.max_per_question or 0,
        Fraction(str(prefs.min_margin)).as_integer_ratio(),
        prefs.dedup,
    )
    spoken = (forest.token_len[chosen] > 0) & (forest.token_len[rejected] > 0)
    chosen, rejected = chosen[spoken], rejected[spoken]
    if prefs.max_pairs is None:
        return chosen, rejected
    keys = path_keys(forest, seed)
    kept = _subset(_mix(keys[chosen], keys[rejected]), prefs.max_pairs)
    return chosen[kept], rejected[kept]


def select_labelled(
    forest: Forest, credit: Credit, level: int, prefs: PreferencesConfig
) -> tuple[Ids, npt.NDArray[np.int8]]:
    """Every output of a role that has a label and a token, ascending, and its label, 1 or 0."""
    ids, labels = labelled(forest, credit, level, prefs.dedup)
    spoken = forest.token_len[ids] > 0
    return ids[spoken], labels[spoken]


def path_keys(forest: Forest, seed: int) -> npt.NDArray[np.uint64]:
    """uint64 [n]: a random number per node, from the seed and the node's path, not from its id."""
    parent, level = forest.parent, forest.level
    keys = np.zeros(len(forest), np.uint64)
    roots = np.flatnonzero(level == 0)
    keys[roots] = _mix(np.uint64(seed), np.arange(len(roots), dtype=np.uint64))
    for depth in range(1, int(level.max(initial=0)) + 1):
        ids = np.flatnonzero(level == depth)
        above = parent[ids]
        keys[ids] = _mix(keys[above], (ids - forest.first_child[above]).astype(np.uint64))
    return keys


def _mix(
    a: npt.NDArray[np.uint64] | np.uint64, b: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """A hash of two numbers, modulo 2^64: the finaliser of splitmix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        x = a * np.uint64(0x9E3779B97F4A7C15) + b + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _subset(keys: npt.NDArray[np.uint64], limit: int) -> npt.NDArray[np.intp]:
    """Indices of the `limit` smallest keys, ascending."""
    return np.sort(np.argsort(keys, kind="stable")[:limit])
