"""The processes that `accelerate launch` or `torchrun` starts.

All of them train. The first, the leader, does everything else: it samples, writes and reports. The
others wait for the files they need in the run directory; if one process fails, the launcher ends
the rest.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def process_count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_leader() -> bool:
    return os.environ.get("RANK", "0") == "0"


def wait_for(path: Path) -> None:
    """Wait until the leader has written `path`, which appears complete."""
    wait_until(lambda: path.exists() or None)


def wait_until(find: Callable[[], T | None]) -> T:
    """Call `find` until it returns something other than None, and return that."""
    while (found := find()) is None:
        time.sleep(0.2)
    return found


def leave_process_group() -> None:
    """Leave the process group of training, if there is one: the leader goes on alone."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
