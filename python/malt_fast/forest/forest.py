"""The forest and its file: which row of the store every node is, and the outcomes of leaves.

    sample   int64   row of the store (store.py), -1 for questions and outputs that failed
    check    uint32  the start of that row's key: rows of a store that was made anew are not these
    outcome  uint8   of a graded leaf 0 or 1, else UNGRADED

One row a node. What the trees look like is in the metadata, and everything else follows from it: a
node's parent, children and level from the shape, its tokens from the store, whose files are mapped.
"""

from collections.abc import Sequence

import numpy as np

from malt_fast._core.forest import (
    DONE,
    FAILED,
    FINISH_LENGTH,
    FINISH_STOP,
    NO_NODE,
    PAGE,
    RESERVED,
    UNGRADED,
    Credit,
    Forest,
    credit,
    examples,
    map_files,
    pairs,
)
from malt_fast.store.segments import LOST
from malt_fast.store.store import Ints, Store

__all__ = [
    "DONE",
    "FAILED",
    "FINISH_LENGTH",
    "FINISH_STOP",
    "NO_NODE",
    "RESERVED",
    "UNGRADED",
    "Credit",
    "Forest",
    "build_forest",
    "credit",
    "examples",
    "pairs",
]


def build_forest(parents: Sequence[int], trees: int, rows: Ints, store: Store) -> Forest | None:
    """Trees of one shape whose node v is row rows[v] of the store, or failed where that is -1.

    parents: slot of each slot's parent, -1 the question. None if a row cannot be read any more.
    """
    forest = Forest()
    forest.add_trees(trees, np.array(parents, np.int32))
    nodes = np.flatnonzero(rows >= 0)
    mine = rows[nodes]
    store.verify(mine)
    table = store.rows()
    segment = table.segment[mine]
    if (segment == LOST).any():
        return None
    sizes = [size if (segment == i).any() else 0 for i, size in enumerate(table.sizes)]
    starts = np.cumsum([0, *(-(-size // PAGE) * PAGE // 4 for size in sizes)])
    forest.lend(
        map_files([str(path) for path in table.paths], sizes),
        nodes.astype(np.uint32),
        (starts[segment] + table.begin[mine]).astype(np.uint64),
        table.length[mine],
        table.finish[mine],
    )
    failed = np.flatnonzero((rows < 0) & (forest.state == RESERVED))
    forest.fail(failed.astype(np.uint32))
    return forest


# ---- the file ----
