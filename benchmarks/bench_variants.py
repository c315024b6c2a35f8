"""Variants of the settings against each other, over seeds, with what each of them spends.

    python benchmarks/bench_variants.py allocation --seeds 0 1 2 3 \\
        --json benchmarks/results/allocation.json [options of malt_fast.train]
    python benchmarks/bench_variants.py labels --seeds 0 1 2 3 --json benchmarks/results/labels.json

allocation: full trees, and adaptive ones with a half and a third of the tokens; for comparison full
trees with that many tokens, of fewer questions. labels: what the preference stage learns from. All
variants train for as many optimiser steps as the first, or with --epochs for as many epochs.

Every variant and seed is a run of the whole program in a process of its own; a finished run is only
read. Variants take outputs that another one sampled, which changes no result: an output depends on
its request alone. Accuracy is that of the trained chain with three votes. Differences to the first
variant are paired by seed and question, with a 95 % bootstrap interval over these pairs, which says
what other questions would change, and the standard error of their means by seed, which says what
other samples and orders of training would.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench_gains import run_seed
from common import environment, print_table, write_json

from malt_fast.evaluation.spent import tokens_spent
from malt_fast.evaluation.statistics import paired_bootstrap
from malt_fast.results.run_contents import read_run
from malt_fast.results.transcripts import is_right, read_answers

ADAPTIVE = ("--tree.allocation", "adaptive")
LOSS = "--train.dpo.loss_type"
SYSTEM = "MALT+MV@3"
RESAMPLES = 10_000


def allocations(tokens: int) -> dict[str, tuple[str, ...]]:
    """Variants by name; tokens: of a full forest."""
    variants: dict[str, tuple[str, ...]] = {"full": ()}
    for name, share in (("a half", 1 / 2), ("a third", 1 / 3)):
        budget = ("--tree.max_tokens", str(round(tokens * share)))
        variants[f"adaptive, {name}"] = (*ADAPTIVE, *budget)
        variants[f"full trees, {name}"] = budget
    return variants


LABELS = {
    "dpo": (),
    "kto": (LOSS, "kto"),
    "dpo + kto": (LOSS, "sigmoid+kto"),
}


def equal_steps(folder: Path, stages: Sequence[str]) -> list[str]:
    """Options for as many optimiser steps as a run took in these stages."""
    steps = {}
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        stage, _, role = line["stage"].partition("/")
        if stage in stages and "max_steps" in line:
            steps[f"--train.{stage}.roles.{role}.max_steps"] = str(line["max_steps"])
    return [word for option in steps.items() for word in option]


def measure(folder: Path, seed: int, options: list[str]) -> dict[str, Any]:
    """What a run reached and spent, and which held-out questions it answers."""
    result = run_seed(seed, folder, options)
    contents, _ = read_run(folder)
    outputs, _ = read_answers(folder, contents.evaluation)
    assert contents.config is not None
    spent = tokens_spent(folder, contents.config)
    return {
        "seed": seed,
        "accuracy": {one["name"]: one["accuracy"] for one in result["systems"]},
        "sampled_tokens": spent.sampled,
        "trained_tokens": sum(spent.trained.values()),
        "forest_tokens": spent.forests,
        "seconds": result["stage_seconds"],
        "right": [bool(is_right(one, SYSTEM)) for one in outputs],
    }


def summary(runs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row per variant: means over the seeds, and the difference to the first."""
    first, *_ = runs.values()
    rows = []
    for name, seeds in runs.items():
        right, base = (
            np.concatenate([np.array(one["right"]) for one in of]) for of in (seeds, first)
        )
        low, high = paired_bootstrap(right, base, resamples=RESAMPLES, seed=0)
        by_seed = (right.astype(float) - base).reshape(len(seeds), -1).mean(1)
        rows.append(
            {
                "variant": name,
                "accuracy": float(right.mean()),
                "difference": float(right.mean() - base.mean()),
                "ci95": [low, high],
                "seed_error": float(by_seed.std(ddof=1) / len(seeds) ** 0.5) if seeds[1:] else None,
                "sampled_tokens": float(np.mean([one["sampled_tokens"] for one in seeds])),
                "trained_tokens": float(np.mean([one["trained_tokens"] for one in seeds])),
            }
        )
    return rows


def print_summary(rows: list[dict[str, Any]], runs: dict[str, list[dict[str, Any]]]) -> None:
    header = ["variant", "accuracy %", "difference [95 %]", "over seeds"]
    header += ["tokens sampled", "trained", "by seed"]
    cells = [
        [
            row["variant"],
            f"{100 * row['accuracy']:.1f}",
            "{:+.1f} [{:+.1f}, {:+.1f}]".format(
                *(100 * x for x in (row["difference"], *row["ci95"]))
            ),
            "" if row["seed_error"] is None else f"+-{100 * row['seed_error']:.1f}",
            f"{row['sampled_tokens']:,.0f}",
            f"{row['trained_tokens']:,.0f}",
            " ".join(f"{100 * one['accuracy'][SYSTEM]:.1f}" for one in runs[row["variant"]]),
        ]
        for row in rows
    ]
    print_table(SYSTEM, header, cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("allocation", "labels"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--only", nargs="+", default=[], help="variants, beside the first")
    parser.add_argument("--epochs", action="store_true", help="train for equal epochs, not steps")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--json", type=Path)
    args, options = parser.parse_known_args()
    runs: dict[str, list[dict[str, Any]]] = {}
    for seed in args.seeds:
        first = args.runs / f"full-{seed}"  # of either kind
        base = measure(first, seed, options)
        if args.what == "allocation":
            variants, stages = allocations(max(base["forest_tokens"].values())), ("sft", "dpo")
        else:
            variants, stages = LABELS, ("dpo",)
        same = [] if args.epochs else equal_steps(first, stages)
        for i, (name, own) in enumerate(variants.items()):
            if i == 0:
                runs.setdefault(name, []).append(base)
            elif not args.only or name in args.only:
                folder = args.runs / f"{'-'.join(re.findall(r'[a-z]+', name))}-{seed}"
                more = [*options, *same, *own, "--reuse", str(first)]
                runs.setdefault(name, []).append(measure(folder, seed, more))
        rows = summary(runs)
        print_summary(rows, runs)
    if args.json:
        for seeds in runs.values():
            for one in seeds:
                one["right"] = "".join(str(int(right)) for right in one["right"])
        write_json(args.json, {"environment": environment(), "summary": rows, "runs": runs})


if __name__ == "__main__":
    main()
