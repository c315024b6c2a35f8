"""Measure the ways through a head on this GPU, and write the table that tuned.py looks up.

    python -m malt_fast.kernels.tune [--out FILE] [--seconds N]

All candidates run at the first size of a mode, the best three and the tiles at the others. A way
that is wrong, differs from run to run or cannot be launched is named and dropped. A new size is
begun only within N seconds; what was measured by then is written.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from malt_fast.utils.files import replacing

from . import softmax_rows, tiles
from .running_softmax import RunningSoftmax, Targets, Transform, sums_dtype
from .softmax_rows import triton_module
from .tuned import MODES, Case, Config, file_of

SIZES = (  # hidden, rows, vocabulary; the first is where all candidates are compared
    (4096, 8192, 151936),
    (4096, 512, 151936),
    (4096, 2048, 151936),
    (4096, 16384, 151936),
    (4096, 8192, 32000),
    (4096, 8192, 262144),
    (2048, 8192, 151936),
    (896, 8192, 151936),
)
SLICE = 8448  # columns whose weights exist at a time: 33 of the widest tiles
SAMPLE = 256  # rows that are compared with float64
MOST = 1e-4  # nats by which a log-prob may differ
GROUPS = (4, 16)  # that are tried for the best candidate, beside its own
KEPT = 3  # candidates that are measured at further sizes

Way = Config | None  # None: tiles
Timer = Callable[[Callable[[], object]], float]  # milliseconds
See = Callable[[slice, Tensor], None]  # is shown the weights of some columns


class Wrong(Exception):
    """A way computes something else than it should."""


class Measured(NamedTuple):
    ms: float
    way: Way


@dataclass(frozen=True)
class Problem:
    case: Case
    hidden: Tensor  # [R, H]
    weight: Tensor  # [V, H]
    target: Tensor  # [R]
    row: Tensor  # [R]: 0, 1, 2, ...
    sample: Tensor  # [S]: rows that are checked
    z: Tensor  # [S, V]: their logits in float64
    tile: tiles.Buffer  # logits of a tile
    tile_weights: tiles.Buffer | None  # its weights if wanted, which may overwrite it
    weights: Tensor | None  # [R, SLICE]: those of a fused kernel


def make_problem(case: Case, device: torch.device) -> Problem:
    """Random rows and a random head, whose logits are N(0, 4)."""
    g = torch.Generator(device).manual_seed(0)
    dtype: torch.dtype = getattr(torch, case.dtype)

    def normal(rows: int, scale: float) -> Tensor:
        return (torch.randn(rows, case.hidden, generator=g, device=device) * scale).to(dtype)

    hidden = normal(case.rows, 1.0)
    weight = normal(case.vocabulary, 2 / case.hidden**0.5)
    sample = torch.randperm(case.rows, generator=g, device=device)[:SAMPLE]
    some = hidden[sample].double()
    keeps, shape = case.mode == "weights", tiles.tile_shape(case.rows, case.vocabulary, hidden)
    tile = tiles.Buffer(sums_dtype(dtype), device, *shape)
    over = tile if dtype == tile.flat.dtype else tiles.Buffer(dtype, device, *shape)
    return Problem(
        case,
        hidden,
        weight,
        torch.randint(case.vocabulary, (case.rows,), generator=g, device=device),
        torch.arange(case.rows, device=device),
        sample,
        torch.cat([some @ part.double().T for part in weight.split(SLICE)], 1),
        tile,
        over if keeps else None,
        hidden.new_empty(case.rows, SLICE) if keeps else None,
    )


# ---- the ways ----


def run(problem: Problem, way: Way, statistics: Tensor, see: See | None = None) -> Tensor:
    """Log-probs [R]; shows the weights to `see`."""
    return run_tiles(problem) if way is None else run_fused(problem, way, statistics, see)


def new_statistics(problem: Problem, way: Way) -> Tensor:
    if way is None:
        return problem.z.new_empty(0)
    sizes = len(problem.hidden), len(problem.weight), way, problem.hidden.device
    return triton_module("fused_head_triton").new_statistics(*sizes)


def run_fused(problem: Problem, config: Config, statistics: Tensor, see: See | None) -> Tensor:
    fused, (hidden, weight) = triton_module("fused_head_triton"), (problem.hidden, problem.weight)
    offset = fused.target_logits(hidden, weight, problem.row, problem.target)
    step = SLICE if problem.weights is not None else len(weight)
    for part in tiles.slices(len(weight), step):
        first, last = part.start // config.block_columns, -(-part.stop // config.block_columns)
        out = None if problem.weights is None else problem.weights[:, : part.stop - part.start]
        fused.fused_head(
            hidden,
            weight[part],
            part.start,
            problem.target,
            offset,
            statistics[:, first:last],
            out,
            config,
        )
        if see is not None and out is not None:
            see(part, out)
    return fused.combine(statistics, offset)[1]


def run_tiles(problem: Problem) -> Tensor:
    hidden, weight = problem.hidden, problem.weight
    ops = softmax_rows.choose(hidden.device, hidden.dtype)
    height, width = tiles.tile_shape(len(hidden), len(weight), hidden)
    logits = hidden.new_full((len(hidden),), torch.nan, dtype=sums_dtype(hidden.dtype))
    state = RunningSoftmax.start(len(hidden), logits)
    start = torch.arange(len(hidden) + 1, device=hidden.device)
    targets = Targets(start, problem.target)
    for part in tiles.slices(len(hidden), height):
        for column in tiles.slices(len(weight), width):
            size = part.stop - part.start, column.stop - column.start
            tile = tiles.multiply(hidden[part], weight[column].T, problem.tile(*size))
            out = problem.tile_weights and problem.tile_weights(*size)
            ops.fold(tile, column.start, Transform(), targets.rows(part), state.rows(part), out)
    return state.logp(problem.row)


# ---- right, and how fast ----


def check(problem: Problem, way: Way) -> float:
    """The largest error of a log-prob, in nats. Raises Wrong."""
    statistics = new_statistics(problem, way)
    sums: list[Tensor] = []

    def see(part: slice, weights: Tensor) -> None:
        check_weights(problem, part, weights)
        sums.append(weights.sum(1, dtype=torch.float64))
        weights.fill_(torch.nan)

    def once() -> list[Tensor]:
        for tensor in (problem.tile.flat, statistics, problem.weights):
            if tensor is not None:
                tensor.fill_(torch.nan)
        sums.clear()
        return [run(problem, way, statistics, see), *sums]

    logp, *_ = first = once()
    if not logp.isfinite().all():
        raise Wrong("log-probs are not finite")
    if not all(torch.equal(a, b) for a, b in zip(first, once(), strict=True)):
        raise Wrong("results differ from run to run")
    target = problem.target[problem.sample, None]
    truth = problem.z.gather(1, target)[:, 0] - problem.z.logsumexp(1)
    error = (logp[problem.sample].double() - truth).abs().max().item()
    if error >= MOST:
        raise Wrong(f"log-probs are off by {error:.1e} nats")
    return error


def check_weights(problem: Problem, part: slice, weights: Tensor) -> None:
    """Against exp(z - offset), 0 at targets. Raises Wrong."""
    target = problem.target[problem.sample, None]
    expected = (problem.z[:, part] - problem.z.gather(1, target)).exp()
    columns = torch.arange(part.start, part.stop, device=target.device)
    expected = torch.where(columns == target, 0.0, expected)
    near = torch.isclose(weights[problem.sample].double(), expected, rtol=0.01, atol=1e-6)
    if not (near.all() and weights.isfinite().all()):
        raise Wrong(f"weights of columns {part.start} to {part.stop} are wrong")


def rank(problem: Problem, ways: Sequence[Way], timer: Timer) -> list[Measured]:
    """The ways that are right, the fastest first; prints all."""
    found = []
    for way in ways:
        label = f"{name_of(problem.case)}  {way or 'tiles'}"
        try:
            error, statistics = check(problem, way), new_statistics(problem, way)
            ms = timer(lambda way=way, statistics=statistics: run(problem, way, statistics))  # type: ignore[misc]
        except Exception as reason:  # one that cannot be compiled or launched leaves the others
            lines = str(reason).splitlines() or [type(reason).__name__]
            print(f"{label:106}  dropped: {lines[0][:200]}", flush=True)
            continue
        print(f"{label:106}{ms:9.3f}{tflop_s(problem.case, ms):9.0f}{error:11.1e}", flush=True)
        found.append(Measured(ms, way))
    return sorted(found, key=lambda measured: measured.ms)


def name_of(case: Case) -> str:
    sizes = f"{case.rows} x {case.hidden} x {case.vocabulary}"
    return f"{case.dtype}  {sizes:22}  {case.mode:10}"


def tflop_s(case: Case, ms: float) -> float:
    return 2 * case.rows * case.hidden * case.vocabulary / ms / 1e9


# ---- the table ----


def tune(
    cases: Sequence[Case],
    candidates: Mapping[str, Sequence[Config]],
    timer: Timer,
    seconds: float,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Entries of the table. candidates: by mode."""
    ends, entries = time.monotonic() + seconds, []
    best: dict[str, list[Config]] = {}
    for case in cases:
        if time.monotonic() > ends:
            print(f"{name_of(case)}  not measured: {seconds:.0f} seconds are over")
            continue
        problem = make_problem(case, device)
        ranked = rank(problem, [None, *best.get(case.mode, candidates[case.mode])], timer)
        if case.mode not in best:
            regrouped = [replace(way, group=n) for way in fused_of(ranked)[:1] for n in GROUPS]
            ranked = sorted(ranked + rank(problem, regrouped, timer), key=lambda each: each.ms)
            best[case.mode] = shortlist(ranked)
        if ranked:
            entries.append(entry(case, ranked))
    return entries


