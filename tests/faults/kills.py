"""Kill a small run anywhere, go on, and end with what an undisturbed run has.

    python -m tests.faults.kills --runs 200 --jobs 2 --json FILE

A run goes through every stage of `malt_fast.train` and is killed (SIGKILL) one to four times: at a
random moment, or inside a random write, sync or rename of a file, before it, after it or half-way.
Then it is let to its end. What must be equal: trees, pairs, adapters and results; and no output may
be in the store twice, as one that was committed and sampled again would be.

With --changes, some of the killed attempts have other settings, a clock that jumps by a year now
and then, or both: what they leave in the run must not find its way into the results either. Such an
attempt may be refused, in one sentence.

Children are forked from a process that has imported everything and computed nothing.
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
import traceback
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import malt_fast.training.trainer
from malt_fast import train
from malt_fast.store import live_segment, manifest, store
from malt_fast.utils import files
from tests.small_run import FAST, content, write_model, write_questions
from tests.tiny import tiny_llama

OPTIONS = [
    *("--task.name", "jsonl", "--task.grader", "number", "--task.decontaminate", "false"),
    *("--model.device", "cpu", "--report_to", "[]"),
    *(*FAST, "--train.dpo_roles", "[generator,verifier,refiner]"),
    *("--train.sft.max_steps", "4", "--train.dpo.max_steps", "4"),
    *("--train.sft.save_steps", "1", "--train.dpo.save_steps", "1"),
    *("--store.batch", "8", "--store.interval", "0.02", "--engine.batch_size", "16"),
    *("--evaluate.suite", "paper", "--evaluate.calls", "3", "--evaluate.bootstrap", "100"),
]
CHANGES = [
    ("--seed", "5"),
    ("--task.limit", "10"),
    ("--model.name_or_path", "OTHER"),
    ("--model.dtype", "bfloat16"),
    ("--task.grader", "exact"),
    ("--chain", "[generator,refiner]", "--tree.branching", "3,2", "--train.dpo_roles", "[]"),
    ("--tree.branching", "2,2,3"),
    ("--sampling.temperature", "0.7"),
    ("--sampling.max_tokens", "2"),
    ("--engine.name", "replay"),
    ("--engine.name", "openai", "--engine.base_url", "http://127.0.0.1:9/v1"),
    ("--lora.r", "2"),
    ("--train.rounds", "2"),
    ("--train.sft.learning_rate", "0.1"),
    ("--train.regenerate", "sequential"),
]
CALLS = ("write", "fsync", "replace")  # of `os`, as files.py and live_segment.py use it
Attempt = tuple[int, float]  # process, and when it is killed
Program = Callable[[list[str]], int]


@dataclass
class Outcome:
    """What became of a run."""

    kills: list[tuple[str, str]] = field(default_factory=list)  # how, and after which stage
    refused: list[str] = field(default_factory=list)  # changes
    problem: str = ""


def jumping(argv: list[str]) -> int:
    """Train under a clock that jumps back and forth by up to a year."""
    real, rng = time.time, random.Random(len(argv))
    time.time = lambda: real() + rng.choice([0, 0, 1, -1]) * 3.15e7 * rng.random()
    return train.main(argv)


def job(folder: Path, data: Path, model: Path) -> list[str]:
    named = ["--task.path", str(data), "--task.test_path", str(data)]
    return [*OPTIONS, *named, "--model.name_or_path", str(model), "--run", str(folder)]


def start(
    argv: list[str], log: Path, die_in: tuple[int, str] = (0, ""), program: Program = train.main
) -> int:
    """Fork a child that trains; its process. die_in: which call of CALLS kills it, and where."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        torch.set_num_threads(1)
        store.MOST_ROWS = 50  # so that segments are sealed
        calls = arm(*die_in)
        status = program(argv)
        print(f"calls: {calls()}", flush=True)
        os._exit(status)
    except BaseException:
        traceback.print_exc()
        os._exit(70)


