"""metrics.jsonl: how lines are read, and the memory and figures they hold."""

import json
import math
import resource
import sys
from pathlib import Path
from typing import Any

Lacking = list[str]  # a line for people on each part that is not there


def _peaks() -> dict[str, int]:
    """Memory of this process, MB: its most so far; on its GPU, if it has one, of this stage.

    What a child holds, such as vLLM's on its GPU, is in neither.
    """
    peaks = {"peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}  # kB
    if gpus := _gpus():
        cuda = sys.modules["torch"].cuda
        most = max(cuda.max_memory_reserved(gpu) for gpu in gpus)
        peaks["peak_gpu_memory_mb"] = most // 2**20
    return peaks


def _forget_gpu_peak() -> None:
    for gpu in _gpus():
        sys.modules["torch"].cuda.reset_peak_memory_stats(gpu)


def _gpus() -> range:
    """Those that this process has begun to use; asking does not begin it."""
    torch = sys.modules.get("torch")
    used = torch is not None and torch.cuda.is_initialized()
    return range(torch.cuda.device_count() if used and torch else 0)


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def read_lines(path: Path, lacking: Lacking) -> list[dict[str, Any]]:
    """Lines of JSON; those that a crash tore, or that are none, are counted."""
    try:
        raw = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        lacking.append("progress, curves and timings: metrics.jsonl is missing")
        return []
    lines, torn = [], 0
    for text in raw:
        try:
            line = json.loads(text)
            lines.append(line | {"stage": str(line["stage"])})
        except (ValueError, TypeError, LookupError):
            torn += 1
    if not raw:
        lacking.append("progress, curves and timings: metrics.jsonl is empty")
    if torn:
        lacking.append(f"metrics.jsonl: {torn:,} of its lines cannot be read")
    return lines


def is_number(value: Any) -> bool:
    """Not NaN, nor infinite."""
    return isinstance(value, int | float) and math.isfinite(value)
