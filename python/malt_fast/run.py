"""The run directory, and what a run tells its user while it works.

    config.yaml            the resolved config
    questions.jsonl        training questions, in the order of the forest's trees
    prompts.json           what prompts are made of, as tokens
    samples/               everything ever sampled here, by what it depends on (store.py)
    round-0/forest.arrows  the trees (one file a role under `regenerate: sequential`)
    round-0/data/ROLE/     sft.parquet, dpo.parquet, as TRL reads them
    round-0/ROLE/          sft, dpo: adapters
    adapters/ROLE/         sft, final: the adapters of the last round, ready to serve
    evaluation.arrows      the trees of the evaluation
    evaluation.json        its result
    tables/, curves.svg    the same as files, under `evaluate.suite: paper`
    sweeps/KEY=VALUE/      runs that differ in one setting
    export/                what export.py takes elsewhere
    metrics.jsonl          a line per stage and log step
    tensorboard/
    loggers.json           the run's ids in loggers of `report_to`
    lock                   who writes here

Every result is written beside its place and renamed, with a fingerprint of what it was made from. A
run pointed at its directory again goes on where it stopped, and does again what another config, or
other data, changes; what was sampled is never sampled twice.
"""

import errno
import fcntl
import io
import json
import os
import resource
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.segment import Segment

from malt_fast import interrupt, processes
from malt_fast.config import Config, differences, dump, flat, make_config, read_yaml
from malt_fast.errors import MaltError, first_line, one_line, printable
from malt_fast.files import make_folder, remove_leftovers, write_text
from malt_fast.live import Facts, View, view
from malt_fast.quiet import hush
from malt_fast.sampling import Samples
from malt_fast.scalars import Board
from malt_fast.store import Store, open_store

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO}
OTHERS = ("sweeps", "export")  # in a run directory, but with writers of their own
_held: set[Path] = set()  # run directories that this process writes to
WIDTH = 160  # characters of a line where it is no terminal that shows it


@dataclass
class Run:
    """A run directory and the terminal; of several processes only the leader uses them."""

    folder: Path
    config: Config
    leads: bool = field(default_factory=processes.leads)
    reports: bool = True  # hands figures on to loggers
    console: Console = field(default_factory=lambda: open_console(quiet=not processes.leads()))

    def path(self, *parts: str) -> Path:
        return self.folder.joinpath(*parts)

    @cached_property
    def samples(self) -> Samples:
        """The run's store, and those it takes from. Raises MaltError where one cannot be used."""
        folders = [run / "samples" for run in self.config.reuse]
        others = [open_store(folder, writable=False) for folder in folders if folder.is_dir()]
        settings = self.config.store
        store = open_store(
            self.path("samples"),
            batch=settings.batch,
            interval=settings.interval,
            segment_bytes=settings.segment_mb << 20,
        )
        return Samples(store, others)

    @cached_property
    def board(self) -> Board:
        return Board(self.folder, self.config.report_to, flat(self.config))

    def read_samples(self) -> Store:
        """The run's store as it is now, for who does not lead."""
        return open_store(self.path("samples"), writable=False)

    def log(self, stage: str, **figures: Any) -> None:
        """Append a line to metrics.jsonl."""
        if not self.leads:
            return
        line = {"time": round(time.time(), 3), "stage": stage, **figures}
        board = self.board if self.reports else None  # which knows what is there already
        with self.path("metrics.jsonl").open("ab+") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            torn = file.read(1) not in (b"\n", b"")  # by a kill: its line stays one
            file.write(b"\n" * torn + json.dumps(line).encode() + b"\n")
        if board is not None:
            board.follow()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str, kind: str = "") -> None:
        """Tell the user, and the report. kind: what it is about, for programs."""
        if self.folder.is_dir():
            self.log("warning", kind=kind, text=text)
        self.console.print(f"[yellow]warning:[/] {escape(text)}", highlight=False, soft_wrap=True)

    def note(self, name: str, text: str) -> None:
        """Write a file for people, and for `expect`, unless it says so already."""
        path = self.path(name)
        if self.leads and not (path.is_file() and path.read_bytes() == text.encode()):
            write_text(path, text)

    def expect(self, name: str, text: str) -> None:
        """Raises MaltError unless a file that `note` wrote is as it was when roles were trained."""
        path = self.path(name)
        if path.is_file() and path.read_bytes() != text.encode():
            raise MaltError(
                f"the {path.stem} are not those in {path}: restore the files they came from, or "
                "train again"
            )

    @contextmanager
    def stage(
        self, name: str, total: int | None = None, facts: Facts = tuple, **where: Any
    ) -> Iterator[tuple[View, dict[str, Any]]]:
        """Show how a stage stands while it works, and what it cost when it is done.

        Yields the view, to be told of steps, and the dict of figures to print and log, which then
        has the costs, too. facts: lines on how it stands; where: logged, and not printed.
        """
        interrupt.check()
        figures: dict[str, Any] = {}
        start = time.monotonic()
        _forget_gpu_peak()
        with view(self.console, name, total, facts) as shown:
            yield shown, figures
        seconds = time.monotonic() - start
        told = "  ".join(f"{_figure(value)} {key}" for key, value in figures.items())
        figures |= {"seconds": round(seconds, 3), **_peaks()}
        self.log(name, **where, **figures)
        self.say(f"{name:<22} {seconds:6.1f} s  {told}")


