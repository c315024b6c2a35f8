"""The forest's file: the store's row of every node, and the outcomes of the leaves."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from malt_fast._core.forest import UNGRADED, Forest
from malt_fast.forest.forest import build_forest
from malt_fast.store.arrow_batches import END, encode, encode_head, scan
from malt_fast.store.store import Ints, Store
from malt_fast.utils.files import replacing

VERSION = "3"


BATCH = 1 << 16  # nodes in a record batch


SCHEMA = pa.schema([("sample", pa.int64()), ("check", pa.uint32()), ("outcome", pa.uint8())])


@dataclass(frozen=True, slots=True, eq=False)
class ForestFile:
    """What a file says of a forest."""

    fingerprint: str  # of all that its samples depend on
    grading: str  # of what the outcomes depend on beside
    parents: list[int]  # the shape: slot of each slot's parent, -1 the question
    trees: int
    rows: Ints  # by node: `sample`
    check: npt.NDArray[np.uint32]  # by node
    outcome: npt.NDArray[np.uint8]  # by node


def save_forest(
    path: Path,
    forest: Forest,
    store: Store,
    fingerprint: str,
    grading: str,
    parents: Sequence[int],
    rows: Ints,
) -> None:
    """Write `path`, replacing it. Raises OSError.

    fingerprint, grading: of all that tokens, and outcomes, depend on; parents: the trees' shape;
    rows: row of the store of every node, -1 for none.
    """
    trees = int(np.count_nonzero(forest.level == 0))
    check = np.zeros(len(rows), np.uint32)
    check[rows >= 0] = store.rows().check[rows[rows >= 0]]
    _write(
        path,
        ForestFile(fingerprint, grading, list(parents), trees, rows, check, forest.outcome),
        store.id,
    )


def forest_of(file: ForestFile, store: Store, *, graded: bool = True) -> Forest | None:
    """The forest that a file tells of, with its outcomes if `graded`.

    None if a row of the store cannot be read any more, or is another now. Every batch of samples
    that it needs is read once, so that no damaged token is ever seen.
    """
    known = file.rows >= 0
    mine = file.rows[known]
    if mine.size and mine.max() >= store.next_row:
        return None
    if not np.array_equal(store.rows().check[mine], file.check[known]):
        return None
    forest = build_forest(file.parents, file.trees, file.rows, store)
    if forest is not None and graded:
        leaves = np.flatnonzero(file.outcome != UNGRADED)
        forest.set_outcomes(leaves.astype(np.uint32), file.outcome[leaves])
    return forest


def _write(path: Path, forest: ForestFile, store: str) -> None:
    told = {
        "malt_forest": VERSION,
        "store": store,
        "fingerprint": forest.fingerprint,
        "grading": forest.grading,
        "parents": json.dumps(forest.parents),
        "trees": str(forest.trees),
    }
    head = encode_head(SCHEMA)
    edges = [*range(0, len(forest.rows), BATCH), len(forest.rows)]
    columns = (forest.rows, forest.check, forest.outcome)
    with replacing(path) as beside, beside.open("wb") as file:
        file.write(head)
        for begin, end in pairwise(edges):
            arrays = [pa.array(column[begin:end]) for column in columns]
            batch = pa.record_batch(arrays, schema=SCHEMA)
            file.write(encode(batch, head, told | {"first": str(begin)}))
        file.write(END)


def read_forest(path: Path, store: Store) -> ForestFile | None:
    """What a file says of a forest; None unless it is whole, and of this store."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    messages = list(scan(data, encode_head(SCHEMA)))
    told = messages[0].metadata if messages else {}
    if (told.get("malt_forest"), told.get("store")) != (VERSION, store.id):
        return None
    parents, trees = json.loads(told["parents"]), int(told["trees"])
    begins = np.cumsum([0, *(message.batch.num_rows for message in messages)]).tolist()
    firsts = [message.metadata["first"] for message in messages]
    if firsts != [str(n) for n in begins[:-1]] or begins[-1] != trees * (1 + len(parents)):
        return None
    rows, check, outcome = (
        np.concatenate([message.batch[name].to_numpy() for message in messages])
        for name in SCHEMA.names
    )
    return ForestFile(told["fingerprint"], told["grading"], parents, trees, rows, check, outcome)
