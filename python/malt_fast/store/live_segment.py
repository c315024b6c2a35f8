"""The live segment, which grows by one batch per commit; opening it cuts off a torn last batch."""

import logging
import os
import time
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from malt_fast.store.arrow_batches import END, decode
from malt_fast.store.segments import (
    Sample,
    Segment,
    encode_samples,
    joined,
    part_of_message,
    scan_parts,
    write_index,
)
from malt_fast.utils.errors import MaltError
from malt_fast.utils.files import sync_file, sync_folder, write_all

log = logging.getLogger(__name__)


@dataclass(eq=False)
class LiveSegment:
    path: Path
    schema: pa.Schema
    head: bytes  # of the file
    next_row: int  # first row of the next commit
    batches: list[Segment] = field(default_factory=list)
    rows: dict[bytes, int] = field(default_factory=dict)  # by key; waiting ones, too
    size: int = 0  # bytes of the file that are committed
    waiting: list[Sample] = field(default_factory=list)
    since: float = 0.0  # when the first of them came, or the last commit was

    def load(self, *, writable: bool) -> None:
        """Read what was committed. If writable, cut off what was not."""
        self.batches = scan_parts(self.path, self.head, growing=not writable)
        if not self.batches:
            if writable:
                self.path.unlink(missing_ok=True)  # the first commit begins it anew
            return
        first, last = self.next_row, self.batches[-1]
        self.next_row = max(self.next_row, last.first + last.rows)
        self.size = max(int(batch.parts["end"][0]) for batch in self.batches)
        for batch in self.batches:
            self.rows |= {key.tobytes(): batch.first + i for i, key in enumerate(batch.keys)}
        lost = self.next_row - first - sum(batch.rows for batch in self.batches)
        if lost:
            log.warning("%s: %d outputs are damaged: they are left out", self.path, lost)
        if writable:
            os.truncate(self.path, self.size)
            with self.path.open("rb+") as file:
                if file.read(len(self.head)) != self.head:  # damaged: other readers need it
                    file.seek(0)
                    file.write(self.head)
            sync_file(self.path)  # its last batch may be whole and still in memory only

    def batch_of(self, row: int) -> Segment:
        """The committed batch that holds a row."""
        return self.batches[bisect_right(self.batches, row, key=lambda b: b.first) - 1]

    def joined(self) -> Segment:
        """All committed batches as one segment."""
        first = self.batches[0].first
        return joined(self.path, first, self.next_row - first, self.batches)

    def append(self, samples: Sequence[Sample]) -> list[int]:
        """Let samples wait for a commit; their row numbers."""
        if samples and not self.waiting:
            self.since = time.monotonic()
        begin = self.next_row + len(self.waiting)
        for row, sample in enumerate(samples, begin):
            self.rows[sample.key] = row
        self.waiting += samples
        return list(range(begin, begin + len(samples)))

    def is_due(self, interval: float) -> bool:
        """Whether a row has waited for `interval` seconds."""
        return bool(self.waiting) and time.monotonic() - self.since >= interval

    def commit(self, batch: int) -> None:
        """Write up to `batch` waiting rows to the disk. Raises OSError."""
        some = self.waiting[:batch]
        data = encode_samples(some, self.next_row, self.head, self.schema)
        if not self.size:
            self._begin()
        self._write(data)
        self._note(data, len(some))

    def _begin(self) -> None:
        self._write(self.head)
        sync_folder(self.path.parent)
        self.size = len(self.head)

    def _write(self, data: bytes) -> None:
        """Raises OSError, and MaltError where another process wrote: locks may not work there."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            if os.fstat(descriptor).st_size != self.size:
                raise MaltError(
                    f"{self.path} was changed by another program: let only one write there, and "
                    "give the same command again; what was committed is kept"
                )
            os.lseek(descriptor, self.size, os.SEEK_SET)
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _note(self, data: bytes, rows: int) -> None:
        """Add the batch that was written."""
        message = decode(data, 0, self.head)
        assert message is not None
        batch = part_of_message(message, data)
        batch.path = self.path
        batch.begin += self.size // 4
        batch.parts["begin"] += self.size
        batch.parts["end"] += self.size
        self.batches.append(batch)
        self.size += len(data)
        self.next_row += rows
        del self.waiting[:rows]
        self.since = time.monotonic()

    def cut(self) -> None:
        """Remove what a failed commit wrote; opening the store would do it, too."""
        with suppress(OSError):
            os.truncate(self.path, self.size)

    def seal(self) -> Segment:
        """Close the file and write its index. Raises OSError."""
        self._write(END)
        segment = self.joined()
        write_index(segment)
        return segment

    def restart(self, path: Path) -> None:
        """Go on in a new file, with the rows that wait."""
        self.path, self.size, self.batches = path, 0, []
        self.rows = {sample.key: row for row, sample in enumerate(self.waiting, self.next_row)}
