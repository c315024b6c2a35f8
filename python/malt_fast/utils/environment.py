"""The machine and the package versions that a run was made with."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    *("malt-fast", "torch", "triton", "transformers", "peft", "accelerate", "datasets", "vllm"),
    *("ray", "bitsandbytes", "liger-kernel", "pyarrow", "numpy", "math-verify"),
)


def environment() -> dict[str, Any]:
    """For environment.json; packages that are not installed are left out."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "gpus": _gpus(),
        "packages": {name: found for name in PACKAGES if (found := version_of(name))},
    }


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
