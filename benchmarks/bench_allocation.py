"""Adaptive trees replayed on forests that runs have sampled in full.

    python benchmarks/bench_allocation.py --runs RUN ... [--json FILE]

Nothing is sampled: an output that the allocation asks for is the one that the full tree holds, as
in a run, where an output depends on its request alone. For every forest and the roles that learn
from it:

- pairs and mixed blocks (siblings of both labels) per 1,000 sampled tokens, of full trees and of
  adaptive ones with a half and a third of their tokens; as a multiple of full trees, for
  several roles the geometric mean over what each makes;
- bias, since adaptive trees see fewer leaves, and chosen ones: the labels of sampled outputs that
  full trees label differently, the positives that are positive in full trees, and the mean
  difference of values;
- deciding: milliseconds for each 1,000 outputs, without grading.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import environment, print_table, write_json

from malt_fast._core.forest import DONE, UNGRADED, Credit, Forest
from malt_fast.config.load import saved_config
from malt_fast.config.schema import Config
from malt_fast.engines import Policy
from malt_fast.forest.credit import assign_credit
from malt_fast.forest.file import forest_of, read_forest
from malt_fast.sampling.allocation import NONE, Allocation, next_nodes
from malt_fast.sampling.expand import reserve, shape_from_branching
from malt_fast.sampling.round_forest import learners
from malt_fast.sampling.waves import count_pairs
from malt_fast.store.store import open_store

SHARES = {"1/2": 1 / 2, "1/3": 1 / 3}  # of the tokens of full trees


def sampled(config: Config, full: Forest, nodes: np.ndarray) -> Forest:
    """The forest of which only some nodes were sampled."""
    shape = shape_from_branching(config.tree.branching, [Policy("")] * len(config.chain))
    forest = reserve(len(full) // full.tree_size, shape)
    there = nodes[full.state[nodes] == DONE]
    tokens = [full.tokens_of(int(node)) for node in there]
    forest.complete(
        there.astype(np.uint32),
        np.concatenate(tokens) if tokens else np.zeros(0, np.int32),
        np.cumsum([0, *map(len, tokens)], dtype=np.int64),
        full.finish[there],
    )
    forest.fail(np.setdiff1d(nodes, there).astype(np.uint32))
    leaves = there[full.outcome[there] != UNGRADED].astype(np.uint32)
    forest.set_outcomes(leaves, full.outcome[leaves])
    return forest


def replay(config: Config, full: Forest, how: Allocation) -> tuple[Forest, Credit, int, float]:
    """The forest at the end, its credit, and the number of waves and the seconds for choosing."""
    nodes, waves, seconds, last = np.zeros(0, np.int64), 0, 0.0, False
    while True:
        forest = sampled(config, full, nodes)
        begun = time.perf_counter()
        credit = assign_credit(config.tree, forest)
        levels = range(1, len(config.chain) + 1)
        counts = [count_pairs(config, forest, credit, k) if k in how.learns else 0 for k in levels]
        more, last = (NONE, True) if last else next_nodes(how, forest, credit, counts)
        seconds += time.perf_counter() - begun
        if not len(more):
            return forest, credit, waves, seconds
        nodes, waves = np.sort(np.concatenate([nodes, more])), waves + 1


def made(forest: Forest, credit: Credit, level: int) -> tuple[int, int]:
    """(pairs, mixed blocks) of a level."""
    ids = np.flatnonzero((forest.level == level) & (credit.label >= 0))
    trees = len(forest)
    good = np.bincount(forest.parent[ids[credit.label[ids] == 1]], minlength=trees)
    bad = np.bincount(forest.parent[ids[credit.label[ids] == 0]], minlength=trees)
    return int((good * bad).sum()), int(((good > 0) & (bad > 0)).sum())


def figures(
    forest: Forest, credit: Credit, whole: Credit, learns: list[int], chain: list[str]
) -> dict[str, Any]:
    done = (forest.state == DONE) & (forest.level > 0)
    tokens = int(forest.token_len[done].sum())
    counts = {chain[k - 1]: made(forest, credit, k) for k in learns}
    rates = {role: [1000 * n / tokens for n in pair] for role, pair in counts.items()}
    inner = done & np.isin(forest.level, learns) & (forest.level < len(chain))
    both = inner & (credit.label >= 0) & (whole.label >= 0)
    positive = both & (credit.label == 1)
    return {
        "outputs": int(done.sum()),
        "tokens": tokens,
        "pairs": {role: pair[0] for role, pair in counts.items()},
        "pairs_per_1000": {role: rate[0] for role, rate in rates.items()},
        "mixed_per_1000": {role: rate[1] for role, rate in rates.items()},
        "other_label": float((credit.label[both] != whole.label[both]).mean()) if both.any() else 0,
        "confirmed": float((whole.label[positive] == 1).mean()) if positive.any() else 1,
        "value_bias": float((credit.value - whole.value)[both].mean()) if both.any() else 0,
    }


def measure(run: Path) -> list[dict[str, Any]]:
    config = saved_config(Config, {"run": run}, ())
    free = config.preferences.model_copy(update={"max_pairs": None, "max_examples": None})
    config = config.model_copy(update={"preferences": free})
    store, rows = open_store(run / "samples", writable=False), []
    for path in sorted(run.glob("round-*/forest*.arrows")):
        file = read_forest(path, store)
        full = forest_of(file, store) if file else None
        if file is None or full is None:
            continue
        whole, trees = assign_credit(config.tree, full), file.trees
        roles = learners(config, path.stem)
        for some in [roles] if len(roles) < len(config.chain) else [roles, *([r] for r in roles)]:
            learns = [config.chain.index(role) + 1 for role in some]
            base = figures(full, whole, whole, learns, config.chain)
            found = {"full": base}
            for name, share in SHARES.items():
                how = Allocation(
                    config.tree.branching,
                    learns,
                    np.random.default_rng(config.seed).permutation(trees),
                    most_tokens=share * base["tokens"],
                )
                forest, credit, waves, seconds = replay(config, full, how)
                found[name] = figures(forest, credit, whole, learns, config.chain)
                found[name] |= {"waves": waves, "choosing_s": seconds}
            rows.append({"run": run.name, "forest": path.stem, "learns": some, "figures": found})
    return rows


def mean_ratio(found: dict[str, Any], base: dict[str, Any], what: str) -> float:
    """The geometric mean over roles of what they make per token, as a multiple of full trees'."""
    ratios = [found[what][role] / max(1e-9, base[what][role]) for role in base[what]]
    return float(np.exp(np.mean(np.log(np.maximum(ratios, 1e-9)))))


