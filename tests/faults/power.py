"""A disk that keeps what was synced and, when the power fails, any part of the rest.

What is below a folder is watched through the calls `fsync`, `replace` and `write` of `os`. When the
power fails, each 512-byte sector of a file that was not synced has its old content or its new one,
the file any length between its old one and its new one, and every name in a folder that was not
synced stands for what it stood for before, or for what it stands for now; of several renames, any
may be lost, whatever became of the others. That is more than a file system without ordered writes
does.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SECTOR = 512  # bytes that a disk writes whole
Names = dict[str, int]  # what is in a folder: inodes


class PowerCut(BaseException):
    """The machine is off."""


@dataclass
class Power:
    """What is safe of the folder `root`, by inode, and when the power fails.

    cut: the number of the call at which it does. Another folder, `after`, then has what is left.
    """

    root: Path
    after: Path
    cut: int
    rng: random.Random
    safe_files: dict[int, bytes] = field(default_factory=dict)
    safe_names: dict[int, Names] = field(default_factory=dict)
    renames: dict[int, list[tuple[str, str]]] = field(default_factory=dict)  # since the last sync
    held: dict[int, int] = field(default_factory=dict)  # open files, so that no inode is used again

    def __post_init__(self) -> None:
        """All that is there at the beginning is safe."""
        for path in [self.root, *self.root.rglob("*")]:
            self._keep(path)
            inode = path.stat().st_ino
            if path.is_dir():
                self.safe_names[inode] = names(path)
            else:
                self.safe_files[inode] = path.read_bytes()

    def _keep(self, path: Path) -> None:
        inode = path.stat().st_ino
        if inode not in self.held:
            self.held[inode] = os.open(path, os.O_RDONLY)

    def close(self) -> None:
        for descriptor in self.held.values():
            os.close(descriptor)

    # ---- what programs call ----

    def os(self) -> Any:
        calls = {"write": self.write, "fsync": self.fsync, "replace": self.replace}
        return SimpleNamespace(**{**vars(os), **calls, "rename": self.replace})

    def _maybe_cut(self, action: Callable[[], Any]) -> Any:
        """Do what was asked for, unless the power fails before; it may fail just after, too."""
        self.cut -= 1
        done = action() if self.cut != 0 or self.rng.random() < 0.5 else None
        if self.cut == 0:
            self.after.mkdir()
            self._fail(self.root, self.root.stat().st_ino, self.after)
            raise PowerCut
        return done

    def write(self, descriptor: int, data: Any) -> Any:
        return self._maybe_cut(lambda: os.write(descriptor, data))

    def fsync(self, descriptor: int) -> None:
        self._maybe_cut(lambda: self._sync(descriptor))

    def _sync(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        inode = os.fstat(descriptor).st_ino
        self._keep(path)
        if path.is_dir():
            for child in path.iterdir():
                self._keep(child)
            self.safe_names[inode] = names(path)
            self.renames[inode] = []
        else:
            self.safe_files[inode] = path.read_bytes()

    def replace(self, source: Any, target: Any) -> None:
        self._maybe_cut(lambda: self._rename(Path(source), Path(target)))

    def _rename(self, source: Path, target: Path) -> None:
        assert source.parent == target.parent
        self._keep(source)
        os.replace(source, target)
        folder = source.parent.stat().st_ino
        self.renames.setdefault(folder, []).append((source.name, target.name))

    # ---- what is left when the power fails ----

    def _fail(self, folder: Path, inode: int, to: Path) -> None:
        """Write what is left of a folder, which is at `folder` or was deleted, to `to`."""
        now = names(folder) if folder.exists() and folder.stat().st_ino == inode else {}
        for name, child in self._left_names(inode, now).items():
            descriptor = self.held.get(child)
            if descriptor is None:
                descriptor = self.held[child] = os.open(folder / name, os.O_RDONLY)
            where = Path(os.readlink(f"/proc/self/fd/{descriptor}").removesuffix(" (deleted)"))
            if where.is_dir() or child in self.safe_names:
                (to / name).mkdir()
                self._fail(where, child, to / name)
            else:
                (to / name).write_bytes(self._left_bytes(child, descriptor))

    def _left_names(self, folder: int, now: Names) -> Names:
        left = dict(self.safe_names.get(folder, {}))
        renamed = self.renames.get(folder, [])
        touched = {name for pair in renamed for name in pair}
        for name in left.keys() | now.keys():
            if name not in touched and self.rng.random() < 0.5:
                if name in now:
                    left[name] = now[name]
                else:
                    left.pop(name)
        # What was renamed had been made: its name is safe, or it is there now under another one.
        made = self._made(left, renamed, now)
        for source, target in renamed:
            if self.rng.random() < 0.5 and (inode := made.get((source, target))) is not None:
                left[target] = inode
                if left.get(source) == inode:
                    left.pop(source)
        return left

    def _made(
        self, safe: Names, renamed: list[tuple[str, str]], now: Names
    ) -> dict[tuple[str, str], int]:
        """The inode that each rename moved, where that can be told: the last one to a name."""
        last = {target: (source, target) for source, target in renamed}
        moved = {pair: now[target] for target, pair in last.items() if target in now}
        return {(s, t): safe[s] for s, t in renamed if s in safe} | moved

    def _left_bytes(self, inode: int, descriptor: int) -> bytes:
        """Of each sector the old content or the new, and any length between the two."""
        safe, now = self.safe_files.get(inode, b""), os.pread(descriptor, 1 << 30, 0)
        if safe == now:
            return safe
        length = self.rng.randint(*sorted((len(safe), len(now))))
        blank = bytes(length)
        old, new = (safe + blank)[:length], (now + blank)[:length]
        mixed = (
            self.rng.choice([old, new, new])[at : at + SECTOR] for at in range(0, length, SECTOR)
        )
        return b"".join(mixed)


def names(folder: Path) -> Names:
    return {path.name: path.stat(follow_symlinks=False).st_ino for path in folder.iterdir()}


@contextmanager
def watched(power: Power, *modules: Any) -> Iterator[None]:
    """Let modules use the disk of `power`, which may fail within."""
    real = os
    for module in modules:
        module.os = power.os()
    try:
        yield
    finally:
        for module in modules:
            module.os = real
        power.close()
