"""The forest's file: one row per node, with its row in the store and its outcome.

    sample   int64   row in the store, -1 for questions and failed outputs
    check    uint32  the start of that row's key, which detects rows of another store
    outcome  uint8   0 or 1 for a graded leaf, else UNGRADED

The shape of the trees is in the metadata. Everything else follows: parents, children and levels
from the shape, tokens from the store.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from malt_fast._core.forest import UNGRADED, Forest
from malt_fast.forest.build import build_forest
from malt_fast.store.arrow_batches import END, encode, encode_head, scan
from malt_fast.store.store import Ints, Store
from malt_fast.utils.files import replacing

VERSION = "4"
BATCH = 1 << 16  # nodes in a record batch
SCHEMA = pa.schema([("sample", pa.int64()), ("check", pa.uint32()), ("outcome", pa.uint8())])


@dataclass(frozen=True, slots=True, eq=False)
class ForestFile:
    """The content of a forest's file."""

    fingerprint: str  # hash of everything the samples depend on
    grading: str  # hash of everything else the outcomes depend on
    questions: str  # checksum of the run's questions.jsonl, "" for other questions
    parents: list[int]  # the shape: by slot, the slot of its parent, -1 for the question
    trees: int
    rows: Ints  # by node: row in the store, -1 for none
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
    questions: str,
) -> None:
    """Write `path` atomically. Arguments are as in ForestFile. Raises OSError."""
    trees = int(np.count_nonzero(forest.level == 0))
    check = np.zeros(len(rows), np.uint32)
    check[rows >= 0] = store.rows().check[rows[rows >= 0]]
    made_from = fingerprint, grading, questions
    outcome = forest.outcome
    _write(path, ForestFile(*made_from, list(parents), trees, rows, check, outcome), store.id)


def forest_of(file: ForestFile, store: Store, *, graded: bool = True) -> Forest | None:
    """The forest of a file, with its outcomes if `graded`.

    None if a row of the store can no longer be read, or has changed. Every batch of samples that
    it needs is verified, so that no damaged token is ever used.
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
    metadata = {
        "malt_forest": VERSION,
        "store": store,
        "fingerprint": forest.fingerprint,
        "grading": forest.grading,
        "questions": forest.questions,
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
            file.write(encode(batch, head, metadata | {"first": str(begin)}))
        file.write(END)


def read_forest(path: Path, store: Store) -> ForestFile | None:
    """The content of a forest's file; None if it is damaged, or belongs to another store."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    messages = list(scan(data, encode_head(SCHEMA)))
    metadata = messages[0].metadata if messages else {}
    if (metadata.get("malt_forest"), metadata.get("store")) != (VERSION, store.id):
        return None
    parents, trees = json.loads(metadata["parents"]), int(metadata["trees"])
    begins = np.cumsum([0, *(message.batch.num_rows for message in messages)]).tolist()
    firsts = [message.metadata["first"] for message in messages]
    if firsts != [str(n) for n in begins[:-1]] or begins[-1] != trees * (1 + len(parents)):
        return None
    rows, check, outcome = (
        np.concatenate([message.batch[name].to_numpy() for message in messages])
        for name in SCHEMA.names
    )
    made_from = metadata["fingerprint"], metadata["grading"], metadata["questions"]
    return ForestFile(*made_from, parents, trees, rows, check, outcome)
