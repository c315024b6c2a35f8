"""Segments: files of sampled outputs, one checksummed batch per commit, one row per output.

    key       hash of everything the output depends on: 16 bytes (engines/stored.py)
    question  id of its question
    path      child numbers from the root: [1], [1, 0], ...
    finish    FINISH_STOP or FINISH_LENGTH
    tokens    as sampled
    logprobs  of the tokens, under the model at temperature 1; NaN where unknown

A batch holds the number of its first row; no two readable rows have the same number. A sealed
segment has an index beside it, so that opening it reads none of its rows. The index is derived: it
is mapped, and made again if it is missing or damaged.
"""

import json
import mmap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from malt_fast.store.arrow_batches import (
    END,
    Message,
    decode,
    encode,
    encode_head,
    is_whole,
    scan,
    values_of,
)
from malt_fast.utils.files import replacing

VERSION = "2"
FIELDS = [
    ("key", pa.binary(16)),
    ("question", pa.large_string()),
    ("path", pa.large_list(pa.uint32())),
    ("finish", pa.uint8()),
    ("tokens", pa.large_list(pa.int32())),
    ("logprobs", pa.large_list(pa.float32())),
]
PART = np.dtype([("begin", "i8"), ("end", "i8"), ("first", "i8"), ("rows", "i8"), ("hash", "u8")])
LOST = -1  # begin of a row that cannot be read
INDEX = {"hash": "u8", "order": "u4", "check": "u4", "begin": "i8", "length": "u4", "finish": "u1"}
INDEX_SCHEMA = pa.schema([(n, pa.from_numpy_dtype(np.dtype(kind))) for n, kind in INDEX.items()])
Array = npt.NDArray[Any]
NO_KEYS = np.zeros((0, 16), np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One sampled output."""

    key: bytes
    question: str
    path: tuple[int, ...]
    finish: int
    tokens: npt.NDArray[np.int32]  # [T]
    logprobs: npt.NDArray[np.float32]  # [T]


@dataclass(slots=True, eq=False)
class Segment:
    """Where the rows of a file are, to be found by key or by number."""

    path: Path
    first: int  # number of its first row
    parts: Array  # PART[batches]
    hashes: Array  # uint64: the first half of every key, ascending
    order: Array  # uint32: the row, from `first`, that each of them belongs to
    check: Array  # uint32 of every row: the start of its key
    begin: Array  # int64 of every row: of its tokens in the file, in int32s; LOST
    length: Array  # uint32 of every row
    finish: Array  # uint8 of every row
    keys: Array  # uint8 [rows, 16] of a batch by itself; else empty

    @property
    def rows(self) -> int:
        return len(self.begin)

    def part_of(self, row: int) -> int:
        """Index of the batch that holds a row; rows count from `first`."""
        return int(self.parts["first"].searchsorted(self.first + row, "right")) - 1


def schema_of(store: str) -> pa.Schema:
    """The schema of a segment. store: the id of the store that it belongs to."""
    return pa.schema(FIELDS, metadata={"malt_samples": VERSION, "store": store})


def encode_samples(samples: Sequence[Sample], first: int, head: bytes, schema: pa.Schema) -> bytes:
    """A batch of rows numbered from `first`."""
    columns = [
        pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(16), len(samples), [None, pa.py_buffer(b"".join(s.key for s in samples))]
        ),
        pa.array([s.question for s in samples], pa.large_string()),
        _lists([np.array(s.path, np.uint32) for s in samples]),
        pa.array(np.array([s.finish for s in samples], np.uint8)),
        _lists([s.tokens for s in samples]),
        _lists([s.logprobs for s in samples]),
    ]
    return encode(pa.record_batch(columns, schema=schema), head, {"first_row": str(first)})


def _lists(rows: Sequence[Array]) -> pa.Array:
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(rows)))


class Columns:
    """A batch as arrays, for access to single rows."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        parts = [values_of(batch[name]) for name, _ in FIELDS]
        (key,), self.question, self.path, (self.finish,), self.tokens, (_, self.logprobs) = parts
        self.key = key.tobytes()

    def sample(self, i: int) -> Sample:
        """Row i, copied."""
        begin, end = self.tokens[0][i : i + 2]
        return Sample(
            key=self.key[16 * i : 16 * i + 16],
            question=_row(self.question, i).tobytes().decode(),
            path=tuple(_row(self.path, i).tolist()),
            finish=int(self.finish[i]),
            tokens=self.tokens[1][begin:end].copy(),
            logprobs=self.logprobs[begin:end].copy(),
        )


def _row(column: list[Array], i: int) -> Array:
    offsets, values = column
    return values[offsets[i] : offsets[i + 1]]


# ---- the index ----


def part_of_message(message: Message, data: Any) -> Segment:
    """A batch as a segment of its own; `data` holds the bytes of the file it is a message of."""
    batch, first = message.batch, int(message.metadata["first_row"])
    raw = memoryview(data)[message.begin : message.end]
    keys = values_of(batch["key"])[0].reshape(-1, 16)
    offsets = values_of(batch["tokens"])[0]
    start = message.begin + _place(batch, raw)
    part = (message.begin, message.end, first, batch.num_rows, xxhash.xxh3_64_intdigest(raw))
    return Segment(
        path=Path(),
        first=first,
        parts=np.array([part], PART),
        hashes=(hashes := keys[:, :8].copy().view("<u8").ravel()),
        order=np.arange(len(hashes), dtype=np.uint32),
        check=hashes.astype(np.uint32),
        begin=start // 4 + offsets[:-1],
        length=np.diff(offsets).astype(np.uint32),
        finish=values_of(batch["finish"])[0].copy(),
        keys=keys.copy(),
    )


def _place(batch: pa.RecordBatch, raw: memoryview) -> int:
    """Offset of a batch's tokens in its message, in bytes."""
    message = pa.ipc.read_message(pa.BufferReader(pa.py_buffer(raw)))
    bare = pa.ipc.read_record_batch(message, batch.schema)
    values = bare["tokens"].values
    if not len(values):  # which may lie anywhere
        return 0
    place = values.buffers()[1].address - pa.py_buffer(raw).address
    if place % 4:
        raise ValueError("tokens do not lie at a multiple of 4")
    return place


def joined(path: Path, first: int, rows: int, parts: Sequence[Segment]) -> Segment:
    """One segment of `rows` rows from batches in order; rows that no batch holds are lost, and
    batches of rows outside are ignored."""
    parts = [part for part in parts if first <= part.first <= first + rows - part.rows]
    begin = np.full(rows, LOST, np.int64)
    check, length = np.zeros(rows, np.uint32), np.zeros(rows, np.uint32)
    finish = np.zeros(rows, np.uint8)
    for part in parts:
        here = slice(part.first - first, part.first - first + part.rows)
        begin[here], check[here] = part.begin, part.check
        length[here], finish[here] = part.length, part.finish
    empty = np.zeros(0, np.uint64)
    hashes = np.concatenate([empty, *(part.hashes for part in parts)])
    numbers = [np.arange(part.rows) + part.first - first for part in parts]
    order = np.argsort(hashes, kind="stable")
    return Segment(
        path=path,
        first=first,
        parts=np.concatenate([np.zeros(0, PART), *(part.parts for part in parts)]),
        hashes=hashes[order],
        order=np.concatenate([empty, *numbers]).astype(np.uint32)[order],
        check=check,
        begin=begin,
        length=length,
        finish=finish,
        keys=NO_KEYS,
    )


def scan_parts(path: Path, head: bytes, *, growing: bool = False) -> list[Segment]:
    """Every whole batch of a file as a segment of its own, in order of their rows.

    growing: whether another process may write to the file, and even cut it.
    """
    if not path.is_file() or not path.stat().st_size:
        return []
    data: bytes | mmap.mmap
    with path.open("rb") as file:  # the map ends with its last view, which an exception may hold
        data = file.read() if growing else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    parts = []
    for message in scan(data, head):
        with suppress(ValueError):  # not a batch of samples
            parts.append(part_of_message(message, data))
            parts[-1].path = path
    return sorted(parts, key=lambda part: part.first)


def leave_out(segment: Segment, first: int, rows: int) -> None:
    """Mark `rows` rows from number `first` on as lost, if the segment holds them."""
    if segment.first <= first < segment.first + segment.rows:
        segment.begin = segment.begin.copy()  # an index is mapped read-only
        segment.begin[first - segment.first :][:rows] = LOST


def index_path(segment: Path) -> Path:
    return segment.with_suffix(".index")


def write_index(segment: Segment) -> None:
    """Write the index of a sealed segment. Rows without a key, which are lost, come last."""
    lost = segment.rows - len(segment.hashes)
    columns = {
        "hash": np.append(segment.hashes, np.full(lost, 2**64 - 1, np.uint64)),
        "order": np.append(segment.order, np.full(lost, 2**32 - 1, np.uint32)),
        **{name: getattr(segment, name) for name in ("check", "begin", "length", "finish")},
    }
    rest = {"first": segment.first, "parts": segment.parts.tolist(), "lost": lost}
    batch = pa.record_batch([pa.array(columns[name]) for name in INDEX], schema=INDEX_SCHEMA)
    head = encode_head(INDEX_SCHEMA)
    with replacing(index_path(segment.path)) as beside:
        beside.write_bytes(head + encode(batch, head, {"malt_index": json.dumps(rest)}) + END)


def read_index(path: Path) -> Segment | None:
    """The index of a sealed segment, mapped; None if it is missing or damaged."""
    try:
        with pa.memory_map(str(index_path(path))) as source, pa.ipc.open_stream(source) as reader:
            batch, metadata = reader.read_next_batch_with_custom_metadata()
            texts = {k.decode(): v.decode() for k, v in (metadata or {}).items()}
            # The hash is of values: the same bytes under another type would be other values.
            if not batch.schema.equals(INDEX_SCHEMA) or not is_whole(batch, texts):
                return None
            rest = json.loads(texts["malt_index"])
            columns = {name: batch[name].to_numpy() for name in INDEX}
            parts = np.array([tuple(part) for part in rest["parts"]], PART)
    except (OSError, ValueError, KeyError, StopIteration, pa.ArrowException):
        return None
    known = batch.num_rows - rest["lost"]
    return Segment(
        path=path,
        first=rest["first"],
        parts=parts,
        hashes=columns["hash"][:known],
        order=columns["order"][:known],
        keys=NO_KEYS,
        **{name: columns[name] for name in ("check", "begin", "length", "finish")},
    )


def is_mapped(segment: Segment) -> bool:
    """Whether its arrays are mapped from its index file."""
    return not segment.hashes.flags.writeable


def read_part(segment: Segment, part: int, head: bytes) -> Columns | None:
    """A batch; None if it is damaged, or its file is gone."""
    begin, end = segment.parts["begin"][part], segment.parts["end"][part]
    raw = read_bytes(segment.path, int(begin), int(end))
    if raw is None or xxhash.xxh3_64_intdigest(raw) != segment.parts["hash"][part]:
        return None
    message = decode(raw, 0, head)
    return None if message is None else Columns(message.batch)


def read_bytes(path: Path, begin: int, end: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            file.seek(begin)
            raw = file.read(end - begin)
    except OSError:
        return None
    return raw if len(raw) == end - begin else None


def part_is_whole(segment: Segment, part: int) -> bool:
    """Whether the bytes of a batch are those that were written."""
    begin, end = (int(segment.parts[name][part]) for name in ("begin", "end"))
    raw = read_bytes(segment.path, begin, end)
    return raw is not None and xxhash.xxh3_64_intdigest(raw) == segment.parts["hash"][part]
