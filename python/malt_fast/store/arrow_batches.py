"""Record batches as checksummed bytes: an Arrow IPC stream, message by message.

    head | message | message | ... | END

A message is one record batch. Its metadata holds a hash of all values and of itself, and its length
in bytes: a damaged length could hide the next message. Any Arrow tool reads the whole file as a
stream; here each message is read by itself, so that damage in one affects no other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
START = END[:4]  # of every message, at a multiple of 8
HASH = "xxh3"
LENGTH = "bytes"  # 16 digits


@dataclass(frozen=True, slots=True)
class Message:
    """An undamaged batch, and where its bytes are."""

    batch: pa.RecordBatch
    metadata: dict[str, str]
    begin: int
    end: int


def encode_head(schema: pa.Schema) -> bytes:
    """The bytes that a stream of this schema begins with."""
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, schema).close()
    return bytes(sink.getvalue())[: -len(END)]


def encode(batch: pa.RecordBatch, head: bytes, metadata: Mapping[str, str]) -> bytes:
    """One message; `head` is that of the batch's schema."""
    blank = {**metadata, LENGTH: _digits(0)}
    values = {**metadata, LENGTH: _digits(len(_message(batch, head, blank | {HASH: 16 * "0"})))}
    return bytes(_message(batch, head, values | {HASH: checksum(batch, values)}))


def _message(batch: pa.RecordBatch, head: bytes, metadata: Mapping[str, str]) -> memoryview:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch, custom_metadata=metadata)
    return memoryview(sink.getvalue())[len(head) : -len(END)]


def _digits(length: int) -> str:
    """As many digits for every length, so that they do not change it."""
    return f"{length:016d}"


def decode(data: Any, begin: int, head: bytes) -> Message | None:
    """The message that begins at `begin`; None if there is none, or it is damaged."""
    view = memoryview(data)[begin:]
    if len(view) < 8 or bytes(view[:4]) != START or bytes(view[4:8]) == END[4:]:
        return None
    source = pa.BufferReader(pa.py_buffer(view))
    try:
        pa.ipc.read_message(source)
        end = source.tell()
        stream = pa.ipc.open_stream(pa.py_buffer(head + bytes(view[:end])))
        batch, metadata = stream.read_next_batch_with_custom_metadata()
        batch.validate(full=True)
        values = {key.decode(): value.decode() for key, value in (metadata or {}).items()}
        whole = is_whole(batch, values) and values.pop(LENGTH, None) == _digits(end)
        return Message(batch, values, begin, begin + end) if whole else None
    except (pa.ArrowException, OSError, ValueError, EOFError, StopIteration):
        return None


def scan(data: Any, head: bytes) -> Iterator[Message]:
    """Every undamaged message."""
    at = len(head) if bytes(memoryview(data)[: len(head)]) == head else 0
    while (at := find(data, at)) >= 0:
        message = decode(data, at, head)
        if message is not None:
            yield message
        at = at + 8 if message is None else message.end


def find(data: Any, at: int) -> int:
    """The next place at or after `at` where a message may begin; -1 if there is none."""
    at = -(-at // 8) * 8
    while (at := data.find(START, at)) >= 0 and at % 8:
        at += 1
    return at


def is_whole(batch: pa.RecordBatch, metadata: dict[str, str]) -> bool:
    """Whether the hash in `metadata` is that of the batch; takes it out."""
    hash = metadata.pop(HASH, None)
    nulls = any(column.null_count for column in batch.columns)
    return not nulls and hash == checksum(batch, metadata)


def checksum(batch: pa.RecordBatch, metadata: Mapping[str, str]) -> str:
    """Hash of the metadata and all values, however their buffers lie."""
    digest = xxhash.xxh3_64(repr((batch.num_rows, sorted(metadata.items()))).encode())
    for column in batch.columns:
        for part in values_of(column):
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def values_of(column: pa.Array) -> list[npt.NDArray[Any]]:
    """A column without nulls as arrays: its values, for lists after the offsets of the rows."""
    n, begin = len(column), column.offset
    if pa.types.is_large_list(column.type):
        offsets = column.offsets.to_numpy()
        begin, end = int(offsets[0]), int(offsets[-1])
        return [offsets - begin, column.values[begin:end].to_numpy()]
    _, *buffers = column.buffers()
    if pa.types.is_large_string(column.type):
        offsets = np.frombuffer(buffers[0] or bytes(8), np.int64)[begin : begin + n + 1]
        text = np.frombuffer(buffers[1] or b"", np.uint8)[offsets[0] : offsets[-1]]
        return [offsets - offsets[0], text]
    if pa.types.is_fixed_size_binary(column.type):
        width = column.type.byte_width
        return [np.frombuffer(buffers[0] or b"", np.uint8)[begin * width : (begin + n) * width]]
    return [column.to_numpy()]
