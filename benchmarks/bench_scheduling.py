"""The cost of barriers at scale, on a simulated engine; and the speed of the scheduler itself.

    python benchmarks/bench_scheduling.py [--million] [--json FILE]

Simulation: malt_fast's own expand and router on a simulated clock. A replica decodes up to 256
rows. A row is busy for 20 ms per token (an 8B model on an H100 with a full batch: 12,800 tokens/s),
a draft also during the prefill of its question (150 tokens at 30,000 per second; longer prompts are
in the cache, for all methods alike). A finished row is free at once; the driver sees it at the end
of a turn of 50 ms, as with Ray. Outputs have 300 tokens on average, lognormal with the listed sigma
(0.5: critiques of one kind; 1: answers with some very long ones), at most 4,096. Trees of n = 3.
Times are simulated and do not depend on the machine.

- ours: expand; levels: a barrier after all drafts, and after all critiques; batches: the same for
  as many questions at a time as fill all replicas with drafts; ideal: no row is ever idle.

Driver: expand on an engine that answers at once with 300 tokens: completions per second, and the
memory of an open tree beside the forest. Also for adaptive trees with half of the outputs, right by
chance, with the part of the time that choosing takes.
"""

import argparse
import heapq
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import Letters, environment, peak_bytes, print_table, resident_bytes, write_json

from malt_fast._core.forest import pairs as find_pairs
from malt_fast.config.schema import TreeConfig
from malt_fast.engines import (
    Completion,
    Policy,
    Request,
    SamplingParams,
)
from malt_fast.engines.ray import SHARE
from malt_fast.engines.router import Router
from malt_fast.forest.credit import assign_credit
from malt_fast.sampling.allocation import Allocation, next_nodes
from malt_fast.sampling.expand import (
    Expansion,
    Wave,
    answered,
    complete,
    expand,
    grow,
    reserve,
    shape_from_branching,
)
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.task import Question
from malt_fast.tasks.wording import RolePrompt

CHAIN = ["generator", "verifier", "refiner"]
SHAPE = shape_from_branching([3, 3, 3], [Policy("simulated")] * 3)
PARAMS = [SamplingParams(max_tokens=4096)] * 3
ROWS, STEP, PREFILL, TURN = 256, 0.020, 1 / 30_000, 0.050
MEAN, LONGEST, QUESTION = 300, 4096, 150
BINS = 1 << 12  # distinct lengths


