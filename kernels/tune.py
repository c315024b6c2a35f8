"""Measure the ways through a head on this GPU, and write the table that tuned.py looks up.

    python -m malt_fast.kernels.tune [--out FILE] [--seconds N] [--experimental]

All candidates run at the first size of a mode, the best three and the tiles at the others. A way
that is wrong, differs from run to run or cannot be launched is named and dropped. A new size is
begun only within N seconds. The table is written anew after every size.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from malt_fast.utils.files import replacing

from .head_passes import Wanted, forward
from .head_rows import HeadRows, head_rows
from .row_plan import make_plan
from .tuned import CANDIDATES, EXPERIMENTAL, MODES, Case, Config, file_of

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
SAMPLE = 256  # rows that are compared with float64
MOST = 1e-4  # nats by which a log-prob may differ
MOST_OF_R = 0.01  # by which sums of weights times W may differ, of their norm
GROUPS = (4, 16)  # that are tried for the best candidate, beside its own
KEPT = 3  # candidates that are measured at further sizes

Way = Config | None  # None: tiles
Timer = Callable[[Callable[[], object]], float]  # milliseconds


class Wrong(Exception):
    """A way computes something else than it should."""


class Measured(NamedTuple):
    ms: float
    way: Way


@dataclass(frozen=True)
class Problem:
    case: Case
    x: HeadRows
    sample: Tensor  # [S]: rows that are checked
    logp: Tensor  # [S], in float64
    residual: Tensor | None  # [S, H], likewise, if weights are wanted


def make_problem(case: Case, device: torch.device) -> Problem:
    """Random rows and a random head, whose logits are N(0, 4)."""
    g = torch.Generator(device).manual_seed(0)
    dtype: torch.dtype = getattr(torch, case.dtype)

    def normal(rows: int, scale: float) -> Tensor:
        return (torch.randn(rows, case.hidden, generator=g, device=device) * scale).to(dtype)

    hidden = normal(case.rows, 1.0)
    weight = normal(case.vocabulary, 2 / case.hidden**0.5)
    target = torch.randint(case.vocabulary, (case.rows,), generator=g, device=device)
    plan = make_plan(torch.arange(case.rows, device=device), target)
    sample = torch.randperm(case.rows, generator=g, device=device)[:SAMPLE]
    exact, own = weight.double(), target[sample, None]
    log_p = (hidden[sample].double() @ exact.T).log_softmax(1)
    residual = log_p.exp().scatter_(1, own, 0.0) @ exact if case.mode == "weights" else None
    x = head_rows(hidden, weight, plan, None, None, 0.0)
    return Problem(case, x, sample, log_p.gather(1, own)[:, 0], residual)


def run(problem: Problem, way: Way) -> tuple[Tensor, Tensor]:
    """What a call computes: log-probs [R], and R [R, H] or [0, H]."""
    wanted = Wanted(entropy=False, hidden=problem.case.mode == "weights", trained=False)
    _, saved = forward(problem.x, wanted, way)
    return saved.logp, saved.residual


# ---- right, and how fast ----


@contextmanager
def poisoned() -> Iterator[None]:
    """New memory holds NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about operations that have no fixed order
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)


def check(problem: Problem, way: Way) -> float:
    """The largest error of a log-prob, in nats. Raises Wrong."""
    with poisoned():
        first, again = run(problem, way), run(problem, way)
    if not all(tensor.isfinite().all() for tensor in first):
        raise Wrong("results are not finite")
    if not all(torch.equal(a, b) for a, b in zip(first, again, strict=True)):
        raise Wrong("results differ from run to run")
    logp, residual = (tensor[problem.sample[: len(tensor)]].double() for tensor in first)
    error = (logp - problem.logp).abs().max().item()
    if error >= MOST:
        raise Wrong(f"log-probs are off by {error:.1e} nats")
    if problem.residual is not None:
        share = ((residual - problem.residual).norm() / problem.residual.norm()).item()
        if share >= MOST_OF_R:
            raise Wrong(f"sums of weights are off by {100 * share:.1f} %")
    return error


def rank(problem: Problem, ways: Sequence[Way], timer: Timer) -> list[Measured]:
    """The ways that are right, the fastest first; prints all."""
    found = []
    for way in ways:
        label = f"{name_of(problem.case)}  {way or 'tiles'}"
        try:
            error = check(problem, way)
            ms = timer(lambda way=way: run(problem, way))  # type: ignore[misc]
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
    products = 1 if case.mode == "statistics" else 2
    return products * 2 * case.rows * case.hidden * case.vocabulary / ms / 1e9


# ---- the table ----


def tune(
    cases: Sequence[Case],
    candidates: Mapping[str, Sequence[Config]],
    timer: Timer,
    seconds: float,
    device: torch.device,
) -> Iterator[dict[str, Any]]:
    """Entries of the table. candidates: by mode."""
    ends = time.monotonic() + seconds
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
            yield entry(case, ranked)


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
    parser.add_argument("--experimental", action="store_true", help="also what might hang the GPU")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("tune measures a GPU and torch sees none: run it on the machine that trains")
    device, (major, _) = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    more = EXPERIMENTAL if given.experimental else {}
    if (major, False) not in CANDIDATES:
        sys.exit(
            f"{device} has no candidates for the fused kernel: its heads are computed in tiles"
        )
    out: Path = given.out or file_of(device)
    out.parent.mkdir(parents=True, exist_ok=True)
    print(
        f"{'dtype, rows x hidden x vocabulary, mode, way':106}{'ms':>9}{'TFLOP/s':>9}{'error':>11}"
    )
    keys = {mode: (major, mode == "weights") for mode in MODES}
    candidates = {mode: (*CANDIDATES[key], *more.get(key, ())) for mode, key in keys.items()}
    entries = []
    for found in tune([*cases()], candidates, gpu_ms, given.seconds, torch.device("cuda")):
        entries.append(found)
        table = {"device": device, "torch": torch.__version__, "entries": entries}
        with replacing(out) as new:
            new.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(f"{len(entries)} sizes are in {out}")


if __name__ == "__main__":
    main()
