"""The lock of a run directory or an export: one program writes there at a time."""

import errno
import fcntl
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from malt_fast.utils.errors import MaltError, first_line

_held: set[Path] = set()  # directories that this process writes to


@contextmanager
def locked(folder: Path, warn: Callable[[str], None], option: str = "--run") -> Iterator[str]:
    """Keep every other writer out of a directory, which the command line names by `option`.

    Yields the owner that died while it held the lock, or "". The lock belongs to the operating
    system and ends with the process, however that ends. warn: called if the file system has no
    locks. Raises MaltError if another process holds the lock.
    """
    resolved = folder.resolve()
    if resolved in _held:  # the system's lock does not keep a process out of its own directory
        raise MaltError(f"{folder} is in use by this very process: give another {option} DIR")
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise unwritable(folder, error, option) from None
    with os.fdopen(descriptor, "r+", encoding="utf-8", errors="replace") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise MaltError(
                    f"{folder} is in use by {file.read().strip() or 'another process'}: wait "
                    f"for it, stop it, or give another {option} DIR"
                ) from None
            warn(f"the file system of {folder} has no locks: let only one program write there")
        died = file.read().strip()
        if died and _lives(died):
            warn(f"{died} may still write to {folder}: let only one program do so")
            died = ""
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        try:
            _write_owner(file, f"process {os.getpid()} on {socket.gethostname()} since {now}")
        except OSError as error:
            raise unwritable(folder, error, option) from None
        _held.add(resolved)
        try:
            yield died
        finally:
            _held.remove(resolved)
            _write_owner(file, "")


def _lives(owner: str) -> bool:
    """Whether an owner that has no lock any more is a process of this machine that still runs.

    Some network file systems give a lock twice.
    """
    found = re.fullmatch(r"process ([0-9]{1,9}) on (\S+) since .*", owner)
    if found is None or found[2] != socket.gethostname() or int(found[1]) in (0, os.getpid()):
        return False
    try:
        os.kill(int(found[1]), 0)
    except OSError as error:
        return error.errno == errno.EPERM  # it is another user's
    return True


def is_held(folder: Path) -> bool:
    """Whether this process writes to a run directory."""
    return folder.resolve() in _held


def owner_of(folder: Path) -> str:
    """The process that writes to a run directory, or died while it did; "" if there is none."""
    try:
        return folder.joinpath("lock").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _write_owner(file: IO[str], text: str) -> None:
    """Past the file's buffer, which closing would try to write again on a full disk."""
    os.ftruncate(file.fileno(), 0)
    os.pwrite(file.fileno(), text.encode(), 0)


def unwritable(folder: Path, error: OSError, option: str = "--run") -> MaltError:
    return MaltError(f"{folder} cannot be written ({first_line(error)}): give another {option} DIR")