class Questions(Sequence[Question]):
    """Any number of questions, without memory for each."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: Any) -> Any:
        return Question(f"q{i}", "?", "")


def make_prompts() -> Prompts:
    wording = {
        role: RolePrompt(None, "{question}" + "".join(f"{{{r}}}" for r in CHAIN[:i]))
        for i, role in enumerate(CHAIN)
    }
    return Prompts(CHAIN, wording, Letters(), chat=False)


PROMPTS = make_prompts()


# --- the simulated engine -------------------------------------------------------------------------


def length_table(sigma: float) -> list[int]:
    """Quantiles of the length distribution, so that a draw is a look-up."""
    normal = np.sort(np.random.default_rng(0).standard_normal(BINS * 64))[32::64]
    drawn = np.exp(np.log(MEAN) - sigma**2 / 2 + sigma * normal)
    return np.clip(drawn * MEAN / drawn.mean(), 1, LONGEST).astype(int).tolist()


TOKEN = np.zeros(1, np.int32)  # stands for every output
LOGPROB = np.zeros(1, np.float32)


class Simulated:
    """An Engine of replicas on a simulated clock."""

    def __init__(self, replicas: int, lengths: list[int]) -> None:
        self.router, self.lengths = Router(replicas), lengths
        self.wants = 2 * ROWS * replicas
        self.queues: list[list] = [[] for _ in range(replicas)]  # accepted, waiting for a row
        self.free = [ROWS] * replicas
        self.taken = [0] * replicas
        self.events: list[tuple[float, int, int, Request]] = []
        self.clock = self.busy = 0.0
        self.count = 0

    @property
    def pending(self) -> int:
        return self.router.pending

    def submit(self, requests: Iterable[Request]) -> None:
        self.router.add(requests)

    def poll(self) -> list[Completion]:
        """Advance to the end of the turn in which the next output finishes."""
        for i in range(len(self.queues)):
            for request in self.router.take(i, int(SHARE * 2 * ROWS) - self.taken[i]):
                self.taken[i] += 1
                heapq.heappush(self.queues[i], (request.priority, request.id, request))
            while self.free[i] and self.queues[i]:
                self._start(i, self.clock)
        end = TURN * (int(self.events[0][0] / TURN) + 1)
        done: list[Request] = []
        while self.events and self.events[0][0] <= end:
            now, _, i, request = heapq.heappop(self.events)
            self.free[i] += 1
            self.taken[i] -= 1
            done.append(request)
            if self.queues[i]:
                self._start(i, now)
        self.clock = end
        self.router.settle(done)
        return [Completion(request.id, TOKEN, LOGPROB, "length") for request in done]

    def _start(self, i: int, now: float) -> None:
        request = heapq.heappop(self.queues[i])[-1]
        self.free[i] -= 1
        prefill = QUESTION * PREFILL if len(request.path) == 1 else 0.0
        seconds = self.lengths[request.seed % BINS] * STEP + prefill
        self.busy += seconds
        self.count += 1
        heapq.heappush(self.events, (now + seconds, self.count, i, request))

    def figures(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass


# --- methods --------------------------------------------------------------------------------------


def ours(trees: int, engine: Simulated) -> None:
    expand(Questions(trees), SHAPE, PROMPTS, PARAMS, engine, 0)


def levels(trees: int, engine: Simulated, batch: int | None = None) -> None:
    for begin in range(0, trees, batch or trees):
        n = min(batch or trees, trees - begin)
        growth = Expansion(Questions(n), SHAPE, PROMPTS, PARAMS, begin)
        requests = [request for tree in range(n) for request in growth.begin(tree)]
        while requests:
            engine.submit(requests)
            done: list[Completion] = []
            while engine.pending:
                done += engine.poll()
            requests, _ = growth.settle(done)


def simulate(replicas: int, trees: int, sigma: float, ways: Sequence[str]) -> dict[str, Any]:
    lengths = length_table(sigma)
    row: dict[str, Any] = {"replicas": replicas, "trees": trees, "sigma": sigma}
    for way in ways:
        engine = Simulated(replicas, lengths)
        start = time.perf_counter()
        if way == "ours":
            ours(trees, engine)
        else:
            batch = replicas * ROWS // 3 if way == "batches" else None
            levels(trees, engine, batch)
        row[way] = {
            "hours": engine.clock / 3600,
            "of_ideal": engine.busy / (ROWS * replicas * engine.clock),
            "seconds_simulating": time.perf_counter() - start,
        }
    print(show(row), flush=True)
    return row


def show(row: dict[str, Any]) -> str:
    parts = [f"{row['replicas']} replicas, {row['trees']:,} trees, sigma {row['sigma']}:"]
    for way in ("ours", "levels", "batches"):
        if way in row:
            ratio = row[way]["hours"] / row["ours"]["hours"]
            parts.append(f"{way} {row[way]['of_ideal']:.1%} of ideal ({ratio:.2f} x the time)")
    return " ".join(parts)


# --- the driver -----------------------------------------------------------------------------------


class NoOp:
    """An engine that answers at once, with 300 tokens."""

    def __init__(self, wants: int, at_once: int = 256) -> None:
        self.wants, self.at_once = wants, at_once
        self.waiting: list[Request] = []
        self.tokens = np.zeros(MEAN, np.int32)
        self.logprobs = np.zeros(MEAN, np.float32)
        self.most = 0

    @property
    def pending(self) -> int:
        return len(self.waiting)

    def submit(self, requests: Sequence[Request]) -> None:
        self.waiting += requests

    def poll(self) -> list[Completion]:
        some, self.waiting = self.waiting[-self.at_once :], self.waiting[: -self.at_once]
        return [Completion(r.id, self.tokens, self.logprobs, "length") for r in some]

    def figures(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass


def measure_driver(trees: int, repeats: int) -> dict[str, Any]:
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        expand(Questions(trees), SHAPE, PROMPTS, PARAMS, NoOp(4096), 0)
        rates.append(trees * len(SHAPE) / (time.perf_counter() - start))
    return {"completions_per_s": sorted(rates)[len(rates) // 2], "runs": rates}


def measure_waves(trees: int, repeats: int) -> dict[str, Any]:
    """The same for adaptive trees of three roles that learn."""
    rates, parts = [], []
    for _ in range(repeats):
        how = Allocation([3] * 3, [1, 2, 3], np.arange(trees), most_outputs=trees * len(SHAPE) / 2)
        forest, rng, choosing, last = reserve(trees, SHAPE), np.random.default_rng(0), 0.0, False
        start = time.perf_counter()
        while not last:
            begun = time.perf_counter()
            credit = assign_credit(TreeConfig(), forest)
            pairs = [
                len(find_pairs(forest, credit, k, "all", 0, 0, (0, 1), False)[0]) for k in (1, 2, 3)
            ]
            nodes, last = next_nodes(how, forest, credit, pairs)
            choosing += time.perf_counter() - begun
            for done, _ in grow(
                Questions(trees), SHAPE, PROMPTS, PARAMS, NoOp(4096), 0, Wave(nodes, forest)
            ):
                complete(forest, done)
            leaves = nodes[forest.level[nodes] == 3].astype(np.uint32)
            forest.set_outcomes(leaves, rng.integers(0, 2, len(leaves), np.uint8))
        seconds = time.perf_counter() - start
        rates.append(answered(forest) / seconds)
        parts.append(choosing / seconds)
    return {
        "adaptive_completions_per_s": sorted(rates)[len(rates) // 2],
        "choosing_part": sorted(parts)[len(parts) // 2],
    }


def measure_open_trees(trees: int) -> dict[str, Any]:
    """Memory of trees whose drafts are all finished and whose critiques are all requested."""
    growth = Expansion(Questions(trees), SHAPE, PROMPTS, PARAMS, 0)
    engine = NoOp(0)
    before = resident_bytes()
    engine.submit([request for tree in range(trees) for request in growth.begin(tree)])
    while engine.waiting and len(engine.waiting[-1].path) == 1:
        drafts, engine.waiting = engine.waiting, []
        done = [Completion(r.id, engine.tokens, engine.logprobs, "length") for r in drafts]
        engine.submit(growth.settle(done)[0])
    held = resident_bytes() - before
    return {"trees": trees, "bytes_per_open_tree": held / trees}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--million", action="store_true", help="also simulate a million trees (an hour)"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    report: dict[str, Any] = {"environment": environment()}
    report["driver"] = measure_driver(2000, 5)
    report["driver"] |= measure_open_trees(5000) | measure_waves(2000, 5)
    print(
        f"driver: {report['driver']['completions_per_s']:,.0f} completions/s, "
        f"{report['driver']['bytes_per_open_tree']:,.0f} bytes per open tree; adaptive "
        f"{report['driver']['adaptive_completions_per_s']:,.0f} completions/s, of the time "
        f"{report['driver']['choosing_part']:.1%} for choosing"
    )
    every = ["ours", "levels", "batches"]
    rows = [simulate(1, 200, sigma, every) for sigma in (0.3, 0.5, 0.8, 1.0, 1.2)]
    rows += [simulate(n, 200 * n, 0.8, every) for n in (2, 4, 8, 64)]
    rows += [simulate(64, 2000, 0.8, every), simulate(64, 100_000, 0.8, every)]
    if args.million:
        rows.append(simulate(64, 1_000_000, 0.8, ["ours", "batches"]))
    report["simulated"] = rows
    report["peak_memory_bytes"] = peak_bytes()
    header = ["replicas", "trees", "sigma", "ours", "levels", "batches", "x levels", "x batches"]
    print_table("share of the ideal throughput; time over ours", header, [cells(r) for r in rows])
    if args.json:
        write_json(args.json, report)


def cells(row: dict[str, Any]) -> list[str]:
    cells = [f"{row['replicas']}", f"{row['trees']:,}", f"{row['sigma']}"]
    for way in ("ours", "levels", "batches"):
        cells.append(f"{row[way]['of_ideal']:.1%}" if way in row else "")
    for way in ("levels", "batches"):
        cells.append(f"{row[way]['hours'] / row['ours']['hours']:.2f}" if way in row else "")
    return cells


if __name__ == "__main__":
    main()
