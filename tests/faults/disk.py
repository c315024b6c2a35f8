"""Faults below the store: no wrong value is ever read, and no more is lost than what was hit.

    python -m tests.faults.disk --cases 10000 --json FILE

A case fills a small store while writes, syncs or renames of files fail (no space, an error of the
disk), write less than asked, or are where the process dies, half-done; a crash may also take back
or spoil what was not synced: bytes, names of files, renames. Then bits are flipped anywhere, also
below an open store, and a file may be gone. What the store gives back must be what was put in; what
it lost must lie in a batch that was hit, or was not committed yet; and when the lost ones are put
in again, all is there, the next time too. In other cases the power fails again and again, over a
disk that keeps any part of what was not synced (power.py): nothing that was committed may be lost.
"""

import argparse
import errno
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from malt_fast.store import live_segment, manifest, store
from malt_fast.store.segments import LOST, scan_parts
from malt_fast.utils import files
from malt_fast.utils.errors import MaltError
from tests.faults.power import Power, PowerCut, watched
from tests.store.stored import fill, known, open_small, sample_of

FAULTS = ("none", "short writes", "no space", "disk error", "death", "death before the sync")
POWER = ("power cuts of a store", "power cuts of files")
N = 120  # samples in a case


class Death(BaseException):
    """The process is no more."""


class Disk:
    """`os` with one fault: at its `number`th call of write, fsync or replace."""

    def __init__(self, fault: str, number: int, rng: random.Random) -> None:
        self.fault, self.left, self.rng = fault, number, rng
        self.synced: dict[str, int] = {}  # bytes of each file that are safe
        self.named: set[str] = set()  # files whose names are
        self.renamed: dict[str, bytes | None] = {}  # what was at a name before, if that may return

    def os(self) -> Any:
        calls = {"write": self.write, "fsync": self.fsync, "replace": self.replace}
        return SimpleNamespace(**{**vars(os), **calls})

    def due(self) -> bool:
        self.left -= 1
        return self.left == 0 and self.fault not in ("none", "short writes")

    def fail(self) -> None:
        if self.fault == "no space":
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.fault == "disk error":
            raise OSError(errno.EIO, "Input/output error")
        if self.fault.startswith("death"):
            raise Death

    def write(self, descriptor: int, data: Any) -> int:
        if self.fault == "short writes":
            return os.write(descriptor, data[: self.rng.randint(1, len(data))])
        if self.due():
            os.write(descriptor, data[: self.rng.randint(0, len(data) - 1)])
            self.fail()
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        if self.due():
            self.fail()
        os.fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_dir():
            self.named |= {str(file) for file in path.iterdir()}
            self.renamed = {}
        else:
            self.synced[str(path)] = path.stat().st_size

    def replace(self, source: Any, target: Any) -> None:
        if self.due():
            if self.rng.random() < 0.5:
                self.rename(source, target)
            self.fail()
        self.rename(source, target)

    def rename(self, source: Any, target: Any) -> None:
        before = Path(target).read_bytes() if Path(target).exists() else None
        self.renamed.setdefault(str(target), before)
        self.synced[str(target)] = self.synced.pop(str(source), 0)
        os.replace(source, target)

    def crash(self, folder: Path) -> None:
        """The machine lost power: what was not synced is there, or not, or rubbish."""
        for name, before in self.renamed.items():
            if self.rng.random() < 0.5:
                Path(name).unlink() if before is None else Path(name).write_bytes(before)
                self.synced[name] = len(before or b"")
        for path in list(folder.iterdir()):
            if str(path) not in self.named and self.rng.random() < 0.5:
                path.unlink()
                continue
            safe, size = self.synced.get(str(path), 0), path.stat().st_size
            if size <= safe:
                continue
            with path.open("r+b") as file:
                file.seek(safe)
                file.write(self.rng.choice([b"\0", b"\xff", b"?"]) * (size - safe))
                file.truncate(self.rng.randint(safe, size))


def segments(folder: Path) -> list[Path]:
    return manifest.segment_files(folder)


