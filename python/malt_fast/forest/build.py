"""Builds a forest whose tokens stay in the files of a store."""

from collections.abc import Sequence

import numpy as np

from malt_fast._core.forest import PAGE, RESERVED, Forest, map_files
from malt_fast.store.segments import LOST
from malt_fast.store.store import Ints, Store

UNASKED = -2  # the row of a node that is not to be sampled; -1: of one that failed


def build_forest(parents: Sequence[int], trees: int, rows: Ints, store: Store) -> Forest | None:
    """Trees of one shape, whose node v is row rows[v] of the store, failed if that is -1, or
    RESERVED if it is UNASKED.

    parents: by slot, the slot of its parent, -1 for the question. Tokens stay in the store's files,
    which are mapped. Returns None if a row can no longer be read.
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
    failed = np.flatnonzero((rows == -1) & (forest.state == RESERVED))
    forest.fail(failed.astype(np.uint32))
    return forest
