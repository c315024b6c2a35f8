"""Gains of training on the bundled task, over seeds.

Runs the whole program once per seed, each in its own process, and prints the accuracy of each
system and its paired difference to the trained chain. A finished run is only read.

    python benchmarks/bench_gains.py --seeds 0 1 2 3 --json benchmarks/results/gains.json
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from common import environment, write_json
from rich.console import Console
from rich.table import Table


def run_seed(seed: int, folder: Path, options: list[str]) -> dict[str, Any]:
    """evaluation.json of a run with this seed, with seconds and peak memory from metrics.jsonl."""
    program = [sys.executable, "-m", "malt_fast.train", "--seed", str(seed), "--run", str(folder)]
    subprocess.run([*program, *options], check=True)
    result: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    seconds: Counter[str] = Counter()
    peak = 0
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        seconds[line["stage"]] += line.get("seconds", 0)
        peak = max(peak, line.get("peak_memory_mb", 0))
    result["stage_seconds"] = {name: round(s, 1) for name, s in seconds.items() if s}
    return result | {"peak_memory_mb": peak}


def table(results: list[dict[str, Any]]) -> Table:
    """One row per system, one column per seed."""
    out = Table(title="accuracy %, and the gain of the trained chain (95 % interval)")
    out.add_column("system", no_wrap=True)
    for result in results:
        out.add_column(f"seed {result['seed']}", justify="right", no_wrap=True)
    for i, system in enumerate(results[0]["systems"]):
        cells = []
        for result in results:
            ahead = {row["b"]: row for row in result["paired"]}.get(system["name"])
            cell = f"{100 * result['systems'][i]['accuracy']:.1f}"
            if ahead:
                low, high = ahead["ci95"]
                cell += f"  {100 * ahead['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
            cells.append(cell)
        out.add_row(system["name"], *cells)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder of the run directories"
    )
    parser.add_argument("--json", type=Path)
    args, options = parser.parse_known_args()
    results = [run_seed(s, args.runs / f"gains-seed-{s}", options) for s in args.seeds]
    Console(width=200).print(table(results))
    if args.json:
        write_json(args.json, {"environment": environment(), "runs": results})


if __name__ == "__main__":
    main()
