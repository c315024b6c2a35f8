"""The kernels against plain torch and other libraries: time, memory and error.

    python benchmarks/bench_kernels.py --preset cpu|gpu|smoke [--only NAME ...] [--json FILE]

Contenders (kernel_rivals.py) take turns in one process, on the same inputs and with the same
upstream gradient, different for every output. Measured for each:

- forward: without gradients; both: from the call to the gradients; backward: the part of both after
  the result exists. Quantiles of 20, 50 and 80 %. A GPU is timed by its own clock, with 512 MB
  written before each call so that nothing is left in L2;
- TFLOP/s: the matrix products that the result needs (G = 2 N H V forward, another G for each
  gradient, one for a DPO reference) over the time; what a contender computes twice does not count.
  From logits TB/s: one read forward, one more read and one write backward;
- memory: the peak of the process, or of the GPU, above its inputs, results included. On a CPU each
  contender has its own process, after a first run that is not counted;
- error: of results in nats, and of the first rows' gradient (of hidden, or logits) relative to its
  norm, against float64 (kernel_problems.py).

Contenders that cannot run are listed with the reason. Targets and what was reached come last.
"""

import argparse
import gc
import multiprocessing
import os
import sys
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import environment, gpu, peak_growth, print_table, write_json
from kernel_cases import PRESETS, SECONDS
from kernel_problems import Case, Problem, Truth, make_problem, truth_of
from kernel_rivals import CONTENDERS, Contender, Function, Unavailable
from kernel_targets import targets_of
from torch import Tensor

PACKAGES = (
    "malt-fast",
    "torch",
    "triton",
    "trl",
    "liger-kernel",
    "cut-cross-entropy",
    "quack-kernels",
    "nvidia-cutlass-dsl",
)
FLUSH = 512 << 20  # bytes; an H100's L2 has 50 MB
ROUNDS = (3, 100)  # at least, at most
MODES = ("forward", "backward", "both")

# ---- one call ----


class Clock:
    """Seconds between marks, by the GPU's clock if there is one."""

    def __init__(self, device: torch.device) -> None:
        self.gpu = device.type == "cuda"
        if self.gpu:
            self.flush = torch.empty(FLUSH, dtype=torch.int8, device=device)

    def start(self) -> Any:
        if self.gpu:
            self.flush.zero_()
        return self.mark()

    def mark(self) -> Any:
        if not self.gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, marks: list[Any]) -> list[float]:
        if not self.gpu:
            return np.diff(marks).tolist()
        torch.cuda.synchronize()
        return [a.elapsed_time(b) / 1e3 for a, b in pairwise(marks)]


def call(
    function: Function, x: Problem, *, gradients: bool, clock: Clock | None = None
) -> tuple[Tensor, tuple[Tensor, ...], list[float]]:
    """Result, gradients of the leaves, and the seconds for each."""
    marks = [clock.start()] if clock else []
    grads: tuple[Tensor, ...] = ()
    with torch.set_grad_enabled(gradients):
        out = function(x)
    if clock:
        marks.append(clock.mark())
    if gradients:
        grads = torch.autograd.grad(out, x.leaves, x.upstream.to(out.dtype))
        if clock:
            marks.append(clock.mark())
    return out, grads, clock.seconds(marks) if clock else []


def given_to(contender: Contender, problem: Problem) -> Problem:
    return problem.fresh() if contender.destroys else problem


# ---- all contenders of a case ----


def measure(case: Case, device: torch.device, seconds: float) -> dict[str, Any]:
    """{"case": ..., "data": facts, "contenders": {name: figures or {"unavailable": reason}}}."""
    torch._dynamo.reset()  # torch.compile silently gives up after eight shapes
    problem = make_problem(case, device)
    truth = truth_of(problem)
    contenders: dict[str, dict[str, Any]] = {}
    functions: dict[str, tuple[Contender, Function]] = {}
    for contender in CONTENDERS[case.operation]:
        try:
            if case.sweeps and not contender.sweeps and len(case.sweeps) < 2:
                raise Unavailable("left out of sweeps, for its time")
            function = contender.load(device)
            figures = first_runs(contender, function, problem, truth, device)
        except Exception as error:  # a rival may raise anything; report it
            contenders[contender.name] = {"unavailable": reason(error)}
            continue
        finally:
            free(device)
        contenders[contender.name] = figures
        functions[contender.name] = (contender, function)
    for name, timing in time_in_turns(functions, problem, Clock(device), seconds).items():
        contenders[name] |= timing | rates(case, timing)
    if device.type == "cpu":
        measure_memory(case, contenders)
    sizes = asdict(case) | {"name": case.name, "product_flop": case.product}
    return {"case": sizes, "data": truth.facts, "contenders": contenders}


def reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    text = lines[0][:160]
    known = isinstance(error, Unavailable)
    return text if known else f"{type(error).__name__}: {text}"


def free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def first_runs(
    contender: Contender, function: Function, problem: Problem, truth: Truth, device: torch.device
) -> dict[str, Any]:
    """Compile and warm up; return the error, and on a GPU the memory."""
    figures: dict[str, Any] = {}
    for gradients in (True, False):
        call(function, given_to(contender, problem), gradients=gradients)
    if device.type == "cuda":
        figures["memory_bytes"] = {
            "forward": gpu_growth(contender, function, problem, gradients=False),
            "both": gpu_growth(contender, function, problem, gradients=True),
        }
    out, grads, _ = call(function, given_to(contender, problem), gradients=True)
    apart = (out.detach().double() - truth.out).abs()
    checked = grads[0][truth.checked].double()
    figures["error"] = {
        "max": apart.max().item(),
        "mean": apart.mean().item(),
        "gradient": ((checked - truth.gradient).norm() / truth.gradient.norm()).item(),
    }
    return figures


def time_in_turns(
    functions: dict[str, tuple[Contender, Function]],
    problem: Problem,
    clock: Clock,
    seconds: float,
) -> dict[str, dict[str, Any]]:
    """Rounds until the time is up; each starts with another contender."""
    runs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    names, end = list(functions), time.perf_counter() + seconds
    gc.disable()
    for turn in range(ROUNDS[1]):
        if not names or (turn >= ROUNDS[0] and time.perf_counter() > end):
            break
        gc.collect()
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            contender, function = functions[name]
            for gradients in (False, True):
                x = given_to(contender, problem)
                spans = call(function, x, gradients=gradients, clock=clock)[2]
                if gradients:
                    runs[name]["backward"].append(spans[1])
                    runs[name]["both"].append(sum(spans))
                else:
                    runs[name]["forward"].append(spans[0])
    gc.enable()
    return {name: {mode: quantiles(s) for mode, s in runs[name].items()} for name in names}


def quantiles(seconds: list[float]) -> dict[str, float]:
    low, median, high = np.quantile(seconds, [0.2, 0.5, 0.8]).tolist()
    return {"q20_s": low, "median_s": median, "q80_s": high, "runs": len(seconds)}


def rates(case: Case, timing: dict[str, Any]) -> dict[str, dict[str, float]]:
    """TFLOP/s if matrices are multiplied, TB/s if logits are only read."""
    if case.product:
        done, name = case.flop, "tflop_per_s"
    elif case.operation == "logprob_from_logits":
        done, name = case.bytes_moved, "tb_per_s"
    else:
        return {}
    return {name: {m: done(m) / timing[m]["median_s"] / 1e12 for m in ("forward", "both")}}


# ---- memory ----


def gpu_growth(
    contender: Contender, function: Function, problem: Problem, *, gradients: bool
) -> int:
    x = given_to(contender, problem)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call(function, x, gradients=gradients)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def measure_memory(case: Case, contenders: dict[str, dict[str, Any]]) -> None:
    """Add "memory_bytes" to the contenders that ran, each measured in its own process."""
    if sys.platform != "linux":
        return
    # Freed blocks return to the system, so that the next ones are counted.
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MKL_DISABLE_FAST_MM": "1"}
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["torch", "malt_fast.kernels"])
    with ProcessPoolExecutor(1, server, max_tasks_per_child=1) as pool:
        for name, figures in contenders.items():
            if "unavailable" not in figures:
                figures["memory_bytes"] = pool.submit(cpu_growth, case, name).result()


def cpu_growth(case: Case, name: str) -> dict[str, int]:
    contender = next(c for c in CONTENDERS[case.operation] if c.name == name)
    device = torch.device("cpu")
    problem, function = make_problem(case, device), contender.load(device)

    def growth(gradients: bool) -> int:
        call(function, given_to(contender, problem), gradients=gradients)
        x = given_to(contender, problem)
        return peak_growth(lambda: call(function, x, gradients=gradients))

    return {"forward": growth(False), "both": growth(True)}


