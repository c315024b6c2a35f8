"""math-verify in worker processes that can be killed: equality that our own grammar cannot tell.

A worker is this module as a program, so it starts from any thread, under Ray and in a notebook. It
reads a JSON line [gold, answer] and writes 1 or 0. One that takes longer than its limit is killed
and replaced, and the answer counts as wrong, timed out.
"""

import json
import queue
import re
import selectors
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Literal

from malt_fast.errors import MaltError

Outcome = Literal["equal", "different", "refused", "timed out"]  # refused: hostile or endless
LIMIT = 1.5  # seconds a pair; math-verify's own limit is an alarm, which only a main thread has
INSTALL = "grading mathematics needs math-verify: pip install 'math-verify[antlr4_13_2]'"
START = 60.0  # seconds that a worker may take to start

# What no answer needs, and a parser suffers from: towers of powers, deep nesting, endless digits.
_WILD = re.compile(r'__|"|\d{40}|\d\s*\^\s*\{?\s*-?\d[\d.]{0,9}\s*\^|\^\s*\{?\s*-?\d{4}')
_DEEP = 16


def is_tame(text: str) -> bool:
    """May a symbolic parser see this?"""
    if len(text) > 400 or _WILD.search(text) or not text.isprintable():
        return False
    depth = deepest = 0
    for char in text:
        depth += (char in "{([") - (char in "})]")
        deepest = max(deepest, depth)
    return deepest <= _DEEP


class Worker:
    """One process; not for two threads at once."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "malt_fast.symbolic"],  # -P: nothing from the directory
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        if self._read(START) != b"ready\n":
            self.kill()
            raise MaltError(INSTALL)

    def ask(self, gold: str, answer: str, limit: float) -> Outcome:
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps([gold, answer]).encode() + b"\n")
            told = self._read(limit)
        except BrokenPipeError:  # it died of the pair before
            told = b""
        return "equal" if told == b"1\n" else "different" if told == b"0\n" else "timed out"

    def _read(self, limit: float) -> bytes:
        """A line; b"" if none comes in time or the process has died."""
        assert self.process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            return self.process.stdout.readline() if selector.select(limit) else b""

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()


def equal(
    pairs: Sequence[tuple[str, str]], workers: int = 1, limit: float = LIMIT
) -> list[Outcome]:
    """What math-verify says of each (gold, answer). Raises MaltError where it is not installed."""
    tame = [i for i, pair in enumerate(pairs) if all(map(is_tame, pair))]
    outcomes: list[Outcome] = ["refused"] * len(pairs)
    if not tame:
        return outcomes
    if not find_spec("math_verify"):
        raise MaltError(INSTALL)
    count = min(workers, len(tame))
    with ThreadPoolExecutor(count) as threads:
        idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()

        def ask(pair: tuple[str, str]) -> Outcome:
            worker = idle.get()
            outcome = worker.ask(*pair, limit)
            if outcome == "timed out":
                worker.kill()
                worker = Worker()
            idle.put(worker)
            return outcome

        try:
            list(threads.map(lambda _: idle.put(Worker()), range(count)))
            for i, outcome in zip(tame, threads.map(ask, [pairs[i] for i in tame]), strict=True):
                outcomes[i] = outcome
        finally:
            threads.shutdown(cancel_futures=True)
            while not idle.empty():
                idle.get().kill()
    return outcomes


def _serve() -> None:
    """Answer pairs from standard input until it ends."""
    import logging

    from math_verify import parse, verify
    from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig

    logging.disable(logging.CRITICAL)
    told, sys.stdout = sys.stdout, sys.stderr  # libraries may print
    configs = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())

    def read(text: str) -> list:
        text = text.replace("\\$", "").replace("\\!", "")
        return parse(f"\\boxed{{{text}}}", configs, parsing_timeout=None, raise_on_error=False)

    def same(gold: str, answer: str) -> bool:
        x, y = read(gold), read(answer)
        whole = len(x) > 1 and len(y) > 1  # a parsed value and its text: no half-read formula
        return whole and verify(x, y, strict=True, timeout_seconds=None)

    same("\\frac{1}{2}", "0.5")  # loads what is loaded late
    print("ready", file=told, flush=True)
    for line in sys.stdin:
        try:
            right = same(*json.loads(line))
        except Exception:  # sympy raises what it likes
            right = False
        print(int(right), file=told, flush=True)


if __name__ == "__main__":
    _serve()
