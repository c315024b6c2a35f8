"""A long run in the small: a quarter of a million trees, failing engines, kills, and flat memory.

    python -m tests.faults.soak --trees 250000 --kills 6 --json FILE

An engine that costs nothing answers out of order, holds some requests back, gives up on some, and
breaks down now and then; the process is killed and started again. At the end every node of every
tree is there with the tokens that its request gives, or failed with what stands below it; nothing
was sampled twice that was committed; and memory grew with neither trees nor samples.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from malt_fast._core.forest import DONE, FAILED
from malt_fast.engines import (
    Completion,
    Policy,
    Request,
    SamplingParams,
)
from malt_fast.engines.stored import StoredEngine
from malt_fast.forest.build import build_forest
from malt_fast.sampling.expand import grow, node_seed, shape_from_branching
from malt_fast.sampling.sample import row_map
from malt_fast.store.store import open_store
from malt_fast.tasks.task import Question
from malt_fast.utils.errors import MaltError

SHAPE = shape_from_branching([3, 3, 3], [Policy("simulated")] * 3)
PARAMS = [SamplingParams()] * 3
WANTS = 2048
SETTINGS = {"batch": 4096, "interval": 1.0, "segment_bytes": 32 << 20}


class Questions(Sequence[Question]):
    """Any number of questions that take no memory."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: Any) -> Any:
        return Question(f"q{i}", str(i), "")