def place_of_batches(folder: Path) -> list[tuple[Path, int, int, range]]:
    """(file, begin, end, samples) of every batch that is whole."""
    opened = open_small(folder, writable=False)
    numbers = {key: i for i, key in enumerate(sample_of(i).key for i in range(N))}
    return [
        (path, *part.parts[["begin", "end"]][0].tolist(), [numbers[k.tobytes()] for k in part.keys])
        for path in segments(folder)
        for part in scan_parts(path, opened.head)
    ]


def check_rows(opened: store.Store) -> list[int]:
    """Samples that are there. Asserts that they are right, and lie where forests look for them."""
    there = known(opened, N)
    opened.verify(np.arange(opened.next_row))
    rows = opened.rows()
    for i in there:
        found = opened.find([sample_of(i).key])[0]
        if found is None or rows.segment[found[0]] == LOST:
            continue
        words = np.fromfile(rows.paths[rows.segment[found[0]]], np.int32)
        begin, length = rows.begin[found[0]], rows.length[found[0]]
        assert words[begin : begin + length].tolist() == sample_of(i).tokens.tolist()
    return there


def flip(folder: Path, count: int, rng: random.Random) -> list[tuple[Path, int]]:
    """Flip bits anywhere; where."""
    paths = [path for path in folder.iterdir() if path.stat().st_size]
    weights = [path.stat().st_size for path in paths]
    places = []
    for path in rng.choices(paths, weights, k=count) if paths else []:
        at = rng.randrange(path.stat().st_size)
        with path.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << rng.randrange(8)]))
        places.append((path, at))
    return places


def run_case(seed: object, folder: Path) -> tuple[str, str]:
    """The fault, and what is wrong with what the store did; empty if nothing is."""
    rng = random.Random(f"{seed}")
    fault = rng.choice(FAULTS)
    disk = Disk(fault, rng.randint(1, 90), rng)
    options = {"batch": rng.randint(1, 9), "segment_bytes": rng.randint(1000, 9000)}
    committed = 0
    with_fault, real = disk.os(), os
    files.os = live_segment.os = with_fault  # type: ignore[attr-defined]
    died = False
    try:
        one = open_small(folder, **options)
        for i in range(N):
            one.append([sample_of(i)])
            one.commit_if_due()
            committed = one.next_row
        one.commit_all()
        committed = one.next_row
    except Death:
        died = True
    except MaltError as error:
        if fault not in ("no space", "disk error") or "\n" in str(error):
            return fault, f"said {error}"
    finally:
        files.os = live_segment.os = real  # type: ignore[attr-defined]
    if died and fault == "death before the sync":
        disk.crash(folder)
    flipped, batches = [], place_of_batches(folder)
    opened = open_small(folder, **options) if rng.random() < 0.3 else None
    if rng.random() < 0.6:
        flipped = flip(folder, rng.randint(1, 3), rng)
    if opened is not None:
        check_rows(opened)
    if batches and rng.random() < 0.1:
        gone = rng.choice([*folder.iterdir()])
        gone.unlink()
        flipped += [(gone, begin) for file, begin, _, _ in batches if file == gone]
    there = set(check_rows(open_small(folder, **options)))
    hit = {
        i
        for path, at in flipped
        for file, begin, end, numbers in batches
        if file == path and begin <= at < end
        for i in numbers
    }
    missing = set(range(committed)) - there
    if missing - hit:
        return fault, f"lost {sorted(missing - hit)} of {committed}, flipped {flipped}"
    again = open_small(folder, **options)
    absent = sorted(set(range(N)) - set(known(again, N)))
    for i in absent:
        fill(again, range(i, i + 1))
    if known(again, N) != list(range(N)):
        return fault, "what was put in again is not found"
    if known(open_small(folder, **options), N) != list(range(N)):
        return fault, "what was put in again is not there"
    return fault, ""


