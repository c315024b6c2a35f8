"""The forest against NumPy and objects: building it, credit, pairs, and memory.

    python benchmarks/bench_forest.py [--nodes N] [--tokens T] [--branching B] [--json FILE]

Uniform trees of three levels, built in batches of some thousand outputs, as engines return them.
The contenders get the same arrays and must agree before anything is timed:

- objects: a list of slotted dataclasses, tokens as lists of ints, and loops, as in most pipelines;
- numpy: arrays concatenated from the batches; credit by np.add.at over the parents (any tree) or
  by adding the strided children of each level (fixed fan-out without failures only); pairs by
  broadcasting within blocks of equal size. Float means, no labels;
- malt_fast: any fan-out, failed nodes left out, exact values, and the labels in the same call.
"""

import argparse
import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import environment, interleaved, peak_bytes, print_table, resident_bytes, write_json

from malt_fast._core.forest import Forest, credit, pairs

BATCH = 4096  # outputs per call
DEPTH = 3


@dataclass(frozen=True)
class Workload:
    """Nodes in breadth-first order: the children of node p are questions + p * branching + k."""

    questions: int
    branching: int
    tokens: np.ndarray  # int32[t], the outputs one after another
    offsets: np.ndarray  # int64[outputs + 1]
    outcomes: np.ndarray  # uint8[leaves]

    @property
    def level_begins(self) -> list[int]:
        sizes = [self.questions * self.branching**k for k in range(DEPTH + 1)]
        return [0, *np.cumsum(sizes).tolist()]

    @property
    def nodes(self) -> int:
        return self.level_begins[-1]


