"""math-verify in worker processes that can be killed, for pairs that the C++ core cannot decide.

A worker runs this module as a program, so it starts from any thread, under Ray and in a notebook.
It reads JSON lines [gold, answer, limit] and writes 1 or 0. A pair that takes more than `limit`
seconds of processor time ends the worker and counts as wrong, timed out; another worker goes on.
Workers take about two seconds to start, so they outlive a call; they end with their parent.
"""

import atexit
import json
import os
import re
import resource
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from malt_fast.utils.errors import MaltError

# refused: hostile or endless; no proof: math-verify's word would be none
Outcome = Literal["equal", "different", "no proof", "refused", "timed out"]
LIMIT = 1.0  # seconds of processor time per pair: a busy machine changes no verdict
INSTALL = "grading mathematics needs math-verify: pip install 'math-verify[antlr4_13_2]'"
STARTING = 60.0  # seconds, by the clock, to wait for a worker to start,
ANSWERING = 60.0  # and for one that sleeps; one that works is ended by LIMIT
DIGITS = 120  # after the point, in which two numbers must agree
MEMORY = 4 << 30  # bytes of address space that a worker may use after its start

# What no answer needs and slows a parser down: towers of powers, deep nesting, endless digits.
_WILD = re.compile(
    r'__|"|\d{40}|\d\s*\^\s*\{?\s*-?\d[\d.]{0,9}\s*\^|\^\s*\{?\s*-?\d{3}|\d{2}[)}\s]*!'
)
_DEEP = 16

# What its "equal" is taken for: expressions, sets, intervals, tuples and matrices of these.
_PLAIN = """
    frac dfrac tfrac cfrac sqrt binom dbinom tbinom cdot times div pm mp left right big Big bigl
    bigr Bigl Bigr quad qquad displaystyle textstyle limits infty emptyset varnothing cup cap
    setminus in begin end mathbb mathbf mathrm mathcal boldsymbol vec lvert rvert vert lfloor
    rfloor lceil rceil circ sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg
    exp det gcd max min int sum prod le leq ge geq lt gt lbrace rbrace lbrack rbrack pi alpha
    beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho
    sigma tau phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega
"""
_COMMANDS = frozenset(_PLAIN.split())
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_FUNCTION = re.compile(r"(?<![A-Za-z])(?:sqrt|sin|cos|tan|log|ln|exp|pi|inf)(?![A-Za-z])")
_OTHER_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{(?!\w*matrix\}|array\})")
_CONDITION = re.compile(r"\\\{[^{}]*[|:]")  # in a set
_SIGNS = re.compile(r"[<>]=|_\{\s*[A-Za-z]\s*=")  # and the range of a sum
_PROSE = re.compile(r"=|\.\.|[A-Za-z]{3,}")
_BOUND = re.compile(r"[<>]|\\(?:le|leq|ge|geq|lt|gt)(?![A-Za-z])")


def is_tame(text: str) -> bool:
    """Whether a text is safe for a symbolic parser."""
    if len(text) > 400 or _WILD.search(text) or not text.isprintable():
        return False
    depth = deepest = 0
    for char in text:
        depth += (char in "{([") - (char in "})]")
        deepest = max(deepest, depth)
    return deepest <= _DEEP


def value_of(text: str) -> str:
    """What follows the name or the calculation that an equation begins with: 5 for f(x) = 5."""
    head, sign, value = text.rpartition("=")
    if not sign or head.count("{") != head.count("}") or re.search(r"[,;]", head):
        return text
    return value if "=" in head or not re.search(r"[\d+*/^<>|-]", head) else text


def is_proof(gold: str, answer: str) -> bool:
    """Whether math-verify's "equal" is taken for this pair; bounds must be of one variable."""
    names = []
    for text in (gold, answer):
        if _OTHER_ENVIRONMENT.search(text) or _CONDITION.search(text):
            return False
        if not _COMMANDS.issuperset(_COMMAND.findall(text)):
            return False
        rest = re.sub(r"\{\w*matrix\}|\{array\}(\{[lcr|]*\})?", "", _COMMAND.sub(" ", text))
        rest = _SIGNS.sub(" ", _FUNCTION.sub(" ", rest))
        if _PROSE.search(rest):
            return False
        names.append(set(re.findall("[A-Za-z]", rest)))
    bounded = _BOUND.search(gold) or _BOUND.search(answer)
    return not bounded or (names[0] == names[1] and len(names[0]) == 1)