def cut_store(rng: random.Random, home: Path) -> str:
    """Fill a store while the power fails up to four times; what is wrong with what it has then."""
    options = {"batch": rng.randint(1, 9), "segment_bytes": rng.randint(1000, 9000)}
    committed = set[int]()
    for _ in range(rng.randint(1, 4)):
        power = Power(home, home.with_name(f"{home.name}+"), rng.randint(1, 150), rng)
        try:
            with watched(power, files, live_segment):
                one = open_small(home / "samples", **options)
                there = set(check_rows(one))
                if committed - there:
                    return f"lost {sorted(committed - there)} of {len(committed)}"
                committed = there
                absent = sorted(set(range(N)) - there)
                for number, i in enumerate(absent, 1):
                    one.append([sample_of(i)])
                    one.commit_if_due()
                    committed = there | set(absent[: number - len(one.live.waiting)])
                one.commit_all()
                committed = set(range(N))
        except PowerCut:
            home = power.after
    there = set(check_rows(open_small(home / "samples", **options)))
    if committed - there:
        return f"lost {sorted(committed - there)} of {len(committed)}"
    fill_absent(home / "samples", there, options)
    return "" if check_rows(open_small(home / "samples")) == list(range(N)) else "not all is there"


def fill_absent(folder: Path, there: set[int], options: dict[str, Any]) -> None:
    opened = open_small(folder, **options)
    for i in sorted(set(range(N)) - there):
        fill(opened, range(i, i + 1))


def cut_files(rng: random.Random, home: Path) -> str:
    """Replace files and folders while the power fails; what is wrong with one of them then."""
    written = dict.fromkeys(("a", "b", "folder"), 0)  # the last version that is safe
    for _ in range(rng.randint(1, 4)):
        power, tried = Power(home, home.with_name(f"{home.name}+"), rng.randint(1, 60), rng), ""
        try:
            with watched(power, files):
                for _ in range(9):
                    tried = rng.choice(list(written))
                    write_version(home / tried, written[tried] + 1)
                    written[tried] += 1
                tried = ""
        except PowerCut:
            home = power.after
        files.remove_leftovers(home, besides=())
        for name, version in written.items():
            found = version_of(home / name)
            if found not in (version, version + (name == tried)):
                return f"{name} has version {found}, {version} was written"
            written[name] = found
        if left := [path.name for path in home.rglob(".*")]:
            return f"left behind: {left}"
    return ""


def write_version(path: Path, version: int) -> None:
    if path.name == "folder":
        with files.replacing_folder(path) as folder:
            for name in ("x", "y"):
                (folder / name).mkdir()
                (folder / name / "text").write_text(f"{version}\n" * 400)
    else:
        files.write_text(path, f"{version}\n" * 400)


def version_of(path: Path) -> int:
    """0 if nothing is there, -1 for what was never written."""
    if not path.exists():
        return 0
    texts = (
        [one.read_text() for one in path.glob("*/text")] if path.is_dir() else [path.read_text()]
    )
    version = texts[0].partition("\n")[0] if texts else ""
    whole = version.isdecimal() and texts == [f"{version}\n" * 400] * (2 if path.is_dir() else 1)
    return int(version) if whole else -1


def run_any(seed: object, folder: Path) -> tuple[str, str]:
    """A case of any kind: the fault, and what is wrong."""
    rng = random.Random(f"power {seed}")
    if rng.random() < 0.6:
        return run_case(seed, folder)
    fault = rng.choice(POWER)
    (folder / "0").mkdir(parents=True)
    cut = cut_store if fault == POWER[0] else cut_files
    return fault, cut(rng, folder / "0")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # a sync costs nothing there
    work = Path(tempfile.mkdtemp(prefix="disk-", dir=memory))
    begun, counts, problems = time.monotonic(), Counter[str](), {}
    for case in range(args.cases):
        folder = work / str(case)
        try:
            fault, problem = run_any((args.seed, case), folder)
        except AssertionError:
            fault, problem = "any", "a wrong value was read"
        counts[fault] += 1
        if problem:
            problems[str(case)] = f"{fault}: {problem}"
            print(f"case {case}: {fault}: {problem}", flush=True)
        shutil.rmtree(folder)
    seconds = round(time.monotonic() - begun, 1)
    report = {"cases": args.cases, "faults": counts, "seconds": seconds, "problems": problems}
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
