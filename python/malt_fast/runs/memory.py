"""Memory of this process and of the machine: peaks for the figures of a stage, and what is free."""

import os
import resource
import sys
from pathlib import Path


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


def available_memory() -> int:
    """Bytes of main memory that processes can still get without swapping."""
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    if kilobytes:
        return 1024 * kilobytes[0]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # macOS: a guess


def _gpus_in_use() -> range:
    """GPU numbers, if this process has initialised CUDA; asking does not initialise it."""
    torch = sys.modules.get("torch")
    in_use = torch is not None and torch.cuda.is_initialized()
    return range(torch.cuda.device_count() if in_use and torch else 0)
