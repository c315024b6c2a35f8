"""The yield of a forest: how many examples, pairs and labelled outputs each role gets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from malt_fast._core.forest import DONE, FAILED, RESERVED, Credit, Forest
from malt_fast.config.schema import Config
from malt_fast.forest.preferences import select_examples, select_labelled, select_pairs


@dataclass(frozen=True)
class RoleYield:
    """The yield of one role. Shares are of sibling blocks, or of finished outputs."""

    role: str
    nodes: int
    failed: int
    positives: int
    negatives: int
    mixed: float  # share of sibling blocks with both a positive and a negative output
    identical: float  # share of outputs whose tokens equal those of an earlier sibling
    examples: int
    pairs: int
    labelled: int = 0  # for KTO: 0 for a role that does not learn from them


def yield_rows(forest: Forest, credit: Credit, config: Config) -> list[RoleYield]:
    """The yield of every role of the chain, under the config's preferences and limits."""
    return [
        role_yield(forest, credit, level, role, config)
        for level, role in enumerate(config.chain, 1)
    ]


def unlimited(config: Config) -> Config:
    """The config without max_examples and max_pairs, which limit the whole forest."""
    free = config.preferences.model_copy(update={"max_examples": None, "max_pairs": None})
    return config.model_copy(update={"preferences": free})


def tree_yield(forest: Forest, credit: Credit, config: Config) -> dict[str, int]:
    """Pairs (or labelled outputs) of each role in a few trees, or examples for one without DPO."""
    found = {}
    for row in yield_rows(forest, credit, unlimited(config)):
        on_pairs, on_labels = config.learns(row.role)
        if on_pairs:
            found[f"{row.role} pairs"] = row.pairs
        elif on_labels:
            found[f"{row.role} labelled"] = row.labelled
        else:
            found[f"{row.role} examples"] = row.examples
    return found


def role_yield(forest: Forest, credit: Credit, level: int, role: str, config: Config) -> RoleYield:
    ids = np.flatnonzero((forest.level == level) & (forest.state != RESERVED))
    done = ids[forest.state[ids] == DONE]
    good, bad = ids[credit.label[ids] == 1], ids[credit.label[ids] == 0]
    blocks = np.unique(forest.parent[done])
    mixed = np.intersect1d(forest.parent[good], forest.parent[bad])
    outputs = {(int(forest.parent[i]), forest.tokens_of(int(i)).tobytes()) for i in done}
    prefs, seed = config.preferences, config.seed
    _, on_labels = config.learns(role)
    return RoleYield(
        role=role,
        nodes=len(ids),
        failed=int(np.count_nonzero(forest.state[ids] == FAILED)),
        positives=len(good),
        negatives=len(bad),
        mixed=len(mixed) / max(len(blocks), 1),
        identical=1 - len(outputs) / len(done) if len(done) else 0.0,
        examples=len(select_examples(forest, credit, level, prefs, seed)),
        pairs=len(select_pairs(forest, credit, level, prefs, seed)[0]),
        labelled=len(select_labelled(forest, credit, level, prefs)[0]) if on_labels else 0,
    )


def yield_table(rows: Sequence[RoleYield]) -> Table:
    """The yield as a table for the terminal."""
    caption = "mixed: sibling blocks with both labels; same: outputs identical to a sibling"
    table = Table(title="what the forest yields", caption=caption, box=SIMPLE, padding=0)
    table.add_column("role", no_wrap=True)
    names = ["outputs", "failed", "positive", "negative", "mixed", "same", "examples", "pairs"]
    on_labels = any(row.labelled for row in rows)
    for name in [*names, *["labelled"] * on_labels]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        counts = [f"{n:,}" for n in (row.nodes, row.failed, row.positives, row.negatives)]
        shares = [f"{share:.1%}" for share in (row.mixed, row.identical)]
        yields = [f"{n:,}" for n in (row.examples, row.pairs, row.labelled)]
        table.add_row(row.role, *counts, *shares, *yields[: 2 + on_labels])
    return table
