"""Kill `sweep`, `export`, `report` and `evaluate`: done again, they end as if never killed.

    python -m tests.faults.commands --cases 100 --json FILE

Each case is a copy of one finished run and one command, which is killed (SIGKILL) one to three
times, at a random moment or in a file operation (as in kills.py), and then let to its end. Every
file that it wrote must be what an undisturbed command writes, what it only reads must be as it was,
and nothing half-written may be left.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from malt_fast import evaluate, export, report, sweep
from tests.faults.kills import content, job, start, write_model, write_questions

COMMANDS: dict[str, tuple[Any, list[str]]] = {
    "sweep": (sweep.main, ["--sweep", "tree.threshold=0.3,0.6"]),
    "export": (export.main, []),
    "export --out": (export.main, ["--out", "OUT"]),
    "export --merged": (export.main, ["--merged"]),
    "report": (report.main, []),
    "report --out": (report.main, ["--out", "OUT.html"]),
    "evaluate": (evaluate.main, ["--seed", "0", "--evaluate.votes", "2"]),
}
# What tells of times and processes, or is stored in the order in which it came.
OWN = ("metrics.jsonl", "tensorboard", "lock", "samples", "environment.json")
NAMING = ("config.yaml", "report.html")  # which name the folder of the case


def words_of(command: str, folder: Path) -> list[str]:
    """The command line of a command on the run in `folder`."""
    _, words = COMMANDS[command]
    out = str(folder.parent / "exported")
    return ["--run", str(folder), *(word.replace("OUT", out) for word in words)]


def everything(home: Path, command: str) -> dict[str, bytes]:
    """The content of every file below `home` that equal commands share."""
    own = OWN if command.startswith("report") else OWN + NAMING
    return dict(_contents(home, own))


def _contents(home: Path, own: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    for path in sorted(home.rglob("*")):
        name = str(path.relative_to(home))
        if path.is_dir() or set(path.relative_to(home).parts) & set(own):
            continue
        if path.suffix == ".arrows":
            run = next(one for one in path.parents if (one / "samples").is_dir())
            yield name, content(run, str(path.relative_to(run)))
        else:
            yield name, path.read_bytes()


def once(command: str, folder: Path, log: Path, moment: float, die_in: tuple[int, str]) -> int:
    """Run a command, and kill it after `moment` seconds or in a file operation; how it ended."""
    pid = start(words_of(command, folder), log, die_in, COMMANDS[command][0])
    until = time.monotonic() + moment
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            os.killpg(pid, signal.SIGKILL)
            until = float("inf")
        time.sleep(0.002)


def differences(got: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    return sorted(
        name for name in got.keys() | expected.keys() if got.get(name) != expected.get(name)
    )


def copied(run: Path, home: Path) -> Path:
    """A copy of the run in a folder of the same name: reports and cards name it."""
    home.mkdir()
    shutil.copytree(run, home / run.name)
    return home / run.name


def run_case(
    rng: random.Random, run: Path, home: Path, command: str, whole: tuple[float, int]
) -> Iterator[str]:
    """Kills a command on a copy of `run` below `home`; yields how, and lets it to its end."""
    folder, log = copied(run, home), home.with_suffix(".log")
    seconds, calls = whole
    for _ in range(rng.randint(1, 3)):
        if rng.random() < 0.4:
            moment, die_in, kind = rng.uniform(0, seconds), (0, ""), "at a moment"
        else:
            where = rng.choice(["before", "after", "half-way"])
            moment, die_in = float("inf"), (rng.randint(1, max(1, calls)), where)
            kind = f"{where} a file operation"
        status = once(command, folder, log, moment, die_in)
        if status == -signal.SIGKILL:
            yield kind
        elif status:
            raise SystemExit(f"{command} ended with status {status}: {log.read_text()[-800:]}")
    if status := once(command, folder, log, float("inf"), (0, "")):
        raise SystemExit(f"{command} ended with {status} at last: {log.read_text()[-800:]}")


def finished_run(work: Path) -> Path:
    data, model = write_questions(work / "questions.jsonl"), work / "model"
    if not (pid := os.fork()):
        write_model(model)
        os._exit(0)
    os.waitpid(pid, 0)
    folder = work / "run"
    _, status = os.waitpid(start(job(folder, data, model), work / "run.log"), 0)
    if status:
        raise SystemExit((work / "run.log").read_text()[-3000:])
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=COMMANDS)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    work = args.work or Path(tempfile.mkdtemp(prefix="commands-"))
    work.mkdir(parents=True, exist_ok=True)
    begun, run = time.monotonic(), finished_run(work)
    names = [args.only] if args.only else [*COMMANDS]
    expected, whole = {}, {}
    for name in names:
        home, started = work / f"whole {name}", time.monotonic()
        log = home.with_suffix(".log")
        if once(name, copied(run, home), log, float("inf"), (0, "")):
            raise SystemExit(log.read_text()[-3000:])
        whole[name] = time.monotonic() - started, int(log.read_text().rpartition("calls: ")[2])
        expected[name] = everything(home, name)
        print(f"undisturbed: {name}: {whole[name]}", flush=True)
    kinds, problems, killed = Counter[str](), dict[str, str](), Counter[str]()
    for case in range(args.cases):
        rng, name = random.Random(f"{args.seed} {case}"), names[case % len(names)]
        home = work / str(case)
        how: list[str] = []
        try:
            for kind in run_case(rng, run, home, name, whole[name]):
                how.append(kind)
            differing = differences(everything(home, name), expected[name])
            problem = f"{name} differs: {', '.join(differing)}" if differing else ""
        except SystemExit as stop:
            problem = str(stop)
        kinds.update(how)
        killed[name] += bool(how)
        if problem:
            problems[str(case)] = f"{problem} {how}"
            print(f"case {case}: {problems[str(case)]}", flush=True)
        else:
            shutil.rmtree(home)
    told = {
        "cases": args.cases,
        "killed": killed,
        "kills": kinds.total(),
        "kills_by_kind": kinds,
        "seconds": round(time.monotonic() - begun, 1),
        "problems": problems,
    }
    print(json.dumps(told, indent=2))
    if args.json:
        args.json.write_text(json.dumps(told, indent=2) + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
