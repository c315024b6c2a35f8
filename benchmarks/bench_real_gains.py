"""Gains of the method on a real language model, SmolLM2-135M-Instruct.

    python benchmarks/bench_real_gains.py --model FILE.gguf --choose
    python benchmarks/bench_real_gains.py --model FILE.gguf --tasks stories --seeds 0 1 2 \\
        --json benchmarks/results/real_gains.json [options of malt_fast.train]

`--choose` only says on which tasks (real_tasks.py) there is something to learn: how often one draft
of a training question is right, and how often at least one of nine. Otherwise the whole program
runs once per task and seed, each in its own process; a run that was stopped goes on where it
stopped, a finished one is only read. Held-out questions serve for the tables alone.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from bench_gains import run_seed, table
from common import environment, write_json
from real_tasks import TASKS
from rich.console import Console

import malt_fast.api as mf
from malt_fast._core.forest import FINISH_LENGTH

SETTINGS = [
    *("--model.dtype", "bfloat16", "--sampling.temperature", "0.7", "--sampling.max_tokens", "40"),
    *("--lora.r", "16", "--lora.lora_alpha", "32", "--preferences.dedup", "true"),
    *("--train.sft.learning_rate", "2e-4", "--train.sft.num_train_epochs", "3"),
]
DRAFTS, ASKED = 9, 64  # of a question; questions


def chances(name: str, model: str, folder: Path, options: list[str]) -> dict[str, float]:
    """Of drafts of training questions: the share that is right, cut off, and right once in nine."""
    values = [*TASKS[name](folder, ASKED, 1, True), *SETTINGS, *options]
    settings = {key[2:]: value for key, value in zip(values[::2], values[1::2], strict=True)}
    task = settings.pop("task.name")
    settings |= {"model.name_or_path": model, "chain": "generator", "tree.branching": [DRAFTS]}
    forest = mf.expand(mf.prepare(task, settings))
    forest.grade()
    leaves = forest.nodes.level == 1
    right = (forest.nodes.outcome[leaves] == 1).reshape(-1, DRAFTS)
    cut = forest.nodes.finish[leaves] == FINISH_LENGTH
    return {
        "right": float(right.mean()),
        "right_once": float(right.any(1).mean()),
        "cut_off": float(cut.mean()),
    }


def training(run: Path) -> dict[str, Any]:
    """The last log line of every stage that has rewards: of DPO."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {line["stage"]: line for line in lines if "rewards/chosen" in line}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="GGUF file, or folder of a checkpoint")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--train", type=int, default=300, help="training questions")
    parser.add_argument("--test", type=int, default=500, help="held-out questions")
    parser.add_argument("--choose", action="store_true", help="only look at training questions")
    parser.add_argument(
        "--development", action="store_true", help="ask questions on which settings may be chosen"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--json", type=Path)
    args, options = parser.parse_known_args()
    report: dict[str, Any] = {"environment": environment(), "settings": [*SETTINGS, *options]}
    for name in args.tasks:
        folder = args.runs / ("development" if args.development else "held-out") / name
        folder.mkdir(parents=True, exist_ok=True)
        if args.choose:
            report[name] = chances(name, args.model, folder, options)
            print(name, *(f"{what} {100 * share:.0f} %" for what, share in report[name].items()))
            continue
        task = TASKS[name](folder, args.train, args.test, args.development)
        own = [*task, "--model.name_or_path", args.model, *SETTINGS, *options]
        report[name] = []
        for seed in args.seeds:
            run = folder / f"seed-{seed}"
            result = run_seed(seed, run, own) | {"training": training(run)}
            asked = Path(result["settings"]["task.test_path"])
            result["settings"]["task.test_path"] = str(asked.relative_to(args.runs))
            report[name].append(result)
        Console(width=200).print(name, table(report[name]))
    if args.json:
        write_json(args.json, report)


if __name__ == "__main__":
    main()
