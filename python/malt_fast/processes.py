"""Several processes, as `accelerate launch` and `torchrun` start them.

All of them train. The first one, the leader, does the rest: it samples, writes and reports. What
the others need they read from the run directory, where they wait for it; if a process fails, the
launcher ends the others.
"""

import os
import time
from pathlib import Path


def count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def leads() -> bool:
    return os.environ.get("RANK", "0") == "0"


def wait_for(path: Path) -> None:
    """Until the leader has written a file, which appears whole."""
    while not path.exists():
        time.sleep(0.2)


def part() -> None:
    """Leave the group in which roles were trained, if there is one: the leader goes on alone."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
