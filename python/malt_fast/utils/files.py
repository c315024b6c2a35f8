"""Files and folders that appear whole or not at all, even if the process dies or the disk is full.

New content is written beside its place under a name with a dot, synced to disk, and renamed. A file
that is being written is locked, so that nobody takes it for what a killed process left.
"""

import fcntl
import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import xxhash

from malt_fast.utils.errors import MaltError

HOUR = 3600  # seconds


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path to write to; on leaving, that file is synced and takes the place of `path`.

    Every process has a path of its own; a link in its place is removed, not followed. What killed
    processes left of the same file is removed.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9]+\.new")
    for left in path.parent.glob(".*.new"):
        if name.fullmatch(left.name) and not _is_written(left):
            _remove(left)
    with _naming(path, beside):
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _lock(descriptor)
            yield beside
            sync_file(beside)
            os.replace(beside, path)
        finally:
            os.close(descriptor)
            beside.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def _naming(path: Path, beside: Path) -> Iterator[None]:
    """Name `path` in errors about `beside`, and in those that name no file, as of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None or Path(error.filename) == beside:
            error.filename = str(path)
        raise


def _lock(descriptor: int) -> None:
    """Tell others that a living process writes there, if the file system has locks."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_written(beside: Path) -> bool:
    """Whether a living process writes to a file or a folder that was made here."""
    try:
        descriptor = os.open(beside, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks here, so nobody is kept out
        return False
    finally:
        os.close(descriptor)
    return False


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yields a new folder to fill; on leaving, it takes the place of `path`. Errors remove it."""
    new, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    _remove_or_restore(old)
    _remove(new)
    try:
        with _naming(path, new):
            new.mkdir()
            yield new
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    sync_tree(new)
    if path.exists():
        os.replace(path, old)  # a folder cannot be renamed over one that holds files
    os.replace(new, path)
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def made_once(path: Path) -> Iterator[Path]:
    """Yields a new folder to fill; on leaving, it becomes `path`, unless another process made it.

    Each process fills a folder of its own, so they need no lock. `remove_abandoned` removes those
    of killed processes.
    """
    new = Path(mkdtemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent))
    descriptor = os.open(new, os.O_RDONLY)
    try:
        _lock(descriptor)
        new.chmod(0o755)
        yield new
        sync_tree(new)
        try:
            os.rename(new, path)
        except OSError:
            if not path.is_dir():
                raise
        sync_folder(path.parent)
    finally:
        os.close(descriptor)
        shutil.rmtree(new, ignore_errors=True)


def remove_abandoned(parent: Path) -> None:
    """Remove what `made_once` was filling in a folder where nothing changed for an hour.

    The hour is for file systems without locks; elsewhere no clock that jumps can do harm.
    """
    for left in parent.glob(".*.new"):
        if not _is_written(left) and _last_change(left) < time.time() - HOUR:
            shutil.rmtree(left, ignore_errors=True)


def _last_change(folder: Path) -> float:
    """When anything in a folder was last written, in seconds; the future, if it vanishes now."""
    try:
        return max(file.stat().st_mtime for file in [folder, *folder.rglob("*")])
    except FileNotFoundError:
        return math.inf


def remove_leftovers(folder: Path, besides: Sequence[str]) -> None:
    """Remove what a killed process was writing, except in `besides`, where others may write."""
    here = [path for path in folder.glob("*") if path.name not in besides]
    for top in here:
        for path in reversed([top, *top.rglob(".*")]):  # inner ones first
            if path.name.startswith(".") and path.suffix == ".old":
                _remove_or_restore(path)
            elif path.name.startswith(".") and path.suffix == ".new" and not _is_written(path):
                _remove(path)


def _remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _remove_or_restore(old: Path) -> None:
    """Remove `old`, or put it back if nothing took its place."""
    path = old.with_name(old.name[1:].removesuffix(".old"))
    if old.exists() and not path.exists():
        os.replace(old, path)
    _remove(old)


def check_files(folder: Path) -> None:
    """Raises MaltError if a pipe, a device or a socket is where a file should be.

    Reading one may never end.
    """
    for path in folder.rglob("*"):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise MaltError(
                f"{path} is neither a file nor a folder: remove it and run the same command again"
            )


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, synced to disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes | bytearray) -> None:
    """Write a whole file or nothing."""
    with replacing(path) as beside:
        beside.write_bytes(data)


def content_checksum(data: bytes | bytearray) -> str:
    return xxhash.xxh3_64_hexdigest(data)


def checksum(values: dict[str, Any]) -> str:
    """Checksum of the content of a JSON file."""
    return content_checksum(json.dumps(values).encode())


def write_checked(path: Path, values: dict[str, Any]) -> None:
    """Write JSON with a checksum in it."""
    content = values | {"xxh3": checksum(values)}
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_checked(path: Path) -> dict[str, Any]:
    """Read what `write_checked` wrote. Raises ValueError if the file was changed."""
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
    """Sync the names in a folder."""
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
