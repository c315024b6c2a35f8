"""The store: every output ever sampled for a run, by key. Everything else can be recomputed.

    samples/manifest.json         the store's id, its sealed segments, what was found damaged
    samples/samples-00000.arrows  sealed segments (segments.py), and their indexes
    samples/samples-00001.arrows  the live one: one more batch per commit (live_segment.py)

    append --> waiting rows --commit, fsync--> live segment --seal--> sealed segment, index

A commit is due after `batch` rows or `interval` seconds. What was committed survives any crash: a
torn last batch is cut off; a damaged one is left out, and its outputs are sampled again. Memory:
the waiting rows, about 300 bytes per row of the live segment, a few kilobytes per sealed one. One
process writes (the run directory is locked); any number read.
"""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from malt_fast.store.arrow_batches import encode_head
from malt_fast.store.live_segment import LiveSegment
from malt_fast.store.manifest import (
    Manifest,
    id_in_segments,
    new_segment_path,
    read_manifest,
    write_manifest,
)
from malt_fast.store.reader import Found, SegmentReader
from malt_fast.store.recovery import load_sealed, repaired
from malt_fast.store.segments import LOST, Sample, Segment, leave_out, read_index, schema_of
from malt_fast.utils.errors import MaltError, first_line
from malt_fast.utils.files import make_folder

log = logging.getLogger(__name__)