class Prompts:
    """A prompt is the role, the question's number, `length` times, and what it reads."""

    def __init__(self, length: int) -> None:
        self.length = length

    def encode_question(self, text: str) -> np.ndarray:
        return np.full(self.length, int(text), np.int32)

    def build(self, role: int, question: np.ndarray, segments: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([[-role], question, *segments]).astype(np.int32)


class Shaky:
    """Answers what is asked, in any order; see the top of this file."""

    wants = WANTS

    def __init__(self, rng: random.Random, breakdown: float) -> None:
        self.rng, self.breakdown, self.requests = rng, breakdown, [*()]
        self.late: list[Request] = []
        self.gave_up = 0

    @property
    def pending(self) -> int:
        return len(self.requests) + len(self.late)

    def submit(self, requests: Sequence[Request]) -> None:
        for request in requests:
            (self.late if self.rng.random() < 0.01 else self.requests).append(request)

    def poll(self) -> list[Completion]:
        if self.rng.random() < self.breakdown:
            raise MaltError("the engine broke down")
        if self.late and (not self.requests or self.rng.random() < 0.02):
            some, self.late = self.late[:64], self.late[64:]
        else:
            self.rng.shuffle(self.requests)
            some, self.requests = self.requests[:256], self.requests[256:]
        return [self.answer(request) for request in some]

    def answer(self, request: Request) -> Completion:
        if self.rng.random() < 1e-4:
            self.gave_up += 1
            return Completion.failed(request.id, "timed out")
        tokens = said(request.seed)
        return Completion(request.id, tokens, np.zeros(len(tokens), np.float32), "stop")

    def figures(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass


def said(seed: int) -> np.ndarray:
    """The output of a request: 1 to 16 tokens."""
    length = 1 + seed % 16
    return (np.arange(length, dtype=np.uint32) * 7919 + seed % 10**6).astype(np.int32)


def anonymous_bytes() -> int:
    """Resident memory that no file can give back (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def run(trees: int, folder: Path, seed: int, breakdown: float, length: int) -> None:
    """One process: sample what is missing, until it is killed or done; then check everything."""
    rng, trace = random.Random(seed), (folder / f"trace-{seed}.jsonl").open("w")
    begun, settled, noted = time.monotonic(), 0, 0
    store = open_store(folder / "samples", **SETTINGS)  # type: ignore[arg-type]
    before, known = anonymous_bytes(), store.next_row
    with row_map(store, trees * (1 + len(SHAPE))) as rows:
        while True:
            shaky = partial(Shaky, rng, breakdown)
            engine = StoredEngine(store, [], shaky, lambda policy: "it", "", rows)
            try:
                with closing(engine):
                    steps = grow(Questions(trees), SHAPE, Prompts(length), PARAMS, engine, 0)  # type: ignore[arg-type]
                    for done, _ in steps:
                        settled += len(done)
                        if settled - noted >= min(100_000, trees):
                            noted = settled
                            line = {
                                "settled": settled,
                                "rows": store.next_row,
                                "sealed": len(store.sealed),
                                "anonymous_mb": (anonymous_bytes() - before) >> 20,
                                "s": round(time.monotonic() - begun, 1),
                            }
                            trace.write(json.dumps(line) + "\n")
                            trace.flush()
                break
            except MaltError as error:
                trace.write(json.dumps({"broke": str(error), "settled": settled}) + "\n")
                trace.flush()
        store.commit_all()
        report = check(trees, folder, rows)
    report |= {"seconds": time.monotonic() - begun, "settled": settled, "known_at_start": known}
    report |= {"sampled": store.next_row - known}
    (folder / "report.json").write_text(json.dumps(report))


def check(trees: int, folder: Path, rows: Any) -> dict[str, Any]:
    """Hold the forest against what every request gives."""
    store = open_store(folder / "samples", writable=False)
    begun = time.monotonic()
    forest = build_forest([slot.parent for slot in SHAPE], trees, rows, store)
    assert forest is not None
    opened = time.monotonic() - begun
    states = forest.state.reshape(trees, -1)[:, 1:]
    parent = np.array([slot.parent for slot in SHAPE])
    above = states[:, np.maximum(parent, 0)]
    assert not ((states == DONE) & (above == FAILED) & (parent >= 0)).any()
    assert (states != 0).all(), "a node is missing"
    drawn = np.random.default_rng(0).integers(0, trees * len(SHAPE), min(200_000, trees * 39))
    for tree, slot in zip(*np.divmod(drawn, len(SHAPE)), strict=True):
        if states[tree, slot] == DONE:
            seed = node_seed(0, f"q{tree}", SHAPE[slot].path)
            node = int(tree) * (1 + len(SHAPE)) + 1 + int(slot)
            assert forest.tokens_of(node).tolist() == said(seed).tolist(), node
    done = int((states == DONE).sum())
    return {
        "done": done,
        "failed": int((states == FAILED).sum()),
        "rows": store.next_row,
        "committed_twice": store.next_row - len(np.unique(rows[rows >= 0])) - unused(store, rows),
        "forest_opened_s": opened,
        "segments": len(store.segments),
        "bytes": sum(path.stat().st_size for path in (folder / "samples").iterdir()),
    }


def unused(store: Any, rows: Any) -> int:
    """Rows of keys that no node has: below a node that an earlier process had and this one failed.

    Counted by key, so that a key committed twice counts once here and shows up above.
    """
    used = np.zeros(store.next_row, np.bool_)
    used[rows[rows >= 0]] = True
    hashes = np.concatenate([segment.hashes for segment in store.segments])
    order = np.concatenate(
        [segment.order.astype(np.int64) + segment.first for segment in store.segments]
    )
    return len(np.setdiff1d(np.unique(hashes[~used[order]]), hashes[used[order]]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trees", type=int, default=250_000)
    parser.add_argument("--prompt", type=int, default=1, help="tokens of a question")
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--every", type=float, default=60, help="mean seconds between kills")
    parser.add_argument("--breakdown", type=float, default=2e-5, help="chance of one, a poll")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="internal: run one process there")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.folder:
        run(args.trees, args.folder, args.seed, args.breakdown, args.prompt)
        return 0
    folder, rng = Path(tempfile.mkdtemp(prefix="soak-")), random.Random(args.seed)
    begun, killed = time.monotonic(), 0
    for seed in range(args.kills + 1):
        command = [sys.executable, "-m", "tests.faults.soak", "--trees", str(args.trees)]
        command += [
            "--prompt",
            str(args.prompt),
            "--folder",
            str(folder),
            "--breakdown",
            str(args.breakdown),
        ]
        child = subprocess.Popen([*command, "--seed", str(seed)])
        try:
            last = seed == args.kills
            child.wait(timeout=None if last else rng.uniform(0.2, 1.8) * args.every)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            killed += 1
            child.wait()
        if (folder / "report.json").exists():
            break
    report = json.loads((folder / "report.json").read_text())
    lines = [json.loads(line) for path in sorted(folder.glob("trace-*")) for line in path.open()]
    memory = [line for line in lines if "anonymous_mb" in line]
    tenth = [line["anonymous_mb"] for line in memory if line["settled"] >= 1_000_000]
    report |= {
        "trees": args.trees,
        "kills": killed,
        "breakdowns": sum("broke" in line for line in lines),
        "total_seconds": round(time.monotonic() - begun, 1),
        "anonymous_mb_least_after_a_million": min(tenth, default=0),
        "anonymous_mb_most": max((line["anonymous_mb"] for line in memory), default=0),
        "settings": SETTINGS | {"wants": WANTS},
        "trace": memory[:: max(1, len(memory) // 40)],
    }
    shutil.rmtree(folder)
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return int(report["committed_twice"] != 0)


if __name__ == "__main__":
    sys.exit(main())
