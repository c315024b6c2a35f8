"""Opens the sealed segments of a store; a damaged index is rebuilt from the whole batches."""

import logging
from pathlib import Path

import numpy as np

from malt_fast.store.manifest import Manifest, segment_files
from malt_fast.store.segments import (
    LOST,
    Segment,
    is_mapped,
    joined,
    read_index,
    scan_parts,
    write_index,
)

log = logging.getLogger(__name__)


def load_sealed(
    folder: Path, manifest: Manifest | None, head: bytes, *, writable: bool
) -> tuple[list[Segment], list[Path]]:
    """The sealed segments, and the files that the manifest does not name: the live one is last.

    Files before the last are sealed ones whose manifest was lost.
    """
    known = manifest.sealed if manifest else []
    segments = [
        _load(folder / one["name"], one["first"], one["rows"], head, writable) for one in known
    ]
    names = {one["name"] for one in known}
    unsealed = [file for file in segment_files(folder) if file.name not in names]
    for file in unsealed[:-1]:
        if parts := scan_parts(file, head):
            rows = parts[-1].first + parts[-1].rows - parts[0].first
            segments.append(_load(file, parts[0].first, rows, head, writable))
    return segments, unsealed


def _load(path: Path, first: int, rows: int, head: bytes, writable: bool) -> Segment:
    """A sealed segment by its index, which is made again if it is missing or damaged."""
    segment = read_index(path)
    if segment is not None and (segment.first, segment.rows) == (first, rows):
        return segment
    segment = _scan(path, first, rows, head, writable)
    lost = int(np.count_nonzero(segment.begin == LOST))
    if lost:
        log.warning("%s: %d outputs are damaged: they are left out", path, lost)
    return segment


def _scan(path: Path, first: int, rows: int, head: bytes, writable: bool) -> Segment:
    segment = joined(path, first, rows, scan_parts(path, head))
    if writable:
        write_index(segment)
    return segment


def repaired(segment: Segment, head: bytes, *, writable: bool) -> Segment | None:
    """A segment read anew if its index was damaged since it was opened, else None."""
    if not is_mapped(segment) or read_index(segment.path) is not None:
        return None
    return _scan(segment.path, segment.first, segment.rows, head, writable)