MOST_ROWS = 1 << 18  # of a segment: bounds what the live one keeps in memory
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Where the tokens of every committed row are, by its number."""

    paths: list[Path]  # of segments
    sizes: list[int]  # bytes of each that hold rows
    segment: npt.NDArray[np.int32]  # LOST if the row cannot be read
    begin: Ints  # in int32s from the beginning of the file
    length: npt.NDArray[np.uint32]
    finish: npt.NDArray[np.uint8]
    check: npt.NDArray[np.uint32]  # the start of its key


class Store:
    """Made by `open_store`.

    batch, interval: rows and seconds after which a commit is due; segment_bytes: of a file.
    """

    def __init__(
        self, folder: Path, batch: int, interval: float, segment_bytes: int, writable: bool
    ) -> None:
        """Raises OSError, and MaltError for a store of another version."""
        self.folder, self.writable = folder, writable
        self.batch, self.interval, self.segment_bytes = batch, interval, segment_bytes
        self.broken = False  # a write failed: nothing more is written
        manifest = read_manifest(folder)
        self.id = manifest.store if manifest else id_in_segments(folder) or uuid.uuid4().hex
        self.quarantined = manifest.quarantined if manifest else []
        schema = schema_of(self.id)
        self.head = encode_head(schema)
        self.reader = SegmentReader(self.head, self._quarantine)
        self.sealed, unsealed = load_sealed(folder, manifest, self.head, writable=writable)
        path = unsealed[-1] if unsealed else self._new_path()
        sealed_rows = max((segment.first + segment.rows for segment in self.sealed), default=0)
        self.live = LiveSegment(path, schema, self.head, sealed_rows)
        self.live.load(writable=writable)
        for first, rows in self.quarantined:
            self._leave_out(first, rows)
            self.live.next_row = max(self.next_row, first + rows)  # numbers are never given twice
        if writable and (manifest is None or len(unsealed) > 1):
            self._write_manifest()

    @property
    def next_row(self) -> int:
        """Number of the first row that is not committed."""
        return self.live.next_row

    @property
    def segments(self) -> list[Segment]:
        """The sealed segments, and the committed part of the live one."""
        return [*self.sealed, *([self.live.joined()] if self.live.batches else [])]

    # ---- reading ----

    def find(self, keys: Sequence[bytes]) -> list[Found | None]:
        """Row and sample of each key; None if there is none, or it is damaged."""
        found: list[Found | None] = [None] * len(keys)
        live = [(row, i) for i, key in enumerate(keys) if (row := self.live.rows.get(key, -1)) >= 0]
        for row, i in sorted(live):  # in order of rows: each batch is decoded once
            found[i] = self._find_live(row)
        for segment in reversed(self.sealed):
            missing = [i for i, one in enumerate(found) if one is None]
            if not missing:
                break
            for i, one in self.reader.find(segment, [keys[i] for i in missing]):
                found[missing[i]] = one
        return found

    def _find_live(self, row: int) -> Found | None:
        if row >= self.next_row:
            return row, self.live.waiting[row - self.next_row]
        batch = self.live.batch_of(row)
        sample = self.reader.sample(batch, row - batch.first)
        return None if sample is None else (row, sample)

    def rows(self) -> Rows:
        """All committed rows; those between segments are lost."""
        self._repair_indexes()
        n, segments = self.next_row, self.segments
        segment, begin = np.full(n, LOST, np.int32), np.zeros(n, np.int64)
        length, check = np.zeros(n, np.uint32), np.zeros(n, np.uint32)
        finish = np.zeros(n, np.uint8)
        for i, one in enumerate(segments):
            here = slice(one.first, one.first + one.rows)
            segment[here] = np.where(one.begin == LOST, LOST, i)
            begin[here], length[here] = one.begin, one.length
            check[here], finish[here] = one.check, one.finish
        sizes = [int(one.parts["end"].max(initial=0)) for one in segments]
        return Rows([s.path for s in segments], sizes, segment, begin, length, finish, check)

    def verify(self, rows: Ints) -> None:
        """Read the batches that hold these rows, each once, and leave out the damaged ones."""
        wanted = np.zeros(self.next_row, np.bool_)
        wanted[rows] = True
        for segment in self.segments:
            self.reader.verify(segment, wanted)

    # ---- damage ----

    def _repair_indexes(self) -> None:
        """Make the indexes again that were damaged since they were opened."""
        for i, segment in enumerate(self.sealed):
            again = repaired(segment, self.head, writable=self.writable)
            if again is not None:
                self.sealed[i] = again
                for first, rows in self.quarantined:
                    leave_out(again, first, rows)

    def _quarantine(self, first: int, rows: int) -> None:
        """Leave a damaged batch out for good."""
        if (first, rows) in self.quarantined:
            return
        log.warning("%s: %d outputs are damaged on disk: they are left out", self.folder, rows)
        self.quarantined.append((first, rows))
        self._leave_out(first, rows)
        if self.writable and not self.broken:
            self._write_manifest()

    def _leave_out(self, first: int, rows: int) -> None:
        for segment in [*self.sealed, *self.live.batches]:
            leave_out(segment, first, rows)
        gone = range(first, first + rows)
        self.live.rows = {key: row for key, row in self.live.rows.items() if row not in gone}

    # ---- writing ----

    def append(self, samples: Sequence[Sample]) -> list[int]:
        """Take samples, to be committed when it is due; their row numbers."""
        return self.live.append(samples)

    def commit_if_due(self) -> None:
        """Raises MaltError as `commit` does."""
        while len(self.live.waiting) >= self.batch and not self.broken:
            self.commit()
        if self.live.is_due(self.interval):
            self.commit()

    def commit_all(self) -> None:
        """Raises MaltError as `commit` does."""
        while self.live.waiting and not self.broken:
            self.commit()

    def commit(self) -> None:
        """Write up to `batch` waiting rows, so that they survive whatever happens next.

        Raises MaltError if the disk does not take them; what was committed before is safe.
        """
        if self.broken or not self.live.waiting:
            return
        try:
            self.live.commit(self.batch)
            if self.live.size >= self.segment_bytes or len(self.live.rows) >= MOST_ROWS:
                self._seal()
        except OSError as error:
            self.broken = True
            self.live.cut()
            raise MaltError(
                f"{self.folder} cannot be written ({first_line(error)}): make room there and give "
                "the same command again; what was committed before is kept"
            ) from None
        except BaseException:  # a second Ctrl-C: the next opening finds out if the rows are there
            self.broken = True
            raise

    def _seal(self) -> None:
        """Close the live segment, and begin another."""
        segment = self.live.seal()
        self.sealed.append(read_index(segment.path) or segment)
        self.live.restart(self._new_path())
        self._write_manifest()

    def _new_path(self) -> Path:
        return new_segment_path(self.folder, [segment.path for segment in self.sealed])

    def _write_manifest(self) -> None:
        sealed = [{"name": s.path.name, "first": s.first, "rows": s.rows} for s in self.sealed]
        write_manifest(self.folder, Manifest(self.id, sealed, self.quarantined))


def open_store(
    folder: Path,
    *,
    batch: int = 4096,
    interval: float = 1.0,
    segment_bytes: int = 256 << 20,
    writable: bool = True,
) -> Store:
    """The store in a folder, made if it is not there. Raises MaltError if that is impossible.

    Reads the live segment, and of sealed ones only the index.
    """
    if not writable and not folder.is_dir():
        raise MaltError(f"{folder} holds no samples: give a run that sampled something")
    try:
        make_folder(folder)
        return Store(folder, batch, interval, segment_bytes, writable)
    except OSError as error:
        raise MaltError(
            f"{folder} cannot be used ({first_line(error)}): mend that, or give another --run DIR"
        ) from None


@dataclass(frozen=True, slots=True)
class Samples:
    """The store of a run, and the stores of other runs to take outputs from."""

    store: Store
    others: Sequence[Store] = ()
