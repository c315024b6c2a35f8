"""metrics.jsonl: one JSON object per line, for every stage, training step and warning."""

import json
import math
import os
from pathlib import Path
from typing import Any, TypeGuard

from malt_fast.utils.errors import Problems

Line = dict[str, Any]  # "time" in s, "stage", and the figures


def append_line(path: Path, line: Line) -> None:
    """Append one line; where a kill left a torn last line, the new one still starts afresh."""
    with path.open("ab+") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        torn = file.read(1) not in (b"\n", b"")
        file.write(b"\n" * torn + json.dumps(line).encode() + b"\n")


class NewLines:
    """The lines that other processes append to a file from now on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = path.stat().st_size if path.is_file() else 0  # bytes

    def read(self) -> list[Line]:
        """The complete lines since the last call; torn ones are skipped."""
        if not self.path.is_file():
            return []
        with self.path.open("rb") as file:
            file.seek(self.offset)
            complete, newline, _ = file.read().rpartition(b"\n")
        self.offset += len(complete) + len(newline)
        return [line for text in complete.splitlines() if (line := _parse(text)) is not None]


def read_lines(path: Path) -> tuple[list[Line], Problems]:
    """All lines of a metrics.jsonl that can be read."""
    what = "progress, curves and timings: metrics.jsonl"
    try:
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return [], [f"{what} is missing"]
    if not texts:
        return [], [f"{what} is empty"]
    lines = [line for text in texts if (line := _parse(text)) is not None]
    torn = len(texts) - len(lines)
    return lines, [f"metrics.jsonl: {torn:,} of its lines cannot be read"] if torn else []


def _parse(text: str | bytes) -> Line | None:
    try:
        line = json.loads(text)
        return line | {"stage": str(line["stage"])}
    except (ValueError, TypeError, LookupError):
        return None


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def format_figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def named_figure(name: str, value: Any) -> str:
    """`12 outputs`, `first loss 0.145`, `first failure: no room`."""
    words = name.replace("_", " ")
    if isinstance(value, int):
        return f"{format_figure(value)} {words}"
    return f"{words}{':' * isinstance(value, str)} {format_figure(value)}"