HOW_MEMORY = {
    "cpu": "rise of the process's peak resident memory (VmHWM, reset before the call) above its "
    "resident memory before it; one process a contender, second call; results included",
    "cuda": "torch.cuda.max_memory_allocated less memory_allocated before the call, "
    "results included",
}

# ---- report ----


def print_case(entry: dict[str, Any]) -> None:
    facts = "".join(f", {key.replace('_', ' ')} {v:.2f}" for key, v in entry["data"].items())
    header = ["contender", "", *(f"{mode} ms [20, 80 %]" for mode in MODES), "T/s fwd", "T/s both"]
    header += ["MB fwd", "MB both", "error max", "mean", "gradient"]
    rows = []
    for name, figures in entry["contenders"].items():
        if "unavailable" in figures:
            continue
        rate = figures.get("tflop_per_s") or figures.get("tb_per_s") or {}
        memory, error = figures.get("memory_bytes", {}), figures["error"]
        rows.append(
            [
                name,
                "",
                *(milliseconds(figures[mode]) for mode in MODES),
                *(f"{rate[m]:.3g}" if rate else "" for m in ("forward", "both")),
                *(f"{memory[m] / 1e6:.1f}" if memory else "" for m in ("forward", "both")),
                *(f"{error[kind]:.1e}" for kind in ("max", "mean", "gradient")),
            ]
        )
    print_table(entry["case"]["name"] + facts, header, rows)


def milliseconds(timing: dict[str, float]) -> str:
    low, median, high = (1e3 * timing[key] for key in ("q20_s", "median_s", "q80_s"))
    return f"{median:.4g} [{low:.4g}, {high:.4g}]"


def print_missing(cases: dict[str, Any]) -> None:
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry in cases.values():
        for name, figures in entry["contenders"].items():
            if "unavailable" in figures:
                reasons[name, figures["unavailable"]].append(entry["case"]["name"])
    rows = [(*key, str(len(names)), names[0]) for key, names in sorted(reasons.items())]
    print_table("not measured", ("contender", "reason", "cases", "first"), rows)


def print_targets(targets: list[dict[str, Any]]) -> None:
    rows = [
        (
            t["target"],
            t["verdict"],
            t["bound"],
            "" if t["measured"] is None else f"{t['measured']:.3g}",
        )
        for t in targets
    ]
    print_table("targets", ("target", "", "wanted", "measured"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--only", nargs="+", default=[""], help="cases whose name contains one")
    parser.add_argument("--seconds", type=float, help="for timing in all, without warming up")
    parser.add_argument("--json", type=Path, help="write the report here")
    args = parser.parse_args()
    on_gpu = args.preset == "gpu" or (args.preset == "smoke" and torch.cuda.is_available())
    if on_gpu and not torch.cuda.is_available():
        parser.error(
            "the gpu preset needs a GPU that torch sees: torch.cuda.is_available() is false"
        )
    device = torch.device("cuda" if on_gpu else "cpu")

    chosen = [case for case in PRESETS[args.preset] if any(part in case.name for part in args.only)]
    seconds = args.seconds or SECONDS[args.preset]
    cases: dict[str, Any] = {}
    report = {
        "benchmark": "kernels",
        "preset": args.preset,
        "environment": environment(PACKAGES) | {"threads": torch.get_num_threads()},
        "conventions": (__doc__ or "").split("Measured for each:\n\n")[1],
        "memory_measured_by": HOW_MEMORY[device.type],
        "cases": cases,
    }
    if on_gpu:
        report["environment"] |= gpu()
    try:
        for case in chosen:
            cases[case.name] = measure(case, device, seconds / len(chosen))
            print_case(cases[case.name])
            free(device)
    except KeyboardInterrupt:
        print(f"interrupted: {len(cases)} of {len(chosen)} cases are measured")
    report["targets"] = targets_of(args.preset, cases)
    print_missing(cases)
    if report["targets"]:
        print_targets(report["targets"])
    if args.json:
        write_json(args.json, report)
    broken = [name for name, entry in cases.items() if "error" not in ours(entry)]
    if broken:
        sys.exit(f"malt_fast failed in {', '.join(broken)}")


def ours(entry: dict[str, Any]) -> dict[str, Any]:
    return entry["contenders"]["malt_fast"]


if __name__ == "__main__":
    main()
