"""Files and folders that appear whole or not at all, whatever is killed or runs full meanwhile.

What is new is written beside its place under a name with a dot, reaches the disk, and is renamed.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write beside `path`; on leaving it reaches the disk and takes `path`'s place."""
    beside = path.with_name(f".{path.name}.new")
    try:
        yield beside
        sync_file(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`; on leaving it takes `path`'s place, which is whole or absent."""
    new, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir()
    yield new
    sync_tree(new)
    if path.exists():
        os.replace(path, old)  # a folder cannot be renamed over one that holds files
    os.replace(new, path)
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """What a process that was killed was writing."""
    for pattern in (".*.new", ".*.old"):
        for path in folder.rglob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte, or raise OSError."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """So that new names last, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            sync_file(path)
    sync_folder(folder)