def arm(number: int, where: str) -> Callable[[], int]:
    """Let call `number` of CALLS kill this process: before it, after it, or half-way.

    Returns what tells how many calls there were.
    """
    count = 0

    def wrapped(name: str) -> Any:
        real = getattr(os, name)

        def call(*args: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                if where == "half-way" and name == "write":
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                if where == "after":
                    real(*args)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)

        return call

    faulty = SimpleNamespace(**{**vars(os), **{name: wrapped(name) for name in CALLS}})
    files.os = live_segment.os = faulty  # type: ignore[attr-defined]
    return lambda: count


def disturbed(
    rng: random.Random,
    folder: Path,
    argv: list[str],
    seconds: float,
    calls: int,
    outcome: Outcome,
    changes: bool = False,
) -> Generator[Attempt, int, None]:
    """Start the run, record how it ended, start it again, and let it end at last."""
    log = folder.with_suffix(".log")
    whole = str(folder.parent / "whole" / "config.yaml")  # all settings, to go back to
    plain = [*argv, "--config", whole, "--overwrite"] if changes else argv
    for left in range(rng.randint(1, 4)):  # of the run, there is less each time
        other = rng.choice(CHANGES) if changes and rng.random() < 0.7 else ()
        argv = [*plain, *(word.replace("OTHER", str(folder.parent / "other")) for word in other)]
        program = jumping if changes and rng.random() < 0.3 else train.main
        if rng.random() < 0.5:
            after = rng.uniform(0, seconds / (1 if changes else 2**left))
            status = yield start(argv, log, program=program), time.monotonic() + after
            kind = "at a moment"
        else:
            where = rng.choice(["before", "after", "half-way"])
            die_in = rng.randint(1, calls if changes else calls >> left), where
            status = yield start(argv, log, die_in, program), float("inf")
            kind = f"{where} a file operation"
        if status == -signal.SIGKILL:
            outcome.kills.append((kind, last_stage(folder)))
        elif status == 2 and other and "Traceback" not in log.read_text():
            outcome.refused.append(" ".join(other))
        elif status:
            outcome.problem = f"ended with status {status}"
            return
    status = yield start(plain, log), float("inf")
    if status:
        outcome.problem = f"ended with status {status} at last"


def last_stage(folder: Path) -> str:
    """What a run did last before it was killed."""
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        stage: str = json.loads(lines[-1])["stage"]
    except (OSError, IndexError, ValueError):
        return "nothing"
    return stage


def results(folder: Path) -> dict[str, bytes]:
    """What equal runs share."""
    names = [*folder.glob("round-0/data/*/*"), *folder.glob("tables/*"), folder / "evaluation.json"]
    names += [folder / "curves.svg", *folder.glob("adapters/*/*/adapter_model.safetensors")]
    contents = {str(name.relative_to(folder)): name.read_bytes() for name in names}
    for forest in ("round-0/forest.arrows", "evaluation.arrows"):
        contents[forest] = content(folder, forest)
    return contents


def sampled(folder: Path) -> Counter[bytes]:
    """How often each output was committed."""
    from malt_fast.store.segments import scan_parts

    opened = store.open_store(folder / "samples", writable=False)
    paths = manifest.segment_files(folder / "samples")
    parts = [part for path in paths for part in scan_parts(path, opened.head)]
    return Counter(key.tobytes() for part in parts for key in part.keys)


def judge(folder: Path, expected: dict[str, bytes], outputs: int | None) -> str:
    """What is wrong with a run that has ended; empty if nothing is. outputs: how many it has."""
    got = results(folder)
    differing = sorted(k for k in expected.keys() | got.keys() if expected.get(k) != got.get(k))
    if differing:
        return f"differs: {', '.join(differing)}"
    often = sampled(folder)
    if len(often) != (outputs or len(often)) or max(often.values()) > 1:
        return f"{len(often)} outputs, {outputs} expected; {(Counter(often.values()))} times each"
    left = [str(p.relative_to(folder)) for p in folder.rglob("*") if ".new" in p.name]
    return f"left behind: {', '.join(left)}" if left else ""