def fused_of(ranked: Sequence[Measured]) -> list[Config]:
    return [way for _, way in ranked if way is not None]


def shortlist(ranked: Sequence[Measured]) -> list[Config]:
    """The best candidates that differ in more than their group."""
    kinds: dict[Config, Config] = {}
    for way in fused_of(ranked):
        kinds.setdefault(replace(way, group=1), way)
    return list(kinds.values())[:KEPT]


def entry(case: Case, ranked: Sequence[Measured]) -> dict[str, Any]:
    first, second = ([described(each) for each in ranked[:2]] + [None])[:2]
    assert first is not None
    rate = {"tflop_s": round(tflop_s(case, ranked[0].ms), 1)}
    return asdict(case) | first | rate | {"runner_up": second}


def described(measured: Measured) -> dict[str, Any]:
    config = None if measured.way is None else asdict(measured.way)
    way = "tiles" if config is None else "fused"
    return {"way": way, "config": config, "ms": round(measured.ms, 4)}


def cases() -> Iterator[Case]:
    """In the order in which they matter, should the time run out."""
    for hidden, rows, vocabulary in SIZES:
        for mode in MODES:
            yield Case("bfloat16", hidden, rows, vocabulary, mode)


def gpu_ms(work: Callable[[], object]) -> float:
    from triton.testing import do_bench

    return float(do_bench(work, warmup=50, rep=300, return_mode="median"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="default: where tuned.py looks it up")
    parser.add_argument("--seconds", type=float, default=480, help="default: 480")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("tune measures a GPU and torch sees none: run it on the machine that trains")
    device, (major, _) = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    of = triton_module("fused_head_triton").CANDIDATES
    if (major, False) not in of:
        sys.exit(
            f"{device} is too old for the fused kernel: it has tiles only, with nothing to choose"
        )
    out: Path = given.out or file_of(device)
    out.parent.mkdir(parents=True, exist_ok=True)
    print(
        f"{'dtype, rows x hidden x vocabulary, mode, way':106}{'ms':>9}{'TFLOP/s':>9}{'error':>11}"
    )
    candidates = {mode: of[major, mode == "weights"] for mode in MODES}
    entries = tune([*cases()], candidates, gpu_ms, given.seconds, torch.device("cuda"))
    table = {"device": device, "torch": torch.__version__, "entries": entries}
    with replacing(out) as new:
        new.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
