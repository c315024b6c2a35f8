"""The forest and its file: an Arrow IPC stream, one row a node, that any Arrow tool reads.

Tokens and log-probs are lists of their node, so the file does not depend on the order in which
outputs were finished. Metadata of the schema: the format's version, the number of nodes, and the
tokenizer's fingerprint; of a batch: a CRC-32 of its values. A file appears whole or not at all.
"""

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from malt_fast._core import (
    DONE,
    FAILED,
    FINISH_LENGTH,
    FINISH_STOP,
    NO_NODE,
    RESERVED,
    UNGRADED,
    Credit,
    Forest,
    credit,
    examples,
    pairs,
)
from malt_fast.errors import MaltError, first_line

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
    "credit",
    "examples",
    "load_forest",
    "pairs",
    "save_forest",
]

VERSION = "1"
BATCH = 1 << 16  # nodes in a record batch: bounds what saving needs beside the forest
SCALARS = {
    "parent": np.uint32,
    "first_child": np.uint32,
    "n_children": np.uint16,
    "level": np.uint8,
    "state": np.uint8,
    "finish": np.uint8,
    "outcome": np.uint8,
}
LISTS = {"tokens": np.int32, "logprobs": np.float32}
Columns = dict[str, npt.NDArray[Any]]


def save_forest(forest: Forest, path: Path, tokenizer: str = "") -> None:
    """Write `path`, replacing it; log-probs that were not given are NaN. Raises OSError.

    tokenizer: the fingerprint (roles.py) of the one whose tokens these are.
    """
    import pyarrow as pa

    metadata = {"malt_forest": VERSION, "nodes": str(len(forest)), "tokenizer": tokenizer}
    schema = _schema(metadata)
    edges = [*range(0, len(forest), BATCH), len(forest)]
    with replacing(path) as beside, pa.ipc.new_stream(str(beside), schema) as writer:
        for begin, end in pairwise(edges):
            columns = _columns_of(forest, begin, end)
            batch = _to_batch(columns, schema)
            writer.write_batch(batch, custom_metadata={"crc32": str(_checksum(columns))})


def load_forest(path: Path, tokenizer: str = "") -> Forest:
    """The forest in `path`. Raises MaltError for a missing, foreign, cut or damaged file.

    And, given a fingerprint, for a forest of another tokenizer's tokens.
    """
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            metadata = {k.decode(): v.decode() for k, v in (reader.schema.metadata or {}).items()}
            _check_schema(path, reader.schema, metadata)
            if tokenizer and metadata.get("tokenizer") != tokenizer:
                raise MaltError(
                    f"{path} holds tokens of another tokenizer than the model's: use the model it "
                    "was sampled with, or sample again in another --run DIR"
                )
            parts = list(_read_batches(reader))
        forest = Forest.from_columns(**_join(parts))
    except FileNotFoundError:
        raise MaltError(f"{path} does not exist: check the path") from None
    except (OSError, ValueError, UnicodeDecodeError, pa.ArrowException) as error:
        raise MaltError(
            f"{path} is damaged or no forest ({first_line(error)}): delete it and sample again"
        ) from None
    if len(forest) != int(metadata["nodes"]):
        raise MaltError(
            f"{path} was cut off ({len(forest)} of {metadata['nodes']} nodes are there): "
            "delete it and sample again"
        )
    return forest


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write beside `path`; on leaving it reaches the disk and takes `path`'s place."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name too
    finally:
        os.close(folder)


# ---- rows and batches ----


def _schema(metadata: dict[str, str]) -> Any:
    import pyarrow as pa

    scalars = [(name, pa.from_numpy_dtype(dtype)) for name, dtype in SCALARS.items()]
    lists = [(name, pa.large_list(pa.from_numpy_dtype(dtype))) for name, dtype in LISTS.items()]
    return pa.schema([*scalars, *lists], metadata=metadata)


def _check_schema(path: Path, schema: Any, metadata: dict[str, str]) -> None:
    version = metadata.get("malt_forest")
    if version is None or not metadata.get("nodes", "").isdecimal():
        raise MaltError(f"{path} is an Arrow file but no forest: check the path")
    if version != VERSION:
        raise MaltError(
            f"{path} has forest format {version}, this version reads {VERSION}: "
            "use the version that wrote it, or sample again"
        )
    if not schema.equals(_schema({})):
        raise ValueError("its columns are not those of a forest")


def _columns_of(forest: Forest, begin: int, end: int) -> Columns:
    """Columns of nodes begin .. end - 1, their lists laid out in node order."""
    columns: Columns = {name: getattr(forest, name)[begin:end] for name in SCALARS}
    length = forest.token_len[begin:end].astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(length)])
    shift = forest.token_begin[begin:end].astype(np.int64) - offsets[:-1]
    where = np.repeat(shift, length) + np.arange(offsets[-1])
    columns |= {name: getattr(forest, name)[where] for name in LISTS}
    return columns | {"offsets": offsets}


def _to_batch(columns: Columns, schema: Any) -> Any:
    import pyarrow as pa

    offsets = pa.array(columns["offsets"], pa.int64())
    arrays = [pa.array(columns[name]) for name in SCALARS]
    arrays += [pa.LargeListArray.from_arrays(offsets, pa.array(columns[name])) for name in LISTS]
    return pa.record_batch(arrays, schema=schema)


def _read_batches(reader: Any) -> Iterator[Columns]:
    while True:
        try:
            batch, metadata = reader.read_next_batch_with_custom_metadata()
        except StopIteration:
            return
        batch.validate(full=True)
        columns = _from_batch(batch)
        if (metadata or {}).get(b"crc32") != str(_checksum(columns)).encode():
            raise ValueError("a checksum differs")
        yield columns


def _from_batch(batch: Any) -> Columns:
    if any(column.null_count for column in batch.columns):
        raise ValueError("a value is missing")
    columns = {name: batch[name].to_numpy() for name in SCALARS}
    offsets = batch["tokens"].offsets.to_numpy()
    if not np.array_equal(offsets, batch["logprobs"].offsets.to_numpy()):
        raise ValueError("tokens and logprobs differ in length")
    columns |= {name: batch[name].flatten().to_numpy() for name in LISTS}
    return columns | {"offsets": offsets - offsets[0]}


def _join(parts: list[Columns]) -> Columns:
    """Columns of the whole forest, for Forest.from_columns."""
    empty = {name: np.zeros(0, dtype) for name, dtype in (SCALARS | LISTS).items()}
    parts = parts or [empty | {"offsets": np.zeros(1, np.int64)}]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in empty}
    length = np.concatenate([np.diff(part["offsets"]) for part in parts])
    begin = np.cumsum(length) - length
    return columns | {
        "token_begin": begin.astype(np.uint64),
        "token_len": length.astype(np.uint32),
    }


def _checksum(columns: Columns) -> int:
    crc = 0
    for values in columns.values():
        crc = zlib.crc32(np.ascontiguousarray(values).data, crc)
    return crc
