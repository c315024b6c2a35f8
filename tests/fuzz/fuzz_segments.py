"""libFuzzer target: whatever stands in a file of a store, no wrong value is read, and it goes on.

    make fuzz

The first byte of the input chooses the file, the rest is put in its place. What the store then
gives back must be what was put into it; only the rows of a spoilt segment may be lost; and they can
be put in again.
"""

import logging
import shutil
import sys
import tempfile
from inspect import isfunction
from pathlib import Path
from unittest.mock import patch
from uuid import UUID

import atheris
import numpy as np

from malt_fast.store import arrow_batches, live_segment, manifest, reader, recovery, segments, store
from malt_fast.utils.errors import MaltError
from tests.store.stored import fill, known, open_small

N = 24
SMALL = {"batch": 4, "segment_bytes": 2_000}
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # a sync costs nothing there


def instrument() -> None:
    """Function by function: atheris' import hook leaves editable installs as they are."""
    modules = (arrow_batches, live_segment, manifest, reader, recovery, segments, store)
    classes = (segments.Columns, segments.Segment, live_segment.LiveSegment, reader.SegmentReader)
    for owner in (*modules, *classes, store.Store):
        for value in vars(owner).values():
            if isfunction(value) and value.__module__.startswith("malt_fast"):
                atheris.instrument_func(value)


def small_store(folder: Path) -> dict[str, bytes]:
    """The files of a store of N samples, the same ones every time."""
    with patch.object(store.uuid, "uuid4", lambda: UUID(int=7)):
        fill(open_small(folder, **SMALL), range(N))
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def check(files: dict[str, bytes], name: str, data: bytes, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for other, content in files.items():
        (folder / other).write_bytes(data if other == name else content)
    try:
        read = open_small(folder, writable=False, **SMALL)
    except MaltError as error:  # a manifest of another version, say
        assert not name.endswith(".arrows") and "\n" not in str(error), error
        return
    there = known(read, N)  # asserts that the values are right
    if not name.endswith(".arrows"):
        assert there == list(range(N)), f"{name}: lost {set(range(N)) - set(there)}"
    read.verify(np.arange(read.next_row))
    again = open_small(folder, **SMALL)
    for i in sorted(set(range(N)) - set(known(again, N))):
        fill(again, range(i, i + 1))
    assert known(open_small(folder, **SMALL), N) == list(range(N))


def main() -> None:
    logging.disable(logging.WARNING)
    instrument()
    work = Path(tempfile.mkdtemp(prefix="fuzz-", dir=MEMORY))
    files = {}

    def one_input(data: bytes) -> None:
        if data:
            check(files, list(files)[data[0] % len(files)], data[1:], work / "case")

    atheris.Setup(sys.argv, one_input)  # before any code that is looked at runs
    files.update(small_store(work / "whole"))
    for number, (name, content) in enumerate(files.items()):
        Path(sys.argv[-1], f"whole-{name}").write_bytes(bytes([number]) + content)
    try:
        atheris.Fuzz()
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