def make_workload(nodes: int, branching: int, mean_tokens: int) -> Workload:
    """About `nodes` nodes whose outputs have 0 to 2 * mean_tokens tokens."""
    rng = np.random.default_rng(0)
    questions = max(1, nodes // sum(branching**k for k in range(DEPTH + 1)))
    leaves = questions * branching**DEPTH
    outputs = sum(questions * branching**k for k in range(1, DEPTH + 1))
    offsets = np.zeros(outputs + 1, np.int64)
    np.cumsum(rng.integers(0, 2 * mean_tokens, outputs, endpoint=True), out=offsets[1:])
    tokens = rng.integers(0, 32000, offsets[-1], dtype=np.int32)
    outcomes = rng.integers(0, 2, leaves, dtype=np.uint8)
    return Workload(questions, branching, tokens, offsets, outcomes)


def batches(work: Workload) -> list[tuple[int, int]]:
    """Ranges of parents whose outputs exist before their children are requested."""
    inner, ranges, begin = work.level_begins[-2], [], 0
    while begin < inner:
        known = work.questions + begin * work.branching
        end = min(begin + BATCH // work.branching, known, inner)
        ranges.append((begin, end))
        begin = end
    return ranges


# --- malt_fast ------------------------------------------------------------------------------------


def build_forest(work: Workload) -> Forest:
    forest, b = Forest(), work.branching
    forest.add_questions(work.questions)
    for begin, end in batches(work):
        first, last = begin * b, end * b  # outputs, counted without the questions
        forest.reserve(np.arange(begin, end, dtype=np.uint32), np.full(end - begin, b, np.uint16))
        tokens = work.tokens[work.offsets[first] : work.offsets[last]]
        forest.complete(
            np.arange(work.questions + first, work.questions + last, dtype=np.uint32),
            tokens,
            work.offsets[first : last + 1] - work.offsets[first],
            np.zeros(last - first, np.uint8),
        )
    leaves = np.arange(work.level_begins[-2], work.nodes, dtype=np.uint32)
    forest.set_outcomes(leaves, work.outcomes)
    return forest


# --- a list of dataclasses ------------------------------------------------------------------------


@dataclass(slots=True)
class Node:
    parent: int
    level: int
    tokens: list[int]
    children: list[int] = field(default_factory=list)
    outcome: int | None = None
    value: float = 0.0


def build_objects(work: Workload) -> list[Node]:
    nodes = [Node(-1, 0, []) for _ in range(work.questions)]
    for begin, end in batches(work):
        for parent in range(begin, end):
            for k in range(parent * work.branching, (parent + 1) * work.branching):
                tokens = work.tokens[work.offsets[k] : work.offsets[k + 1]].tolist()
                nodes[parent].children.append(len(nodes))
                nodes.append(Node(parent, nodes[parent].level + 1, tokens))
    for node, outcome in zip(nodes[work.level_begins[-2] :], work.outcomes.tolist(), strict=True):
        node.outcome = outcome
    return nodes


def credit_objects(nodes: list[Node]) -> list[Node]:
    for node in reversed(nodes):
        if node.outcome is not None:
            node.value = float(node.outcome)
        elif node.children:
            node.value = sum(nodes[c].value for c in node.children) / len(node.children)
    return nodes


def pairs_objects(nodes: list[Node], level: int) -> list[tuple[int, int]]:
    return [
        (chosen, rejected)
        for parent in nodes
        if parent.level == level - 1
        for chosen in parent.children
        if nodes[chosen].value > 0.5
        for rejected in parent.children
        if nodes[rejected].value <= 0.5 and nodes[chosen].tokens != nodes[rejected].tokens
    ]


# --- numpy ----------------------------------------------------------------------------------------


def build_numpy(work: Workload) -> dict[str, np.ndarray]:
    b = work.branching
    parts: dict[str, list[np.ndarray]] = {
        "parent": [np.full(work.questions, -1)],
        "length": [np.zeros(work.questions, np.int64)],
        "tokens": [],
    }
    for begin, end in batches(work):
        offsets = work.offsets[begin * b : end * b + 1]
        parts["parent"].append(np.repeat(np.arange(begin, end), b))
        parts["length"].append(np.diff(offsets))
        parts["tokens"].append(work.tokens[offsets[0] : offsets[-1]].copy())
    columns = {name: np.concatenate(values) for name, values in parts.items()}
    columns["outcome"] = work.outcomes.copy()
    return columns


def credit_add_at(work: Workload, parent: np.ndarray) -> np.ndarray:
    value, begins = np.zeros(work.nodes), work.level_begins
    value[begins[-2] :] = work.outcomes
    for begin, end in zip(begins[-2:0:-1], begins[:1:-1], strict=True):
        np.add.at(value, parent[begin:end], value[begin:end] / work.branching)
    return value


def credit_strided(work: Workload) -> np.ndarray:
    value, begins, b = np.zeros(work.nodes), work.level_begins, work.branching
    value[begins[-2] :] = work.outcomes
    for level in range(DEPTH - 1, -1, -1):
        here, below = (value[begins[k] : begins[k + 1]] for k in (level, level + 1))
        for k in range(b):
            here += below[k::b]
        here /= b
    return value


def pairs_numpy(work: Workload, value: np.ndarray, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Without comparing texts."""
    begin, end = work.level_begins[level : level + 2]
    positive = value[begin:end].reshape(-1, work.branching) > 0.5
    block, chosen, rejected = np.nonzero(positive[:, :, None] & ~positive[:, None, :])
    first = begin + block * work.branching
    return first + chosen, first + rejected


# --- measuring ------------------------------------------------------------------------------------


def check_agreement(work: Workload, forest: Forest, nodes: list[Node]) -> int:
    """Returns the number of pairs of the last level."""
    scores = credit(forest)
    parent = build_numpy(work)["parent"]
    np.testing.assert_allclose(scores.value, [n.value for n in credit_objects(nodes)], atol=1e-12)
    np.testing.assert_allclose(scores.value, credit_add_at(work, parent), atol=1e-12)
    np.testing.assert_allclose(scores.value, credit_strided(work), atol=1e-12)
    chosen, rejected = pairs(forest, scores, DEPTH)
    found = list(zip(chosen.tolist(), rejected.tolist(), strict=True))
    assert found == pairs_objects(nodes, DEPTH), "pairs differ"
    unfiltered = set(
        zip(*(c.tolist() for c in pairs_numpy(work, scores.value, DEPTH)), strict=True)
    )
    assert set(found) <= unfiltered, "pairs differ"
    return len(found)


def time_all(work: Workload, repeats: int) -> dict[str, dict[str, dict[str, float]]]:
    """{operation: {contender: timing with the rate "per_second"}}."""
    forest, nodes = build_forest(work), build_objects(work)
    columns = build_numpy(work)
    n_pairs = check_agreement(work, forest, nodes)
    scores = credit(forest)
    operations: dict[str, tuple[int, dict[str, Callable[[], object]]]] = {
        "append (nodes)": (
            work.nodes,
            {
                "malt_fast": lambda: build_forest(work),
                "numpy, concatenated": lambda: build_numpy(work),
                "objects": lambda: build_objects(work),
            },
        ),
        "values (nodes)": (
            work.nodes,
            {
                "malt_fast": lambda: credit(forest),
                "numpy, strided": lambda: credit_strided(work),
                "numpy, add.at": lambda: credit_add_at(work, columns["parent"]),
                "objects": lambda: credit_objects(nodes),
            },
        ),
        "pairs (pairs)": (
            n_pairs,
            {
                "malt_fast": lambda: pairs(forest, scores, DEPTH),
                "numpy, broadcast": lambda: pairs_numpy(work, scores.value, DEPTH),
                "objects": lambda: pairs_objects(nodes, DEPTH),
            },
        ),
    }
    timings: dict[str, dict[str, dict[str, float]]] = {}
    for operation, (count, contenders) in operations.items():
        timings[operation] = interleaved(contenders, repeats)
        for timing in timings[operation].values():
            timing["per_second"] = count / timing["median_s"]
    return timings


def resident_growth(build: Callable[[Workload], object], work: Workload) -> int:
    gc.collect()
    before = resident_bytes()
    kept = build(work)
    growth = resident_bytes() - before
    del kept
    return growth


def memory(work: Workload) -> dict[str, dict[str, float]]:
    """Bytes per node (built without tokens) and per token (what tokens add), by resident memory."""
    bare = make_workload(work.nodes, work.branching, 0)
    builders: dict[str, Callable[[Workload], Any]] = {
        "malt_fast": build_forest,
        "objects": build_objects,
    }
    result = {}
    for name, build in builders.items():
        empty, full = resident_growth(build, bare), resident_growth(build, work)
        result[name] = {
            "bytes_per_node": empty / work.nodes,
            "bytes_per_token": (full - empty) / max(1, work.tokens.size),
        }
    return result


def report_tables(report: dict[str, Any]) -> None:
    rows = []
    for operation, timings in report["timings"].items():
        ours = timings["malt_fast"]["median_s"]
        for name, t in timings.items():
            spread = f"{t['q10_s'] * 1e3:.1f} to {t['q90_s'] * 1e3:.1f}"
            rate, ratio = f"{t['per_second'] / 1e6:.2f}", f"{t['median_s'] / ours:.2f}"
            rows.append((operation, name, f"{t['median_s'] * 1e3:.2f}", spread, rate, ratio))
    shape = ", ".join(f"{value:,} {name}" for name, value in report["shapes"].items())
    header = ("operation", "method", "median ms", "10 to 90 %", "M/s", "time / malt_fast")
    print_table(shape, header, rows)
    memory_rows = [
        (name, "", f"{m['bytes_per_node']:.1f}", f"{m['bytes_per_token']:.1f}")
        for name, m in report["memory"].items()
    ]
    print_table("memory", ("method", "", "bytes per node", "bytes per token"), memory_rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nodes", type=int, default=200_000)
    parser.add_argument("--tokens", type=int, default=32, help="mean tokens per output")
    parser.add_argument("--branching", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the report here")
    args = parser.parse_args()

    work = make_workload(args.nodes, args.branching, args.tokens)
    held = memory(work)  # first, while the heap is small and unfragmented
    shapes = {"nodes": work.nodes, "tokens": work.tokens.size, "branching": args.branching}
    report = {
        "benchmark": "forest",
        "environment": environment(),
        "shapes": shapes,
        "memory": held,
        "timings": time_all(work, args.repeats),
        "peak_memory_bytes": peak_bytes(),
    }
    report_tables(report)
    if args.json:
        write_json(args.json, report)


if __name__ == "__main__":
    main()
