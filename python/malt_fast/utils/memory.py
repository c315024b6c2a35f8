"""Memory of this process and of the machine: peaks for the figures of a stage, and what is free."""

import os
import resource
import sys
from pathlib import Path

GROUPS = {  # by controller: where its groups are, and how their files and figures are called
    "": ("sys/fs/cgroup", "memory.max", "memory.current", ""),  # version 2
    "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
}


def peak_memory() -> dict[str, int]:
    """Peak memory of this process in MB, without its children (vLLM's engine, say).

    peak_memory_mb: since the process started. peak_gpu_memory_mb: of its fullest GPU, if it uses
    any, since the last `reset_gpu_peak`.
    """
    peaks = {"peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}  # kB
    if gpus := _gpus_in_use():
        cuda = sys.modules["torch"].cuda
        peaks["peak_gpu_memory_mb"] = max(map(cuda.max_memory_reserved, gpus)) // 2**20
    return peaks


def reset_gpu_peak() -> None:
    for gpu in _gpus_in_use():
        sys.modules["torch"].cuda.reset_peak_memory_stats(gpu)


def total_memory() -> int:
    """Bytes of main memory of this machine, or what a container or a batch job may use of it."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *(most for most, _ in limits(Path("/")))])


def available_memory() -> int:
    """Bytes of `total_memory` that this process can still get without swapping."""
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    free = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    if not free:
        return total_memory() // 2  # macOS: a guess
    return max(0, min([*free, *(most - used for most, used in limits(Path("/")))]))


def limits(root: Path) -> list[tuple[int, int]]:
    """(most, used) bytes of each control group of this process, and of those above it.

    root: where /proc and /sys are. Groups without a limit are left out. Pages of files do not count
    as used, since they are given back when memory is short.
    """
    own, found = root / "proc/self/cgroup", list[tuple[int, int]]()
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, path = line.split(":", 2)
        for name in GROUPS.keys() & controllers.split(","):
            place, *names = GROUPS[name]
            top = root / place
            group = top / path.lstrip("/")  # not there in a container, whose group is the top
            above = [one for one in (group, *group.parents) if one.is_relative_to(top)]
            found += [known for one in above if (known := _limit(one, *names))]
    return found


def _limit(group: Path, limit: str, used: str, prefix: str) -> tuple[int, int] | None:
    try:
        most, now = int((group / limit).read_text()), int((group / used).read_text())
    except (OSError, ValueError):  # no such group, or no limit: "max"
        return None
    stat, cached = group / "memory.stat", (f"{prefix}active_file", f"{prefix}inactive_file")
    lines = stat.read_text().splitlines() if stat.exists() else []
    return most, now - sum(int(n) for name, n in map(str.split, lines) if name in cached)


def _gpus_in_use() -> range:
    """GPU numbers, if this process has initialised CUDA; asking does not initialise it."""
    torch = sys.modules.get("torch")
    in_use = torch is not None and torch.cuda.is_initialized()
    return range(torch.cuda.device_count() if in_use and torch else 0)
