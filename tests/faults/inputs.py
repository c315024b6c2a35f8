"""Bad input to the programs ends in success, or in one sentence and exit status 2, in seconds.

    python -m tests.faults.inputs --cases 10000 --json FILE

The cases come from input_cases.py. Each runs a program's main() in this process, in a working
folder of its own. Heavy work that a case is not about is not started.
"""

import argparse
import contextlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from common import environment, write_json
from hypothesis import HealthCheck, Phase, given, settings

from malt_fast import evaluate, serve, sweep, train
from malt_fast.utils.errors import MaltError
from tests.faults.input_cases import AGAIN, FOLDER, KINDS, OTHER, RUN, Case, Content, Damage, Depth
from tests.small_run import write_model, write_questions

PACKAGES = ("malt-fast", "hypothesis", "peft", "pydantic", "torch", "transformers")
SECONDS = 60  # after which a case counts as hanging
MEMORY = 4 << 30  # bytes a case may add to the process
LONGEST = 1500  # characters of a sentence
PYTHON = re.compile(r"Traceback|object has no attribute|NoneType|<class |object at 0x|\[Errno")
MAINS = {
    "train": train.main,
    "evaluate": evaluate.main,
    "sweep": sweep.main,
    "serve": serve.main,
}


class Passed(BaseException):
    """The checks have passed, and heavy work would start."""


class Hangs(BaseException):
    """The program takes too long, or too much memory."""


def passed(*_: Any, **__: Any) -> NoReturn:
    raise Passed


# Heavy work that is not started, by how far a case goes.
HEAVY: dict[Depth, tuple[str, ...]] = {
    "checks": (
        *("method.train_round", "evaluation.run.evaluate_run", "sweep_runs.train"),
        "serving.pipeline.Pipeline.open",
    ),
    "sampling": ("method.train_role",),
    "all": ("serving.engine_thread.EngineThread",),
}


@cache
def world() -> tempfile.TemporaryDirectory[str]:
    """A folder that all cases share: a model, questions, finished runs."""
    home = tempfile.TemporaryDirectory(prefix="malt-inputs-")
    with contextlib.chdir(home.name), contextlib.redirect_stdout(io.StringIO()):
        write_model(Path("model"))
        lines = write_questions(Path("questions.jsonl")).read_text().splitlines(keepends=True)
        Path("questions.jsonl").write_text("".join(lines[:6]))
        assert train.main(RUN) == 0
        shutil.copytree("run", "swept")
        assert sweep.main(AGAIN["sweep"]) == 0
    return home


# ---- a case's working folder ----


def prepare(case: Case, home: Path) -> None:
    """Lay out the current folder."""
    Path("model").symlink_to(home / "model")
    shutil.copy(home / "questions.jsonl", ".")
    run = "swept" if case.program == "sweep" and case.depth == "all" else "run"
    if case.depth == "all" or case.program != "train" or "run" in case.words:
        shutil.copytree(home / run, run)
    for name, content in {**FOLDER, **case.files}.items():
        write(Path(name), content)
    for one in case.damage:
        apply(one, Path(run), home / OTHER)


def write(path: Path, content: Content) -> None:
    if content is None:
        path.mkdir(parents=True)
    elif isinstance(content, str):
        path.symlink_to(content)
    else:
        path.write_bytes(content)


def apply(damage: Damage, run: Path, other: Path) -> None:
    """Break one file or folder of a run; `other` is a run with other settings."""
    there = sorted(
        path for path in [run, *run.rglob("*")] if path != run or damage.number % 50 == 0
    )
    if not there:
        return
    path, rng = there[damage.place % len(there)], random.Random(damage.number)
    if damage.how in ("delete", "folder", "file", "dangle", "loop"):
        remove(path)
        put = {"folder": None, "file": b"?", "dangle": "nowhere", "loop": path.name}
        if damage.how in put:
            write(path, put[damage.how])
    elif damage.how == "deny":
        path.chmod(0)
    elif path.is_file() and not path.is_symlink():
        path.write_bytes(changed(damage.how, path, rng, run, other))


def changed(how: str, path: Path, rng: random.Random, run: Path, other: Path) -> bytes:
    """Another content for a file."""
    content = path.read_bytes()
    at = rng.randrange(len(content) + 1)
    if how == "cut":
        return content[:at]
    if how == "flip":
        return content[:at] + bytes(255 - b for b in content[at : at + 1]) + content[at + 1 :]
    if how == "noise":
        return content[:at] + rng.randbytes(9) + content[at + rng.choice([0, 9]) :]
    if how == "other":
        same = [file for file in sorted(other.rglob(f"*{path.suffix}")) if file.is_file()]
        return rng.choice(same).read_bytes() if same else b""
    if how == "swap":
        files = [f for f in sorted(run.rglob("*")) if f.is_file()]
        return rng.choice(files).read_bytes()
    if how in ("json", "shape"):
        return other_shape(content, rng)
    return b""


