"""Scores of a custom grader on disk, so that no output is judged twice.

One line per score: its key (a hash of the grader, the question's row and the output), the score,
the seconds it took, and a checksum of these. Lines are appended as scores come; one that a kill or
a bad disk left torn is passed over, and its output judged again.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import xxhash

from malt_fast.utils.files import write_all

INTERVAL = 1.0  # seconds of scores that a kill may cost
Score = tuple[float, float]  # and the seconds it took


class KeptScores:
    """The scores in a file, to look up and to add to in a `with` block; without a path, none.

    others: files of other runs, whose scores are looked up, too.
    """

    def __init__(self, path: Path | None, others: Sequence[Path] = ()) -> None:
        self.path = path
        self.scores: dict[str, Score] = {}
        for other in others:
            self._read(other)
        self.new = bytearray()
        self.written = 0.0  # when, by a monotonic clock
        data = self._read(path)
        self.torn = bool(data) and not data.endswith(b"\n")

    def _read(self, path: Path | None) -> bytes:
        data = path.read_bytes() if path and path.is_file() else b""
        for line in data.splitlines():
            content, _, check = line.rpartition(b" ")
            if check == _check(content):
                key, score, seconds = content.decode().split(" ")
                self.scores[key] = float(score), float(seconds)
        return data

    def add(self, key: str, score: float, seconds: float) -> None:
        self.scores[key] = score, seconds
        if self.path is None:
            return
        content = f"{key} {score!r} {seconds:.4f}".encode()
        self.new += content + b" " + _check(content) + b"\n"
        if time.monotonic() - self.written >= INTERVAL:
            self._write()

    def __enter__(self) -> "KeptScores":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._write()

    def _write(self) -> None:
        if self.path is None or not self.new:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        descriptor = os.open(self.path, flags, 0o666)
        try:
            write_all(descriptor, b"\n" * self.torn + self.new)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.torn = False
        self.new.clear()
        self.written = time.monotonic()


def _check(content: bytes) -> bytes:
    return xxhash.xxh3_64_hexdigest(content).encode()