def print_rows(rows: list[dict[str, Any]]) -> None:
    header = ["run", "forest", "learns", "tokens", "pairs / 1,000", "x full", "mixed / 1,000"]
    header += ["x full", "other label %", "confirmed %", "bias", "waves", "ms / 1,000"]
    cells = []
    for row in rows:
        base = row["figures"]["full"]
        for name, found in row["figures"].items():
            rates = (
                " ".join(f"{rate:.2f}" for rate in found[what].values())
                for what in ("pairs_per_1000", "mixed_per_1000")
            )
            pairs, mixed = rates
            last = [f"{100 * found[what]:.1f}" for what in ("other_label", "confirmed")]
            last.append(f"{found['value_bias']:+.3f}")
            if "waves" in found:
                spent = 1e6 * found["choosing_s"] / found["outputs"]
                last += [str(found["waves"]), f"{spent:.1f}"]
            cells.append(
                [
                    *(row["run"], row["forest"], ",".join(row["learns"]), name),
                    *(pairs, f"{mean_ratio(found, base, 'pairs_per_1000'):.2f}"),
                    *(mixed, f"{mean_ratio(found, base, 'mixed_per_1000'):.2f}"),
                    *last,
                    *[""] * (5 - len(last)),
                ]
            )
    print_table("adaptive trees, replayed", header, cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = [row for run in args.runs for row in measure(run)]
    print_rows(rows)
    if args.json:
        write_json(args.json, {"environment": environment(), "rows": rows})


if __name__ == "__main__":
    main()