def undisturbed(work: Path, data: Path, model: Path) -> tuple[dict[str, bytes], int, float, int]:
    """Results, outputs, seconds and calls of a run that nobody kills."""
    folder, log = work / "whole", work / "whole.log"
    begun = time.monotonic()
    _, status = os.waitpid(start(job(folder, data, model), log), 0)
    if status:
        raise SystemExit(log.read_text()[-3000:])
    calls = int(log.read_text().rpartition("calls: ")[2])
    return results(folder), len(sampled(folder)), time.monotonic() - begun, calls


def run_all(
    runs: int, kills: int, jobs: int, seed: int, work: Path, changes: bool = False
) -> dict[str, Any]:
    data, model = write_questions(work / "questions.jsonl"), work / "model"
    if not (pid := os.fork()):
        write_model(model)
        tiny_llama(work / "other", chat_template=True, layers=1, seed=1)
        os._exit(0)
    os.waitpid(pid, 0)
    expected, outputs, seconds, calls = undisturbed(work, data, model)
    print(f"undisturbed: {seconds:.1f} s, {outputs} outputs, {calls} file operations", flush=True)
    active: dict[int, tuple[int, float, Generator[Attempt, int, None]]] = {}
    outcomes: list[Outcome] = []
    begun = time.monotonic()

    def more() -> bool:  # a run that ended before its moment came is none of them
        hit = [len(one.kills) for one in outcomes if one.kills or one.problem]
        return len(hit) + len(active) < runs or sum(hit) < kills

    while active or more():
        while len(active) < jobs and more():
            number = len(outcomes)
            outcomes.append(Outcome())
            argv, rng = job(work / str(number), data, model), random.Random(f"{seed} {number}")
            parts = argv, seconds, calls, outcomes[number], changes
            case = disturbed(rng, work / str(number), *parts)
            pid, until = next(case)
            active[pid] = (number, until, case)
        time.sleep(0.002)
        for pid, (number, until, case) in list(active.items()):
            if time.monotonic() >= until:
                os.killpg(pid, signal.SIGKILL)
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            del active[pid]
            try:
                again, until = case.send(os.waitstatus_to_exitcode(status))
                active[again] = (number, until, case)
            except StopIteration:
                one, folder = outcomes[number], work / str(number)
                one.problem = one.problem or judge(folder, expected, None if changes else outputs)
                if one.problem:  # its folder stays to be looked at
                    print(f"run {number}: {one.problem} {one.kills}", flush=True)
                else:
                    shutil.rmtree(folder)
    every = [kill for one in outcomes for kill in one.kills]
    return {
        "runs": len(outcomes),
        "killed_runs": sum(bool(one.kills) for one in outcomes),
        "kills": len(every),
        "kills_of_a_run": Counter(len(one.kills) for one in outcomes),
        "kills_by_kind": Counter(kind for kind, _ in every),
        "kills_after": Counter(stage for _, stage in every),
        "refused_changes": Counter(text for one in outcomes for text in one.refused),
        "undisturbed_seconds": round(seconds, 2),
        "outputs": outputs,
        "file_operations": calls,
        "seconds": round(time.monotonic() - begun, 1),
        "problems": {str(n): f"{t.problem} {t.kills}" for n, t in enumerate(outcomes) if t.problem},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=200, help="that are killed at least once")
    parser.add_argument("--kills", type=int, default=0, help="at least, in more runs if need be")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--changes", action="store_true", help="of settings and clocks")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    assert malt_fast.training.trainer
    work = args.work or Path(tempfile.mkdtemp(prefix="faults-"))
    work.mkdir(parents=True, exist_ok=True)
    report = run_all(args.runs, args.kills, args.jobs, args.seed, work, args.changes)
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
