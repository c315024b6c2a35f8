"""Reads samples from segments; a batch that is found damaged is left out from then on."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from malt_fast.store.segments import LOST, Columns, Sample, Segment, part_is_whole, read_part

CACHED = 16  # batches that stay decoded
Found = tuple[int, Sample]  # row number, and the sample there


class SegmentReader:
    """Keeps the last few batches decoded.

    on_damage: called with (first row, rows) of a batch that is damaged.
    """

    def __init__(self, head: bytes, on_damage: Callable[[int, int], None]) -> None:
        self.head, self.on_damage = head, on_damage
        self.decoded: dict[int, Columns] = {}  # by first row
        self.verified: set[int] = set()  # first rows of batches

    def sample(self, segment: Segment, row: int) -> Sample | None:
        """A row, counted from the segment's first; None if it is lost or damaged."""
        if segment.begin[row] == LOST:
            return None
        part = segment.part_of(row)
        first = int(segment.parts["first"][part])
        if first not in self.decoded:
            batch = read_part(segment, part, self.head)
            if batch is None:
                self.on_damage(first, int(segment.parts["rows"][part]))
                return None
            while len(self.decoded) >= CACHED:
                del self.decoded[next(iter(self.decoded))]
            self.decoded[first] = batch
        return self.decoded[first].sample(segment.first + row - first)

    def find(self, segment: Segment, keys: Sequence[bytes]) -> Iterator[tuple[int, Found]]:
        """(index of a key, its row and sample) of each key that is there, in order of rows."""
        hashes = np.frombuffer(b"".join(key[:8] for key in keys), "<u8")
        first = np.searchsorted(segment.hashes, hashes)
        count = np.searchsorted(segment.hashes, hashes, "right") - first
        (some,) = np.nonzero(count)
        for i in some[np.argsort(segment.order[first[some]])].tolist():
            found = self._find(segment, keys[i], range(first[i], first[i] + count[i]))
            if found is not None:
                yield i, found

    def _find(self, segment: Segment, key: bytes, places: range) -> Found | None:
        for place in places:
            row = int(segment.order[place])
            # An index is checked when it is opened; damage that comes later shows only here.
            sample = self.sample(segment, row) if row < segment.rows else None
            if sample is not None and sample.key == key:
                return segment.first + row, sample
        return None

    def verify(self, segment: Segment, wanted: npt.NDArray[np.bool_]) -> None:
        """Read the batches that hold a wanted row, each once. wanted: by row of the store."""
        first = segment.parts["first"]
        used = np.logical_or.reduceat(wanted, first) if len(first) else first
        for part in np.flatnonzero(used).tolist():
            if first[part] not in self.verified and not part_is_whole(segment, part):
                self.on_damage(int(first[part]), int(segment.parts["rows"][part]))
            self.verified.add(int(first[part]))
