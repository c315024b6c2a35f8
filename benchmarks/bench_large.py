"""Time and memory of large sets: a million questions, and a run of ten million outputs.

    python benchmarks/bench_large.py [--questions N] [--trees N] [--model DIR] [--json FILE]

Writes N questions of 300 characters and starts a run on them, up to the moment when sampling could
begin: rows read and checked, copies of held-out ones looked for, lengths compared with the model's
context. --model: whose tokenizer reads them (default: one token per word). Then makes a run of
--trees questions (256,410) with 39 outputs each, and reports and exports it. Every program runs in
a process of its own; its peak includes the pages of files that it maps.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path
from typing import Any

from bench_report import PARENTS, make_run, vocabulary, write_model
from common import environment, print_table, write_json


def write_questions(file: Path, count: int) -> None:
    """Questions of 300 characters about nothing."""
    rng = random.Random(0)
    words, counts = vocabulary()
    sums = list(accumulate(counts))
    with file.open("w") as out:
        for number in range(count):
            drawn = rng.choices(words, cum_weights=sums, k=70)
            text = " ".join([f"Question {number}:", *drawn])[:300]
            row = {"question": text.strip(), "answer": str(number % 1000)}
            out.write(json.dumps(row) + "\n")


def measure(module: str, *options: str) -> dict[str, float]:
    """Seconds and peak memory in MB of a program."""
    begun = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", f"malt_fast.{module}", *options], stdout=subprocess.DEVNULL
    ) as program:
        _, status, used = os.wait4(program.pid, 0)
        program.returncode = os.waitstatus_to_exitcode(status)
    if program.returncode:
        raise SystemExit(f"malt_fast.{module} ended with status {program.returncode}")
    return {"s": time.perf_counter() - begun, "peak_mb": used.ru_maxrss / 1024}


def prepare(folder: Path, questions: int, model: Path | None) -> dict[str, Any]:
    if model is None:
        model = folder / "words"
        write_model(model, vocabulary()[0])
    write_questions(folder / "large.jsonl", questions)
    task = ["--task.name", "jsonl", "--task.path", str(folder / "large.jsonl")]
    grader = ["--task.grader", "number", "--task.prompts", str(folder / "prompts.yaml")]
    wording = {role: "{question}" for role in ("generator", "verifier", "refiner")}
    (folder / "prompts.yaml").write_text(json.dumps({"chat": False, "prompts": wording}))
    base = ["--model.name_or_path", str(model), "--show_prompts"]
    return {"questions": questions, **measure("train", *task, *grader, *base)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--questions", type=int, default=1_000_000)
    parser.add_argument("--trees", type=int, default=256_410)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        figures = {"set-up": prepare(folder, args.questions, args.model)}
        run, outputs = folder / "run", args.trees * len(PARENTS)
        make_run(run, args.trees)
        figures["report"] = {"outputs": outputs, **measure("report", "--run", str(run))}
        figures["report"]["page_mb"] = (run / "report.html").stat().st_size / 1e6
        figures["export"] = {"outputs": outputs, **measure("export", "--run", str(run))}
    rows = [
        [name, *(f"{key} {value:,.0f}" for key, value in found.items())]
        for name, found in figures.items()
    ]
    print_table(
        "large sets", ["", "size", "time", "memory", ""], [r + [""] * (5 - len(r)) for r in rows]
    )
    if args.json:
        write_json(args.json, environment() | {"large": figures})


if __name__ == "__main__":
    main()
