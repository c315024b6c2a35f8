"""The cost of a run's live view, loggers, plan figures and report.

    python benchmarks/bench_reporting.py [--runs N] [--json FILE]

Trains the bundled demonstration on a pseudo-terminal, where the view is drawn, and times every call
that only reports. For the thread that draws, only its processor time counts, because it mostly
waits. A call inside another one counts for the outer one.
"""

import argparse
import contextlib
import functools
import os
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from common import environment, print_table, write_json
from rich.live import Live

from malt_fast import method, train
from malt_fast.results import write_report
from malt_fast.runs.live_view import View
from malt_fast.runs.loggers import Loggers
from malt_fast.sampling.progress import SamplingFacts

PARTS: list[tuple[str, Any, str]] = [
    ("counting outputs", SamplingFacts, "see"),
    ("counting steps", View, "advance"),
    ("drawing the view", Live, "refresh"),
    ("loggers", Loggers, "log"),
    ("loggers", Loggers, "close"),
    ("facts of the plan", method, "fill_facts"),
    ("the report", write_report, "write_report"),
]


@contextlib.contextmanager
def timing() -> Iterator[dict[str, float]]:
    """Seconds spent in each part inside this context."""
    spent: dict[str, float] = defaultdict(float)
    here = threading.local()

    def timed(part: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(inner)
        def outer(*args: Any, **named: Any) -> Any:
            if getattr(here, "within", False):
                return inner(*args, **named)
            main = threading.current_thread() is threading.main_thread()
            clock = time.perf_counter if main else time.thread_time
            here.within, begun = True, clock()
            try:
                return inner(*args, **named)
            finally:
                spent[part] += clock() - begun
                here.within = False

        return outer

    with contextlib.ExitStack() as stack:
        for part, owner, name in PARTS:
            patch = mock.patch.object(owner, name, timed(part, getattr(owner, name)))
            stack.enter_context(patch)
        yield spent


@contextlib.contextmanager
def terminal() -> Iterator[list[int]]:
    """Standard output as a pseudo-terminal; yields the number of bytes written to it, in a list."""
    ours, theirs = os.openpty()
    count = [0]

    def drain() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while read := os.read(ours, 65536):
                count[0] += len(read)

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    with open(theirs, "w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        yield count
    reader.join(5)
    os.close(ours)


def measure(folder: Path) -> dict[str, float]:
    """Seconds of each part and of the whole run."""
    with terminal() as written, timing() as spent:
        begun = time.perf_counter()
        if train.main(["--run", str(folder)]):
            raise SystemExit("the run failed")
        whole = time.perf_counter() - begun
    assert written[0] > 20_000, "the view was not drawn"
    return {**{part: spent.get(part, 0.0) for part, _, _ in PARTS}, "all of the run": whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        runs = [measure(Path(made) / str(i)) for i in range(args.runs)]
    whole = statistics.median(run["all of the run"] for run in runs)
    names = list(runs[0])
    spent = {name: statistics.median(run[name] for run in runs) for name in names}
    parts = sum(spent[name] for name in names[:-1])
    rows = [[name, f"{s:.2f}", f"{100 * s / whole:.1f} %"] for name, s in spent.items()]
    rows.insert(-1, ["all reporting", f"{parts:.2f}", f"{100 * parts / whole:.1f} %"])
    print_table("cost of reporting", ["part", "seconds", "of the run"], rows)
    if args.json:
        write_json(args.json, environment() | {"runs": runs, "share": parts / whole})


if __name__ == "__main__":
    main()
