"""A run while it works: its directory, terminal, metrics and samples.

What lies in the directory: directory.py.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from malt_fast.config.load import dump, flat
from malt_fast.config.schema import Config
from malt_fast.runs.console import open_console
from malt_fast.runs.directory import WITH_OWN_WRITERS, changes, check_folder, mend, new_folder
from malt_fast.runs.live_view import Facts, Place, View, view
from malt_fast.runs.lock import locked, unwritable
from malt_fast.runs.loggers import Loggers
from malt_fast.runs.metrics import append_line, named_figure
from malt_fast.store.store import Samples, Store, open_store
from malt_fast.utils import distributed, interrupt
from malt_fast.utils.errors import MaltError
from malt_fast.utils.files import make_folder, remove_leftovers, write_bytes, write_text
from malt_fast.utils.memory import peak_memory, reset_gpu_peak

Schedule = dict[tuple[int | None, str], float | None]  # planned s of a stage, by round and label


@dataclass
class Run:
    """A run directory and its terminal; of several processes only the leader writes to them."""

    folder: Path
    config: Config
    leads: bool = field(default_factory=distributed.is_leader)
    reports: bool = True  # whether lines go to the loggers, too
    schedule: Schedule = field(default_factory=dict)  # all stages in order, if they are known
    begun: float = field(default_factory=time.monotonic)  # s
    console: Console = field(
        default_factory=lambda: open_console(quiet=not distributed.is_leader())
    )

    def path(self, *parts: str) -> Path:
        return self.folder.joinpath(*parts)

    @cached_property
    def samples(self) -> Samples:
        """The run's store, and the stores of `reuse`. Raises MaltError if one cannot be used."""
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

    def read_samples(self) -> Store:
        """The run's store as it is now, read-only: for processes that do not lead."""
        return open_store(self.path("samples"), writable=False)

    @cached_property
    def loggers(self) -> Loggers:
        return Loggers(self.folder, self.config.report_to, flat(self.config))

    def log(self, stage: str, **figures: Any) -> None:
        """Append a line to metrics.jsonl, and hand it to the loggers."""
        if self.leads:
            line = {"time": round(time.time(), 3), "stage": stage, **figures}
            append_line(self.path("metrics.jsonl"), line)
            if self.reports:
                self.loggers.log(line)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str, kind: str = "") -> None:
        """Print a warning, and log it for the report. kind: a key for programs."""
        if self.folder.is_dir():
            self.log("warning", kind=kind, text=text)
        self.console.print(f"[yellow]warning:[/] {escape(text)}", highlight=False, soft_wrap=True)

    def note(self, name: str, data: bytes | bytearray) -> None:
        """Write a file, unless it holds this already."""
        path = self.path(name)
        if self.leads and not (path.is_file() and path.read_bytes() == data):
            write_bytes(path, data)

    def expect(self, name: str, data: bytes | bytearray) -> None:
        """Raises MaltError if a file written by `note` exists and holds something else."""
        path = self.path(name)
        if path.is_file() and path.read_bytes() != data:
            raise MaltError(
                f"the {path.stem} are not those in {path}: restore the files they came from, or "
                "train again"
            )

    @contextmanager
    def stage(
        self, name: str, total: int | None = None, facts: Facts = tuple, **where: Any
    ) -> Iterator[tuple[View, dict[str, Any]]]:
        """Show the progress of a stage while it works; print and log its figures when it is done.

        Yields the view, to advance, and the dict of figures, to fill; afterwards this holds the
        seconds and the peak memory, too. facts: status lines; where: extra log fields.
        """
        interrupt.check()
        figures: dict[str, Any] = {}
        start = time.monotonic()
        reset_gpu_peak()
        label = stage_label(name, where.get("forest", ""))
        place = self._place(where.get("round"), label)
        with view(self.console, label, total, facts, place) as shown:
            yield shown, figures
        seconds = time.monotonic() - start
        summary = "  ".join(named_figure(key, value) for key, value in figures.items())
        figures |= {"seconds": round(seconds, 3), **peak_memory()}
        self.log(name, **where, **figures)
        self.say(f"{label:<22} {seconds:6.1f} s  {summary}")

    def _place(self, index: int | None, label: str) -> Place:
        """Where a stage stands in the run."""
        stages = list(self.schedule)
        if (index, label) not in stages:
            return Place(self.begun)
        number = stages.index((index, label))
        later = [self.schedule[stage] for stage in stages[number + 1 :]]
        known = [seconds for seconds in later if seconds is not None]
        after = sum(known) if len(known) == len(later) else None
        return Place(self.begun, number + 1, len(stages), after)


def stage_label(name: str, forest: str) -> str:
    """What people read: a stage, and the role for which its forest is, if for one alone."""
    role = forest.partition("-")[2]
    return f"{name} for {role}" if role else name


@contextmanager
def open_run(config: Config, program: str) -> Iterator[Run]:
    """Make the run directory of a config, or open it again; Ctrl-C within carries its name.

    Raises MaltError if it holds something else, another program writes there, or it cannot be
    written.
    """
    if config.run is None and distributed.process_count() > 1:
        raise MaltError(
            f"{distributed.process_count()} processes need one run directory between them: "
            "give --run DIR"
        )
    folder = config.run or new_folder(config.task.name)
    saved = folder / "config.yaml"
    run = Run(folder, config)
    if not run.leads:
        distributed.wait_for(saved)
        yield run
        return
    check_folder(folder)
    try:
        make_folder(folder)
    except OSError as error:
        raise unwritable(folder, error) from None
    changed = changes(saved, config)  # first of all: the file may be no config of a run
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
    """Lock a run directory and remove leftovers of a killed program; Ctrl-C carries its name."""
    with locked(run.folder, run.warn) as died:
        if died:
            run.say(f"goes on after {died}, which died")
        remove_leftovers(run.folder, besides=WITH_OWN_WRITERS)
        try:
            yield
        except KeyboardInterrupt:
            raise KeyboardInterrupt(run.folder) from None
        finally:
            run.loggers.close()


@contextmanager
def reading(path: Path, folder: Path) -> Iterator[None]:
    """Turn what fails within on the content of a damaged result into a MaltError that names it.

    folder: the run directory.
    """
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # the disk's, not the content's
        raise MaltError(f"{path} is damaged: {mend(folder)}") from None