def other_shape(content: bytes, rng: random.Random) -> bytes:
    """A JSON or YAML text with one value, or all of it, replaced."""
    odd: list[Any] = [None, [], {}, "x", -1, 10**30, 0.5, [[]], True]
    try:
        values = json.loads(content)
    except ValueError:
        return json.dumps(rng.choice(odd)).encode()
    place = values
    while isinstance(place, dict | list) and place:
        key = rng.choice(sorted(place) if isinstance(place, dict) else range(len(place)))
        if rng.random() < 0.5 or not isinstance(place[key], dict | list):
            place[key] = rng.choice(odd)
            return json.dumps(values).encode()
        place = place[key]
    return json.dumps(rng.choice(odd)).encode()


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


# ---- outcomes ----


def outcome(case: Case) -> str:
    """`success`, `error: FUNCTION THAT RAISED IT`, or `finding: ...` for what must not happen."""
    home = Path(world().name)
    with tempfile.TemporaryDirectory(dir=home) as folder, contextlib.chdir(folder):
        prepare(case, home)
        with ExitStack() as stack:
            err, raisers = watch(stack, case.depth)
            try:
                status = MAINS[case.program](case.words)
            except (Passed, SystemExit) as done:
                status = getattr(done, "code", 0)
            except Hangs as stop:
                return f"finding: hangs in {place(stop)}"
            except BaseException as error:
                return f"finding: {type(error).__name__} in {place(error)}: {str(error)[:200]!r}"
    if status != 2:
        return f"finding: exit status {status}" if status else "success"
    return (
        complaint(err.buffer.getvalue().decode())
        or f"error: {raisers[-1] if raisers else 'a file'}"
    )


def watch(stack: ExitStack, depth: Depth) -> tuple[io.TextIOWrapper, list[str]]:
    """While `stack` is open: (the text on stderr, the functions that made a MaltError).

    Time and memory are bounded, and heavy work ends the program.
    """
    raisers: list[str] = []

    def made(self: MaltError, *args: object) -> None:
        code = sys._getframe(1)
        raisers.append(
            f"{code.f_globals['__name__']}.{code.f_code.co_name}".removeprefix("malt_fast.")
        )

    out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", write_through=True)
    stack.enter_context(contextlib.redirect_stdout(out))
    stack.enter_context(contextlib.redirect_stderr(err))
    stack.enter_context(patch.object(MaltError, "__init__", made))
    for name in HEAVY[depth]:
        stack.enter_context(patch(f"malt_fast.{name}", passed))
    stack.enter_context(bounds())
    return err, raisers


@contextlib.contextmanager
def bounds() -> Iterator[None]:
    """Raise Hangs in a program that takes too long or too much memory."""
    end, most = time.monotonic() + SECONDS, resident_bytes() + MEMORY

    def look(_: int, __: FrameType | None) -> None:
        if time.monotonic() > end or resident_bytes() > most:
            raise Hangs

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def place(error: BaseException) -> str:
    """Where in the package an error came from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "malt_fast" in f.filename]
    return " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in own[:-3:-1])


def complaint(err: str) -> str:
    """What is wrong with the message on stderr; empty if nothing is."""
    *lines, end = err.split("\n")
    errors = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    if end or errors != [len(lines) - 1]:
        return f"finding: not one line at the end: {err[-300:]!r}"
    sentence = lines[-1]
    if not sentence.isprintable():
        return f"finding: control characters in {sentence[:300]!r}"
    if len(sentence) > LONGEST:
        return f"finding: {len(sentence)} characters: {sentence[:100]!r}"
    if (
        PYTHON.search(sentence)
        or sentence.endswith(".")
        or not re.search(r": | \.\.\. ", sentence[7:])
    ):
        return f"finding: not a user's words: {sentence[:500]!r}"
    return ""


# ---- many cases ----


def run_cases(kind: str, cases: int) -> dict[str, Any]:
    """Outcomes of a number of cases; the first case of every finding is printed."""
    outcomes: Counter[str] = Counter()
    slowest = 0.0

    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(KINDS[kind])
    def one(case: Case) -> None:
        nonlocal slowest
        start = time.monotonic()
        found = outcome(case)
        slowest = max(slowest, time.monotonic() - start)
        if found.startswith("finding") and found[:60] not in {name[:60] for name in outcomes}:
            print(f"{found}\n    {repr(case)[:700]}", flush=True)
        outcomes[found] += 1

    start = time.monotonic()
    one()
    return {
        "cases": outcomes.total(),
        "seconds": round(time.monotonic() - start, 1),
        "slowest_s": round(slowest, 2),
        "success": outcomes["success"],
        "findings": sum(n for name, n in outcomes.items() if name.startswith("finding")),
        "outcomes": dict(outcomes.most_common()),
    }


SHARES = {"config": 0.4, "data": 0.5, "run": 0.1}  # of all cases; one of a run takes longest


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=10_000, help="of all kinds together")
    parser.add_argument("--kind", choices=KINDS, help="only these")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    world()
    shares = {args.kind: 1.0} if args.kind else SHARES
    kinds = {kind: run_cases(kind, round(args.cases * share)) for kind, share in shares.items()}
    for kind, found in kinds.items():
        print(kind, {key: value for key, value in found.items() if key != "outcomes"})
    if args.json:
        write_json(args.json, {"environment": environment(PACKAGES), "kinds": kinds})
    return 1 if any(found["findings"] for found in kinds.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