class Worker:
    """One worker process; not thread-safe."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],  # -P: no imports from the directory
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        if self._read(STARTING) != b"ready\n":
            self.kill()
            raise MaltError(INSTALL)

    def ask(self, gold: str, answer: str, limit: float) -> Outcome | None:
        """The outcome of a pair; None if the worker died for another reason than the time limit."""
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps([gold, answer, limit]).encode() + b"\n")
            line = self._read(ANSWERING)
        except BrokenPipeError:
            line = b""
        if line:
            return "equal" if line == b"1\n" else "different"
        self.kill()
        late = line is None or self.process.returncode == -signal.SIGPROF
        return "timed out" if late else None

    def _read(self, patience: float) -> bytes | None:
        """A line; None if none comes in that many seconds, b"" if the process has died."""
        assert self.process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            return self.process.stdout.readline() if selector.select(patience) else None

    @property
    def lives(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()


class Workers:
    """The workers of this process: at most one per core at a time."""

    def __init__(self) -> None:
        self.idle: list[Worker] = []
        self.room = threading.BoundedSemaphore(os.cpu_count() or 1)

    def ask(self, gold: str, answer: str, limit: float) -> Outcome:
        with self.room:
            # If a worker was killed from outside, a new one gets its pair.
            for worker in (self._take(), None):
                worker = worker or Worker()
                outcome = worker.ask(gold, answer, limit)
                if worker.lives:
                    self.idle.append(worker)
                if outcome:
                    return outcome
        return "refused"

    def _take(self) -> Worker:
        while self.idle:
            try:
                worker = self.idle.pop()
            except IndexError:  # another thread was faster
                break
            if worker.lives:
                return worker
        return Worker()

    def close(self) -> None:
        while self.idle:
            self.idle.pop().kill()


_workers = Workers()
atexit.register(lambda: _workers.close())


def _forget() -> None:
    """A forked child starts its own workers."""
    global _workers
    _workers = Workers()


os.register_at_fork(after_in_child=_forget)


def equal(
    pairs: Sequence[tuple[str, str]], workers: int = 1, limit: float = LIMIT
) -> list[Outcome]:
    """math-verify's outcome for each (gold, answer). Raises MaltError if it is not installed."""
    pairs = [(_one_line(gold), _one_line(answer)) for gold, answer in pairs]
    outcomes: list[Outcome] = [
        "no proof" if all(map(is_tame, pair)) else "refused" for pair in pairs
    ]
    pairs = [(value_of(gold), value_of(answer)) for gold, answer in pairs]
    asked = [i for i, pair in enumerate(pairs) if outcomes[i] != "refused" and is_proof(*pair)]
    if not asked:
        return outcomes
    if not find_spec("math_verify"):
        raise MaltError(INSTALL)
    with ThreadPoolExecutor(min(workers, len(asked))) as threads:
        try:
            answers = threads.map(lambda i: _workers.ask(*pairs[i], limit), asked)
            for i, outcome in zip(asked, answers, strict=True):
                outcomes[i] = outcome
        finally:
            threads.shutdown(cancel_futures=True)
    return outcomes


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _serve() -> None:
    """Answer pairs from standard input until it ends."""
    import logging

    from math_verify import parse, verify
    from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig

    logging.disable(logging.CRITICAL)
    out, sys.stdout = sys.stdout, sys.stderr  # libraries may print
    configs = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())

    def read(text: str) -> list:
        text = text.replace("\\$", "").replace("\\!", "")
        return parse(f"\\boxed{{{text}}}", configs, parsing_timeout=None, raise_on_error=False)

    def same(gold: str, answer: str) -> bool:
        x, y = read(gold), read(answer)
        whole = len(x) > 1 and len(y) > 1  # a parsed value and its text: no half-read formula
        return whole and verify(x, y, DIGITS, 2 * DIGITS, strict=True, timeout_seconds=None)

    same("\\frac{1}{2}", "0.5")  # imports what is imported late
    print("ready", file=out, flush=True)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    for line in sys.stdin:
        gold, answer, limit = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, limit)  # its signal ends the process, even in C code
        try:
            right = same(gold, answer)
        except Exception:  # sympy raises all kinds
            right = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(int(right), file=out, flush=True)


if __name__ == "__main__":
    _serve()
