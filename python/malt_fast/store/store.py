"""The store: every output ever sampled for a run, by what it depends on. Nothing else is precious.

    samples/manifest.json         the store's id, its sealed segments, what was found damaged
    samples/samples-00000.arrows  sealed segments (segments.py), and their indexes
    samples/samples-00001.arrows  the live one, which grows by one batch a commit

    append --> waiting rows --commit, fsync--> live segment --seal--> sealed segment, index

A commit is due after `batch` rows or `interval` seconds. Whatever dies, what was committed stays: a
torn last batch is cut off, a damaged one is left out and its outputs are sampled again. Memory: the
waiting rows, about 300 bytes a row of the live segment, and a few kilobytes a sealed one. One
process writes (run.py locks the run); any may read.
"""

import json
import logging
import os
import re
import time
import uuid
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from malt_fast.store.arrow_batches import END, decode, encode_head
from malt_fast.store.segments import (
    LOST,
    VERSION,
    Columns,
    Sample,
    Segment,
    encode_samples,
    is_mapped,
    joined,
    part_is_whole,
    part_of_message,
    read_index,
    read_part,
    scan_parts,
    schema_of,
    write_index,
)
from malt_fast.utils.errors import MaltError, first_line
from malt_fast.utils.files import (
    checksum,
    make_folder,
    sync_file,
    sync_folder,
    write_all,
    write_text,
)

SEGMENT = re.compile(r"samples-[0-9]+\.arrows")
log = logging.getLogger(__name__)