def _peaks() -> dict[str, int]:
    """Memory of this process, MB: its most so far; on its GPU, if it has one, of this stage.

    What a child holds, such as vLLM's on its GPU, is in neither.
    """
    peaks = {"peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}  # kB
    if gpus := _gpus():
        cuda = sys.modules["torch"].cuda
        most = max(cuda.max_memory_reserved(gpu) for gpu in gpus)
        peaks["peak_gpu_memory_mb"] = most // 2**20
    return peaks


def _forget_gpu_peak() -> None:
    for gpu in _gpus():
        sys.modules["torch"].cuda.reset_peak_memory_stats(gpu)


def _gpus() -> range:
    """Those that this process has begun to use; asking does not begin it."""
    torch = sys.modules.get("torch")
    used = torch is not None and torch.cuda.is_initialized()
    return range(torch.cuda.device_count() if used and torch else 0)


class Terminal(Console):
    """Shows control characters in what it is given, and obeys none."""

    def render(self, *args: Any, **options: Any) -> Iterator[Segment]:
        for text, style, control in super().render(*args, **options):
            yield Segment(text if control else printable(text), style, control)


def open_console(quiet: bool) -> Console:
    """The terminal, or a log file, which has room for wide tables."""
    return Terminal(quiet=quiet, width=None if sys.stdout.isatty() else WIDTH)


@contextmanager
def open_run(config: Config, program: str) -> Iterator[Run]:
    """The run directory of a config, made or found again; Ctrl-C within tells its name.

    Raises MaltError where it holds something else, another program writes there, or it cannot be
    written.
    """
    if config.run is None and processes.count() > 1:
        raise MaltError(
            f"{processes.count()} processes need one run directory between them: give --run DIR"
        )
    folder = config.run or _fresh_folder(config)
    saved = folder / "config.yaml"
    if not processes.leads():
        processes.wait_for(saved)
        yield Run(folder, config)
        return
    check_folder(folder)
    run = Run(folder, config)
    try:
        make_folder(folder)
    except OSError as error:
        raise _unwritable(folder, error) from None
    changed = changes(saved, config)  # before anything is touched: it may be no config of a run
    with locked(run):
        run.say(f"{program}: run directory {folder}")
        if changed:
            run.say("settings changed since the last time: " + ", ".join(changed))
        try:
            write_text(saved, dump(config))
        except OSError as error:
            raise _unwritable(folder, error) from None
        yield run


@contextmanager
def locked(run: Run) -> Iterator[None]:
    """Let nobody else write to a run directory; Ctrl-C within tells its name.

    The lock is the system's and goes with the process, however that ends. Raises MaltError where
    another process has it, saying which.
    """
    here = run.folder.resolve()
    if here in _held:  # a process is not kept out by its own lock
        raise MaltError(f"{run.folder} is in use by this very process: give another --run DIR")
    try:
        descriptor = os.open(run.path("lock"), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise _unwritable(run.folder, error) from None
    with os.fdopen(descriptor, "r+", encoding="utf-8", errors="replace") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise MaltError(
                    f"{run.folder} is in use by {file.read().strip() or 'another process'}: wait "
                    "for it, stop it, or give another --run DIR"
                ) from None
            run.warn(f"{run.folder} lies where nothing can be locked: let one program write there")
        before = file.read().strip()
        if before:
            run.say(f"goes on after {before}, which died")
        remove_leftovers(run.folder, besides=OTHERS)
        _write_owner(file, f"process {os.getpid()} on {socket.gethostname()} since {_now()}")
        _held.add(here)
        try:
            yield
        except KeyboardInterrupt:
            raise KeyboardInterrupt(run.folder) from None
        finally:
            _held.remove(here)
            run.board.close()
            _write_owner(file, "")


def is_held(folder: Path) -> bool:
    """Whether this process writes to a run directory."""
    return folder.resolve() in _held


def owner_of(folder: Path) -> str:
    """Who writes there, or died doing so; empty for nobody."""
    try:
        return folder.joinpath("lock").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _write_owner(file: Any, text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _fresh_folder(config: Config) -> Path:
    """A name that is not taken, whatever the clock says."""
    name = time.strftime(f"{config.task.name}-%Y%m%d-%H%M%S")
    folders = (Path("runs") / f"{name}{more}" for more in ("", *(f"-{i}" for i in range(2, 10**6))))
    return next(folder for folder in folders if not folder.exists())


def _unwritable(folder: Path, error: OSError) -> MaltError:
    return MaltError(f"{folder} cannot be written ({first_line(error)}): give another --run DIR")


def check_folder(folder: Path) -> None:
    """Raises MaltError where a folder holds something else than a run."""
    if not (folder / "config.yaml").is_file() and folder.exists() and not _is_empty(folder):
        raise MaltError(f"{folder} exists and is no run directory: give another --run DIR")


def changes(saved: Path, config: Config) -> list[str]:
    """What a run is given otherwise than the last time, for people."""
    if not saved.is_file():
        return []
    before = make_config(read_yaml(saved))
    then, now = flat(before), flat(config)
    keys = differences(before, config)
    return [f"{key} {then.get(key, 'unset')} -> {now.get(key, 'unset')}" for key in keys]


def _is_empty(folder: Path) -> bool:
    """Whether it holds nothing but what a program killed at its very start left behind."""
    left = (".config.yaml.new", "lock")
    return folder.is_dir() and all(path.name.startswith(left) for path in folder.iterdir())


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What fails on a damaged result within is a MaltError that names it."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # the disk's, not the content's
        raise MaltError(
            f"{path} is damaged: delete it, and malt_fast.train --run makes it again"
        ) from None


def exit_status(program: Callable[[], object]) -> int:
    """Run a program; a user's mistake, or a disk's, becomes one line on stderr and status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no letter is worth a run
    hush()
    try:
        with interrupt.two_steps():
            program()
    except MaltError as error:
        print(one_line(f"error: {error}"), file=sys.stderr)
        return 2
    except OSError as error:
        file, reason = _file_of(error)
        if file is None and error.errno not in FULL:  # of a connection, say
            raise
        where = "a file" if file is None else str(file)
        where = where if error.errno != errno.ENAMETOOLONG else f"...{where[-60:]}"
        told = f"error: {where} cannot be used ({reason})"
        todo = "check what is there, its rights and the disk; the same command goes on from here"
        print(one_line(f"{told}: {todo}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        how = [f"{_command(folder)} goes on from here" for folder in stop.args]
        print(": ".join(["stopped", *how]), file=sys.stderr)
        return 130
    return 0


def _file_of(error: OSError) -> tuple[str | None, str]:
    """The file that an error is about, and what is wrong with it."""
    if isinstance(error, shutil.Error):  # (from, to, why) of every file that was not copied
        file, _, why = error.args[0][0]
        return file, why.partition("] ")[2].partition(": ")[0] or why
    return error.filename, first_line(error)


def _command(folder: Path) -> str:
    """The command that was given, with its run directory."""
    words = [word for word in sys.argv[1:]]
    if not any(word == "--run" or word.startswith("--run=") for word in words):
        words += ["--run", str(folder)]
    module = sys.modules["__main__"].__spec__
    program = ["python", sys.argv[0]]
    if module:
        program = ["python", "-m", module.name.removesuffix(".__main__")]
    return f"`{shlex.join([*program, *words])}`"


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
