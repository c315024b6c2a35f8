"""Files and folders that appear whole or not at all, whatever is killed or runs full meanwhile.

What is new is written beside its place under a name with a dot, reaches the disk, and is renamed.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash


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
    _remove_or_restore(old)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    yield new
    sync_tree(new)
    if path.exists():
        os.replace(path, old)  # a folder cannot be renamed over one that holds files
    os.replace(new, path)
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(folder: Path, besides: Sequence[str]) -> None:
    """What a process that was killed was writing; but not in `besides`, where others may write."""
    here = [path for path in folder.glob("*") if path.name not in besides]
    for top in here:
        for path in reversed([top, *top.rglob(".*")]):  # what is inside before what is outside
            if path.name.startswith(".") and path.suffix == ".old":
                _remove_or_restore(path)
            elif path.name.startswith(".") and path.suffix == ".new":
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _remove_or_restore(old: Path) -> None:
    """`old` was moved away for what should have taken its place, and perhaps never did."""
    path = old.with_name(old.name[1:].removesuffix(".old"))
    if old.exists() and not path.exists():
        os.replace(old, path)
    shutil.rmtree(old, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """With those above it, and so that their names last."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def checksum(values: dict[str, Any]) -> str:
    """Of what a JSON file says, to be kept in it."""
    return xxhash.xxh3_64_hexdigest(json.dumps(values).encode())


def write_checked(path: Path, values: dict[str, Any]) -> None:
    """As JSON, with a checksum in it."""
    told = values | {"xxh3": checksum(values)}
    write_text(path, json.dumps(told, indent=2, allow_nan=False) + "\n")


def read_checked(path: Path) -> dict[str, Any]:
    """What was written so. Raises ValueError where the file is not what was written."""
    values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict) or values.pop("xxh3", None) != checksum(values):
        raise ValueError("its checksum differs")
    return values


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