MOST_ROWS = 1 << 18  # of a segment: bounds what the live one keeps in memory
CACHED = 16  # batches that stay decoded
Ints = npt.NDArray[np.int64]
Found = tuple[int, Sample]  # row number, and what is there


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Where the tokens of every committed row are, by its number."""

    paths: list[Path]  # of segments
    sizes: list[int]  # bytes of each that hold rows
    segment: npt.NDArray[np.int32]  # LOST where the row cannot be read
    begin: Ints  # in int32s from the beginning of the file
    length: npt.NDArray[np.uint32]
    finish: npt.NDArray[np.uint8]
    check: npt.NDArray[np.uint32]  # the start of its key


@dataclass(eq=False)
class Store:
    """Made by `open_store`."""

    folder: Path
    id: str
    batch: int
    interval: float
    segment_bytes: int
    writable: bool
    quarantined: list[tuple[int, int]]  # (first row, rows) of damaged batches
    sealed: list[Segment] = field(default_factory=list)
    live: Path = Path()
    live_parts: list[Segment] = field(default_factory=list)  # its batches
    live_rows: dict[bytes, int] = field(default_factory=dict)  # by key; waiting ones, too
    committed: int = 0  # bytes of the live segment that are safe
    next_row: int = 0  # of the next commit
    waiting: list[Sample] = field(default_factory=list)
    since: float = 0.0  # when the first of them came
    broken: bool = False  # a write failed: nothing more is written
    verified: set[int] = field(default_factory=set)  # first rows of batches
    decoded: dict[int, Columns] = field(default_factory=dict)  # by first row

    def __post_init__(self) -> None:
        self.schema = schema_of(self.id)
        self.head = encode_head(self.schema)

    # ---- reading ----

    def find(self, keys: Sequence[bytes]) -> list[Found | None]:
        """Row and sample of each key; None where there is nothing, or it is damaged."""
        found: list[Found | None] = [None] * len(keys)
        live = [(row, i) for i, key in enumerate(keys) if (row := self.live_rows.get(key, -1)) >= 0]
        for row, i in sorted(live):  # in order of rows: each batch is decoded once
            found[i] = self._find_live(row)
        for segment in reversed(self.sealed):
            missing = [i for i, one in enumerate(found) if one is None]
            if not missing:
                break
            hashes = np.frombuffer(b"".join(keys[i][:8] for i in missing), "<u8")
            first = np.searchsorted(segment.hashes, hashes)
            count = np.searchsorted(segment.hashes, hashes, "right") - first
            (some,) = np.nonzero(count)
            for at in some[np.argsort(segment.order[first[some]])].tolist():
                places = range(first[at], first[at] + count[at])
                found[missing[at]] = self._find_sealed(segment, keys[missing[at]], places)
        return found

    def _find_sealed(self, segment: Segment, key: bytes, places: range) -> Found | None:
        for place in places:
            row = int(segment.order[place])
            # An index is checked when it is opened, and what happens to it later when it is read.
            sample = self._read(segment, row) if row < segment.rows else None
            if sample is not None and sample.key == key:
                return segment.first + row, sample
        return None

    def _find_live(self, row: int) -> Found | None:
        if row >= self.next_row:
            return row, self.waiting[row - self.next_row]
        part = self.live_parts[bisect_right(self.live_parts, row, key=lambda p: p.first) - 1]
        sample = self._read(part, row - part.first)
        return None if sample is None else (row, sample)

    def _read(self, segment: Segment, row: int) -> Sample | None:
        """A row, counted from the segment's first."""
        if segment.begin[row] == LOST:
            return None
        part = segment.part_of(row)
        first = int(segment.parts["first"][part])
        if first not in self.decoded:
            batch = read_part(segment, part, self.head)
            if batch is None:
                self.quarantine(first, int(segment.parts["rows"][part]))
                return None
            while len(self.decoded) >= CACHED:
                del self.decoded[next(iter(self.decoded))]
            self.decoded[first] = batch
        return self.decoded[first].sample(segment.first + row - first)

    def questions_of(self, rows: Sequence[int]) -> list[str | None]:
        """Id of the question that each row answers; None where a row cannot be read."""
        segments, found = self.segments, []
        for row in rows:
            segment = segments[bisect_right(segments, row, key=lambda s: s.first) - 1]
            sample = self._read(segment, row - segment.first)
            found.append(None if sample is None else sample.question)
        return found

    @property
    def segments(self) -> list[Segment]:
        """Sealed ones, and the live one as far as it is committed."""
        return [*self.sealed, *([self._joined_live()] if self.live_parts else [])]

    def _joined_live(self) -> Segment:
        first = self.live_parts[0].first
        return joined(self.live, first, self.next_row - first, self.live_parts)

    def rows(self) -> Rows:
        """All committed rows; those between segments are lost."""
        self._check_indexes()
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

    def _check_indexes(self) -> None:
        """Make those again that were damaged since they were opened."""
        for i, segment in enumerate(self.sealed):
            if not is_mapped(segment) or read_index(segment.path) is not None:
                continue
            parts = scan_parts(segment.path, self.head)
            self.sealed[i] = joined(segment.path, segment.first, segment.rows, parts)
            if self.writable:
                write_index(self.sealed[i])
            for first, rows in self.quarantined:
                self._leave_out(first, rows)

    def verify(self, rows: Ints) -> None:
        """Read the batches that hold these rows, once, and quarantine those that are damaged."""
        wanted = np.zeros(self.next_row, np.bool_)
        wanted[rows] = True
        for segment in self.segments:
            first = segment.parts["first"]
            used = np.logical_or.reduceat(wanted, first) if len(first) else first
            for part in np.flatnonzero(used).tolist():
                if first[part] not in self.verified and not part_is_whole(segment, part):
                    self.quarantine(int(first[part]), int(segment.parts["rows"][part]))
                self.verified.add(int(first[part]))

    def quarantine(self, first: int, rows: int) -> None:
        """Leave a damaged batch out for good."""
        if (first, rows) in self.quarantined:
            return
        log.warning("%s: %d outputs are damaged on disk: they are left out", self.folder, rows)
        self.quarantined.append((first, rows))
        self._leave_out(first, rows)
        if self.writable and not self.broken:
            self._write_manifest()

    def _leave_out(self, first: int, rows: int) -> None:
        for segment in [*self.sealed, *self.live_parts]:
            if segment.first <= first < segment.first + segment.rows:
                segment.begin = segment.begin.copy()  # an index is mapped read-only
                segment.begin[first - segment.first :][:rows] = LOST
        gone = range(first, first + rows)
        self.live_rows = {key: row for key, row in self.live_rows.items() if row not in gone}

    # ---- opening ----

    def open(self, manifest: dict[str, Any] | None) -> None:
        """Know what is in the folder; of the live segment, cut off what was not committed."""
        known = manifest["sealed"] if manifest else []
        for told in known:
            self._add_sealed(self.folder / told["name"], told["first"], told["rows"])
        names = {told["name"] for told in known}
        unsealed = [file for file in segment_files(self.folder) if file.name not in names]
        for file in unsealed[:-1]:  # the manifest was lost
            parts = scan_parts(file, self.head)
            if parts:
                last = parts[-1]
                rows = last.first + last.rows - parts[0].first
                self._add_sealed(file, parts[0].first, rows)
        self.live = unsealed[-1] if unsealed else self._fresh_path()
        self._open_live()
        for first, rows in self.quarantined:
            self._leave_out(first, rows)
            self.next_row = max(self.next_row, first + rows)  # their numbers are not given again
        if self.writable and (manifest is None or len(unsealed) > 1):
            self._write_manifest()

    def _add_sealed(self, path: Path, first: int, rows: int) -> None:
        segment = read_index(path)
        if segment is None or (segment.first, segment.rows) != (first, rows):
            segment = joined(path, first, rows, scan_parts(path, self.head))
            lost = int(np.count_nonzero(segment.begin == LOST))
            if lost:
                log.warning("%s: %d outputs are damaged: they are left out", path, lost)
            if self.writable:
                write_index(segment)
        self.sealed.append(segment)
        self.next_row = max(self.next_row, first + rows)

    def _open_live(self) -> None:
        self.live_parts = scan_parts(self.live, self.head, growing=not self.writable)
        if not self.live_parts:
            return  # the first commit begins the file
        first, last = self.next_row, self.live_parts[-1]
        self.next_row = max(self.next_row, last.first + last.rows)
        self.committed = max(int(part.parts["end"][0]) for part in self.live_parts)
        for part in self.live_parts:
            self.live_rows |= {key.tobytes(): part.first + i for i, key in enumerate(part.keys)}
        lost = self.next_row - first - sum(part.rows for part in self.live_parts)
        if lost:
            log.warning("%s: %d outputs are damaged: they are left out", self.live, lost)
        if self.writable:
            os.truncate(self.live, self.committed)
            with self.live.open("rb+") as file:
                if file.read(len(self.head)) != self.head:  # damaged: other readers need it
                    file.seek(0)
                    file.write(self.head)
            sync_file(self.live)  # its last batch may be whole and still in memory only

    # ---- writing ----

    def append(self, samples: Sequence[Sample]) -> list[int]:
        """Take samples to be committed when it is time; their row numbers."""
        if samples and not self.waiting:
            self.since = time.monotonic()
        begin = self.next_row + len(self.waiting)
        for row, sample in enumerate(samples, begin):
            self.live_rows[sample.key] = row
        self.waiting += samples
        return list(range(begin, begin + len(samples)))

    def commit_if_due(self) -> None:
        """Raises MaltError as `commit` does."""
        while len(self.waiting) >= self.batch and not self.broken:
            self.commit()
        if self.waiting and time.monotonic() - self.since >= self.interval:
            self.commit()

    def commit_all(self) -> None:
        """Raises MaltError as `commit` does."""
        while self.waiting and not self.broken:
            self.commit()

    def commit(self) -> None:
        """Write up to `batch` waiting rows so that they survive whatever happens next.

        Raises MaltError where the disk does not take them; what was committed before is safe.
        """
        if self.broken or not self.waiting:
            return
        some = self.waiting[: self.batch]
        data = encode_samples(some, self.next_row, self.head, self.schema)
        try:
            if not self.committed:
                self._begin_live()
            self._write_live(data)
            self._note(data, len(some))
            if self.committed >= self.segment_bytes or len(self.live_rows) >= MOST_ROWS:
                self._seal()
        except OSError as error:
            self.broken = True
            with suppress(OSError):  # opening would do it, too
                os.truncate(self.live, self.committed)
            raise MaltError(
                f"{self.folder} cannot be written ({first_line(error)}): make room there and give "
                "the same command again; what was committed before is kept"
            ) from None
        except BaseException:  # a second Ctrl-C: whether the rows are there, the next opening tells
            self.broken = True
            raise

    def _begin_live(self) -> None:
        self.live.unlink(missing_ok=True)
        self._write_live(self.head)
        sync_folder(self.folder)
        self.committed = len(self.head)

    def _write_live(self, data: bytes) -> None:
        descriptor = os.open(self.live, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.lseek(descriptor, self.committed, os.SEEK_SET)
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _note(self, data: bytes, rows: int) -> None:
        """Know the rows of a batch that was committed."""
        message = decode(data, 0, self.head)
        assert message is not None
        part = part_of_message(message, data)
        part.path = self.live
        part.begin += self.committed // 4
        part.parts["begin"] += self.committed
        part.parts["end"] += self.committed
        self.live_parts.append(part)
        self.committed += len(data)
        self.next_row += rows
        del self.waiting[:rows]
        self.since = time.monotonic()

    def _seal(self) -> None:
        """Close the live segment, write its index, and begin another."""
        self._write_live(END)
        segment = self._joined_live()
        write_index(segment)
        self.sealed.append(read_index(segment.path) or segment)
        self.live, self.committed, self.live_parts = self._fresh_path(), 0, []
        waiting = enumerate(self.waiting, self.next_row)
        self.live_rows = {sample.key: row for row, sample in waiting}
        self._write_manifest()

    def _fresh_path(self) -> Path:
        """A name that no segment has or had."""
        files = [*segment_files(self.folder), *(segment.path for segment in self.sealed)]
        last = max((int(file.stem.rpartition("-")[2]) for file in files), default=-1)
        return self.folder / f"samples-{last + 1:05d}.arrows"

    def _write_manifest(self) -> None:
        sealed = [{"name": s.path.name, "first": s.first, "rows": s.rows} for s in self.sealed]
        values: dict[str, Any] = {"version": VERSION, "store": self.id, "sealed": sealed}
        values["quarantined"] = self.quarantined
        values["xxh3"] = checksum(values)
        write_text(self.folder / "manifest.json", json.dumps(values, indent=1) + "\n")


def open_store(
    folder: Path,
    *,
    batch: int = 4096,
    interval: float = 1.0,
    segment_bytes: int = 256 << 20,
    writable: bool = True,
) -> Store:
    """The store in a folder, made if it is not there. Raises MaltError where that cannot be.

    batch, interval: rows and seconds after which a commit is due; segment_bytes: of a file.
    Reads the live segment, of sealed ones the index only.
    """
    if not writable and not folder.is_dir():
        raise MaltError(f"{folder} holds no samples: give a run that sampled something")
    try:
        make_folder(folder)
        manifest = _read_manifest(folder)
        id = manifest["store"] if manifest else _id_in(segment_files(folder)) or uuid.uuid4().hex
        damaged = [(first, rows) for first, rows in manifest["quarantined"]] if manifest else []
        store = Store(folder, id, batch, interval, segment_bytes, writable, damaged)
        store.open(manifest)
    except OSError as error:
        raise MaltError(
            f"{folder} cannot be used ({first_line(error)}): mend that, or give another --run DIR"
        ) from None
    return store


def segment_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("samples-*") if SEGMENT.fullmatch(path.name))


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """None if it is missing or damaged: the segments tell all but what was found damaged.

    One that names files which are no segments of this folder counts as damaged.
    """
    try:
        values: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        told = values.pop("xxh3")
        own = all(SEGMENT.fullmatch(segment["name"]) for segment in values["sealed"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if told != checksum(values) or not own:
        return None
    if values["version"] != VERSION:
        raise MaltError(
            f"{folder} has format {values['version']}, this version reads {VERSION}: use the "
            "version that wrote it, or give another --run DIR"
        )
    return values


def _id_in(files: Sequence[Path]) -> str | None:
    """The store's id, as the head of the first segment that can be read tells it."""
    for file in files:
        try:
            with pa.ipc.open_stream(pa.OSFile(str(file))) as reader:
                id: str = (reader.schema.metadata or {})[b"store"].decode()
        except (OSError, ValueError, KeyError, pa.ArrowException):
            continue
        if len(id) == 32:  # else the head would have another length
            return id
    return None


@dataclass(frozen=True, slots=True)
class Samples:
    """The store of a run, and those of other runs to take from."""

    store: Store
    others: Sequence[Store] = ()
