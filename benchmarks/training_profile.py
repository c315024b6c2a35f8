"""Where the time of a training step goes: for bench_training.py --profile."""

import gc
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from training_contenders import Step

ROWS = 30


def operations(
    title: str,
    contenders: Mapping[str, Callable[[], Step]],
    warm_up: list[np.ndarray],
    indices: np.ndarray,
    device: str,
) -> Iterator[str]:
    """torch.profiler's table of the operations that take longest in a step, of each contender."""
    kind = "cpu" if device == "cpu" else "device"
    for name, make in contenders.items():
        step = make()
        for some in warm_up:
            step(some)
        with torch.profiler.profile() as seen:  # of the CPU, and of a GPU if there is one
            step(indices)
        del step
        gc.collect()
        torch.cuda.empty_cache()
        table = seen.key_averages().table(sort_by=f"self_{kind}_time_total", row_limit=ROWS)
        yield f"{title}, {name}\n{table}\n"
