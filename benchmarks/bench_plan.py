"""The plan of a run against the run itself.

    python benchmarks/bench_plan.py [--data DIR] [--json FILE]

Plans and trains the bundled demonstration and, with --data, GSM8K (DIR/gsm8k, 300 questions, a
probe of 100) with a small random model that prints digits. Its answer counts as correct if its last
digit is odd or even as that of the gold answer. Prints every planned figure beside the actual one.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from common import environment, print_table, write_json
from world_of_digits import write_model

from malt_fast import train
from malt_fast.planning.plan_file import read_plan

ROLES = ("generator", "verifier", "refiner")


def compare(run: Path, words: list[str], questions: int) -> list[dict[str, Any]]:
    """Plan a run, train it, and return the rows of plan.json with the actual figures."""
    options = ["--run", str(run), *words]
    for argv in (["--plan", str(questions), *options], options):
        if train.main(argv):
            raise SystemExit(f"{argv} failed")
    return [vars(row) for row in read_plan(run)[1] if row.fact is not None]


def gsm8k(data: Path, folder: Path) -> list[str]:
    """Settings for a small random model: short prompts, a few digits as answers."""
    prompts = folder / "prompts.yaml"
    wording = {
        role: {"user": "{question}" + "".join(f" {{{name}}}" for name in ROLES[:i])}
        for i, role in enumerate(ROLES)
    }
    prompts.write_text(json.dumps({"chat": False, "prompts": wording}))
    (train_file,) = sorted(data.glob("gsm8k/*train*.jsonl*"))[:1]
    return [
        *("--task.name", "gsm8k", "--task.path", str(train_file), "--task.limit", "300"),
        *(
            "--task.prompts",
            str(prompts),
            "--model.name_or_path",
            str(write_model(folder / "model")),
        ),
        *("--model.dtype", "float32", "--sampling.temperature", "1", "--sampling.max_tokens", "12"),
        *("--task.test_path", str(train_file), "--task.test_limit", "20"),
        *("--task.decontaminate", "false", "--train.dpo.max_steps", "5"),
        *("--task.grader", "world_of_digits:same_parity"),
        *("--train.sft.max_steps", "5", "--report_to", "[]", "--evaluate.bootstrap", "200"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        runs = {"demonstration": compare(folder / "demo", [], 250)}
        if args.data:
            runs["gsm8k"] = compare(folder / "gsm8k", gsm8k(args.data, folder), 100)
    for name, rows in runs.items():
        shown = [
            [row["stage"], f"{row['role']} {row['quantity']}", f"{row['plan']:,.4g}",
             f"{row['fact']:,.4g}", f"{row['fact'] / row['plan']:.2f}" if row["plan"] else ""]
            for row in rows
        ]  # fmt: skip
        print_table(name, ["stage", "figure", "plan", "fact", "fact / plan"], shown)
    if args.json:
        write_json(args.json, environment() | {"runs": runs})


if __name__ == "__main__":
    main()
