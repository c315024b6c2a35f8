"""Which way is the fastest through a head on this GPU, as measured before by tune.py.

There are two ways: tiles multiplied by cuBLAS and read again (softmax_rows.py), and one fused
kernel (fused_head_triton.py) in one of many configurations. tuned/DEVICE.json has a table:

    {"device": "NVIDIA H200", "entries": [{
        "dtype": "bfloat16", "hidden": 4096, "rows": 8192, "vocabulary": 151936,
        "mode": "weights", "way": "fused", "config": {...}, "ms": ..., "tflop_s": ...,
        "runner_up": {"way": ..., "config": ..., "ms": ...}}, ...]}

The entry that counts is the nearest one of the same dtype and mode, by the logarithms of its sizes.
Where there is no table, heads take the tiles. Nothing is ever measured during a run, whose results
must not depend on the clock.
"""

import json
import logging
import math
import re
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch

log = logging.getLogger(__name__)

FOLDER = Path(__file__).with_suffix("")
MODES = ("statistics", "weights")

T = TypeVar("T", "Case", "Config")


@dataclass(frozen=True)
class Case:
    """A product with a head, and whether its weights exp(z - offset) are wanted."""

    dtype: str
    hidden: int
    rows: int
    vocabulary: int
    mode: str

    def __post_init__(self) -> None:
        if self.mode not in MODES or min(self.hidden, self.rows, self.vocabulary) < 1:
            raise ValueError(f"{self} has an unknown mode, or a size below 1")


@dataclass(frozen=True)
class Config:
    """How the fused kernel works: on tiles of block_rows by block_columns logits, which grow by
    block_depth channels at a time."""

    block_rows: int = 128
    block_columns: int = 256
    block_depth: int = 64
    warps: int = 8
    stages: int = 4  # blocks of hidden and weight in shared memory: all but one are on their way
    flatten: bool = False  # loads for the next tile start while the last one is summed
    halves: bool = False  # weights are written in two halves, with half the shared memory
    warp_specialize: bool = False  # some warps load, others multiply
    group: int = 8  # row blocks whose tiles are computed side by side, to share columns of W

    def __post_init__(self) -> None:
        for name in ("block_rows", "block_columns", "block_depth", "warps"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, not {value}")
        if min(self.stages, self.group) < 1:
            raise ValueError("stages and group must be positive")

    def __str__(self) -> str:
        flags = [name for name in ("flatten", "halves", "warp_specialize") if getattr(self, name)]
        blocks = f"{self.block_rows}x{self.block_columns}x{self.block_depth}"
        return " ".join((blocks, f"w{self.warps} s{self.stages} g{self.group}", *flags))


# ---- what tune.py measures ----

WIDE, TALL = Config(), Config(block_rows=256, block_columns=128)

# By the major number of the compute capability (9: H100 and H200, 10: B200) and whether there are
# weights, which need room in shared memory. All keep their values in registers (compile.py).
CANDIDATES = {
    (9, False): (
        WIDE,
        replace(WIDE, flatten=True),
        replace(WIDE, block_depth=128, stages=2),
        TALL,
        replace(TALL, flatten=True),
    ),
    (9, True): (
        replace(WIDE, stages=3),
        replace(WIDE, stages=3, flatten=True),
        replace(WIDE, halves=True),
        replace(WIDE, halves=True, flatten=True),
        replace(TALL, halves=True),
        replace(TALL, halves=True, flatten=True),
    ),
    (10, False): (WIDE, replace(WIDE, warp_specialize=True)),
    (10, True): (
        replace(WIDE, stages=3),
        replace(WIDE, halves=True),
        replace(WIDE, warp_specialize=True),
    ),
}

# Also those that nobody has seen run: should one hang, tune.py has to be killed.
SPECIALIZED = tuple(replace(WIDE, warps=4, stages=n, warp_specialize=True) for n in (3, 4))
EXPERIMENTAL = {(9, False): SPECIALIZED, (9, True): SPECIALIZED}


# ---- the table ----

Table = dict[Case, Config | None]  # None: tiles


def chosen(
    device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int], *, weights: bool
) -> Config | None:
    """The configuration of the fused kernel for a shape (rows, H, V), None for tiles."""
    if device.type != "cuda" or min(shape) < 1:
        return None
    rows, hidden, vocabulary = shape
    case = Case(str(dtype)[6:], hidden, rows, vocabulary, MODES[weights])
    return _chosen(torch.cuda.get_device_name(device), case)


@lru_cache(4096)
def _chosen(device: str, case: Case) -> Config | None:
    return nearest(table_of(device), case)


def nearest(table: Table, case: Case) -> Config | None:
    same = [known for known in table if (known.dtype, known.mode) == (case.dtype, case.mode)]
    return table[min(same, key=lambda known: _distance(known, case))] if same else None


def _distance(a: Case, b: Case) -> float:
    ratios = (a.hidden / b.hidden, a.rows / b.rows, a.vocabulary / b.vocabulary)
    return sum(math.log(ratio) ** 2 for ratio in ratios)


@cache  # hence said once
def table_of(device: str) -> Table:
    path = file_of(device)
    advice = (
        "heads are computed in tiles; `python -m malt_fast.kernels.tune` finds out whether the "
        "fused kernel is faster"
    )
    try:
        return read(path, device)
    except FileNotFoundError:
        log.info("%s was never measured: %s", device, advice)
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        log.warning("%s has no usable table in %s (%s): %s", device, path, error, advice)
    return {}


def file_of(device: str) -> Path:
    """kernels/tuned/nvidia-h200.json for the NVIDIA H200."""
    return FOLDER / (re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".json")


def read(path: Path, device: str) -> Table:
    """Raises ValueError, TypeError, KeyError or AttributeError for what is no table of `device`."""
    whole = json.loads(path.read_text(encoding="utf-8"))
    if whole["device"] != device:
        raise ValueError(f"it is of {whole['device']}")
    return {_typed(Case, entry): _config(entry) for entry in whole["entries"]}


def _config(entry: dict[str, Any]) -> Config | None:
    if entry["way"] not in ("tiles", "fused"):
        raise ValueError(f"there is no way {entry['way']!r}")
    return _typed(Config, entry["config"]) if entry["way"] == "fused" else None


def _typed(kind: type[T], values: dict[str, Any]) -> T:
    """The dataclass, all of whose fields must be there with their exact types."""
    for field in fields(kind):
        if type(values[field.name]) is not field.type:
            raise TypeError(f"{field.name} is {values[field.name]!r}")
    return kind(**{field.name: values[field.name] for field in fields(kind)})
