"""Several processes, as `accelerate launch` and `torchrun` start them.

All of them train. The first one, the leader, does the rest: it samples, writes and reports. What
the others need they read from the run directory, where they wait for it; if a process fails, the
launcher ends the others.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def leads() -> bool:
    return os.environ.get("RANK", "0") == "0"


def wait_for(path: Path) -> None:
    """Until the leader has written a file, which appears whole."""
    wait_until(lambda: path.exists() or None)


def wait_until(find: Callable[[], T | None]) -> T:
    """What `find` finds, once it finds something."""
    while (found := find()) is None:
        time.sleep(0.2)
    return found


def part() -> None:
    """Leave the group in which roles were trained, if there is one: the leader goes on alone."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
