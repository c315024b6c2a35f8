"""Shared by all benchmarks: environment, interleaved timing, tables and JSON files."""

import ctypes
import gc
import importlib.util
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np


def environment(packages: Sequence[str] = ("malt-fast", "numpy")) -> dict[str, Any]:
    """The machine and versions of a measurement."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version_of(name) for name in packages},
    }


def gpu() -> dict[str, Any]:
    """The GPU that torch uses."""
    import torch

    return {
        "gpu": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "gpu_bytes": torch.cuda.get_device_properties(0).total_memory,
    }


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call; garbage is collected before it, not during it."""
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        result = function()
        seconds = time.perf_counter() - start
    finally:
        gc.enable()
    del result
    return seconds


def interleaved(
    contenders: dict[str, Callable[[], object]], repeats: int = 5
) -> dict[str, dict[str, float]]:
    """Time the contenders in turns, so that a busy moment hits all of them.

    One warm-up call each, then `repeats` rounds. Seconds: median, minimum, 10 % and 90 % quantile.
    """
    for function in contenders.values():
        function()
    runs: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, function in contenders.items():
            runs[name].append(timed(function))
    return {name: summary(seconds) for name, seconds in runs.items()}


def summary(seconds: Sequence[float]) -> dict[str, float]:
    least, low, median, high = np.quantile(seconds, [0, 0.1, 0.5, 0.9])
    return {
        "median_s": float(median),
        "min_s": float(least),
        "q10_s": float(low),
        "q90_s": float(high),
        "runs": len(seconds),
    }


def resident_bytes() -> int:
    """Resident memory of this process now (Linux), else its peak."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return peak_bytes()


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_growth(function: Callable[[], object]) -> int:
    """Peak rise of resident memory while the function runs, in bytes (Linux).

    Counts all allocations. Freed memory that the heap keeps would hide some of them: start the
    process with MALLOC_MMAP_THRESHOLD_=65536, so that large blocks are returned to the system.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident_bytes()
    result = function()
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    del result
    return max(0, 1024 * peak - before)


def write_json(path: Path, report: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {path}")


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, plain without rich; the first two columns are text, the rest numbers."""
    if importlib.util.find_spec("rich") is None:
        print_plain_table(title, header, rows)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i < 2 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def print_plain_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    print(title)
    for row in (header, *rows):
        cells = zip(row, widths, strict=True)
        print("  ".join(f"{c:<{w}}" if i < 2 else f"{c:>{w}}" for i, (c, w) in enumerate(cells)))
    print()


class Letters:
    """A tokenizer for random questions: characters as numbers."""

    bos_token_id, eos_token_id, unk_token_id, name_or_path = None, 1, None, "letters"
    added_tokens_decoder: ClassVar[dict[int, str]] = {}

    def __call__(self, text: str | list[str], **options: Any) -> dict[str, Any]:
        one = isinstance(text, str)
        found = [[2 + ord(c) % 94 for c in part] for part in ([text] if one else text)]
        return {"input_ids": found[0] if one else found}

    def get_vocab(self) -> dict[str, int]:
        return {"letters": 0}
