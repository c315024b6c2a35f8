"""A run's figures for TensorBoard, whatever else they are reported to.

perf/STAGE/...            of a stage: seconds, outputs, tokens, peak_memory_mb, ...
data/ROLE/...             of a forest: positives, mixed, examples, pairs, ...
eval/TASK/SYSTEM          share of right answers
STAGE/ROLE/...            of training, where transformers' own logger is not asked to
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def scalars(line: Mapping[str, Any], *, training: bool) -> Iterator[tuple[str, float, int]]:
    """(tag, value, step) of what a line of metrics.jsonl says. training: of log steps, too."""
    stage, step = str(line["stage"]), int(line.get("step", line.get("round", 0)))
    if stage == "yield":
        for one in line["roles"]:
            yield from _numbers(f"data/{one['role']}", one, step)
    elif stage == "evaluation":
        for system, share in line["right"].items():
            yield f"eval/{line['task']}/{system}", float(share), 0
    elif "/" in stage:
        yield from _numbers(stage, line, step) if training else ()
    elif "seconds" in line:
        yield from _numbers(f"perf/{stage.replace(' ', '_')}", line, step)


def _numbers(prefix: str, values: Mapping[str, Any], step: int) -> Iterator[tuple[str, float, int]]:
    for key, value in values.items():
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        if plain and key not in ("time", "step", "max_steps", "round"):
            yield f"{prefix}/{key}", float(value), step


class Board:
    """Writes into a folder, which is made with the first figure."""

    def __init__(self, folder: Path, *, training: bool) -> None:
        self.folder, self.training = folder, training
        self.writer: Any = None

    def add(self, line: Mapping[str, Any]) -> None:
        for tag, value, step in scalars(line, training=self.training):
            if self.writer is None:
                from torch.utils.tensorboard import SummaryWriter

                self.writer = SummaryWriter(str(self.folder), flush_secs=10)
            self.writer.add_scalar(tag, value, step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
