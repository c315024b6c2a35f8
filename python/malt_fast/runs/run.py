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

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from malt_fast.config.load import (
    differences,
    dump,
    flat,
    make_config,
)
from malt_fast.config.schema import Config
from malt_fast.config.yaml_files import read_yaml
from malt_fast.runs.console import open_console
from malt_fast.runs.live import Facts, View, view
from malt_fast.runs.lock import locked, unwritable
from malt_fast.runs.loggers import Board
from malt_fast.runs.metrics import _figure, _forget_gpu_peak, _peaks
from malt_fast.store.store import Samples, Store, open_store
from malt_fast.utils import distributed, interrupt
from malt_fast.utils.errors import (
    MaltError,
)
from malt_fast.utils.files import make_folder, remove_leftovers, write_text

OTHERS = ("sweeps", "export")  # in a run directory, but with writers of their own


@dataclass
class Run:
    """A run directory and the terminal; of several processes only the leader uses them."""

    folder: Path
    config: Config
    leads: bool = field(default_factory=distributed.is_leader)
    reports: bool = True  # hands figures on to loggers
    console: Console = field(
        default_factory=lambda: open_console(quiet=not distributed.is_leader())
    )

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


@contextmanager
def open_run(config: Config, program: str) -> Iterator[Run]:
    """The run directory of a config, made or found again; Ctrl-C within tells its name.

    Raises MaltError where it holds something else, another program writes there, or it cannot be
    written.
    """
    if config.run is None and distributed.process_count() > 1:
        raise MaltError(
            f"{distributed.process_count()} processes need one run directory between them: "
            "give --run DIR"
        )
    folder = config.run or _fresh_folder(config)
    saved = folder / "config.yaml"
    if not distributed.is_leader():
        distributed.wait_for(saved)
        yield Run(folder, config)
        return
    check_folder(folder)
    run = Run(folder, config)
    try:
        make_folder(folder)
    except OSError as error:
        raise unwritable(folder, error) from None
    changed = changes(saved, config)  # before anything is touched: it may be no config of a run
    with writing(run):
        run.say(f"{program}: run directory {folder}")
        if changed:
            run.say("settings changed since the last time: " + ", ".join(changed))
        try:
            write_text(saved, dump(config))
        except OSError as error:
            raise unwritable(folder, error) from None
        yield run


@contextmanager
def writing(run: Run) -> Iterator[None]:
    """Lock a run directory and clear what a killed program left; Ctrl-C within carries its name."""
    with locked(run.folder, run.warn) as died:
        if died:
            run.say(f"goes on after {died}, which died")
        remove_leftovers(run.folder, besides=OTHERS)
        try:
            yield
        except KeyboardInterrupt:
            raise KeyboardInterrupt(run.folder) from None
        finally:
            run.board.close()


def _fresh_folder(config: Config) -> Path:
    """A name that is not taken, whatever the clock says."""
    name = time.strftime(f"{config.task.name}-%Y%m%d-%H%M%S")
    folders = (Path("runs") / f"{name}{more}" for more in ("", *(f"-{i}" for i in range(2, 10**6))))
    return next(folder for folder in folders if not folder.exists())


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
