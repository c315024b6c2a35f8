"""The run directory, and what a run tells its user while it works.

    config.yaml            the resolved config
    questions.jsonl        training questions, in the order of the forest's trees
    prompts.json           what prompts are made of, as tokens
    round-0/forest.arrows  everything sampled (one file a role under `regenerate: sequential`)
    round-0/data/ROLE/     sft.parquet, dpo.parquet, as TRL reads them
    round-0/ROLE/          sft, dpo: adapters
    adapters/ROLE/         sft, final: the adapters of the last round, ready to serve
    evaluation.arrows      what the evaluation sampled
    evaluation.json        its result
    tables/, curves.svg    the same as files, under `evaluate.suite: paper`
    sweeps/KEY=VALUE/      runs that differ in one setting
    metrics.jsonl          a line per stage and log step
    tensorboard/

Every result is written beside its place and renamed, so what exists is whole: a run pointed at its
directory again goes on where it stopped.
"""

import io
import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from malt_fast import processes
from malt_fast.config import Config, differences, dump, make_config, read_yaml
from malt_fast.errors import MaltError, first_line, one_line
from malt_fast.forest import replacing

Advance = Callable[..., None]
WIDTH = 160  # characters of a line where it is no terminal that shows it


@dataclass
class Run:
    """A run directory and the terminal; of several processes only the leader uses them."""

    folder: Path
    config: Config
    leads: bool = field(default_factory=processes.leads)
    console: Console = field(default_factory=lambda: open_console(quiet=not processes.leads()))

    def path(self, *parts: str) -> Path:
        return self.folder.joinpath(*parts)

    def log(self, stage: str, **figures: Any) -> None:
        """Append a line to metrics.jsonl."""
        if not self.leads:
            return
        line = {"time": round(time.time(), 3), "stage": stage, **figures}
        with self.path("metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        self.console.print(f"[yellow]warning:[/] {escape(text)}", highlight=False, soft_wrap=True)

    def keep(self, name: str, text: str) -> None:
        """Write a file that must stay the same while the run goes on; else raises MaltError."""
        path = self.path(name)
        if not self.leads:
            return
        if not path.is_file():
            write_text(path, text)
        elif path.read_bytes() != text.encode():
            raise MaltError(
                f"the {path.stem} are not those in {path}: restore the files they came from, or "
                "give another --run DIR"
            )

    @contextmanager
    def stage(
        self, name: str, total: int | None = None
    ) -> Iterator[tuple[Advance, dict[str, Any]]]:
        """Progress bar while a stage works, and a line of what it cost when it is done.

        Yields a function that advances the bar and the dict of figures to print and log.
        """
        figures: dict[str, Any] = {}
        start = time.monotonic()
        columns = [
            TextColumn("{task.description:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        ]
        plain = not self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=plain) as progress:
            bar = progress.add_task(name, total=total, rate="")

            def advance(steps: float = 0, **fields: Any) -> None:
                speed = progress.tasks[0].speed or 0
                progress.update(bar, advance=steps, rate=f"{speed:,.1f}/s", **fields)

            yield advance, figures
        seconds = time.monotonic() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # kB on Linux
        self.log(name, seconds=round(seconds, 3), peak_memory_mb=peak, **figures)
        shown = "  ".join(f"{_figure(value)} {key}" for key, value in figures.items())
        self.say(f"{name:<22} {seconds:6.1f} s  {shown}")


def open_console(quiet: bool) -> Console:
    """The terminal, or a log file, which has room for wide tables."""
    return Console(quiet=quiet, width=None if sys.stdout.isatty() else WIDTH)


@contextmanager
def open_run(config: Config, program: str) -> Iterator[Run]:
    """The run directory of a config, made or found again; Ctrl-C within tells its name.

    Raises MaltError where it holds a run of another config, or something else altogether.
    """
    if config.run is None and processes.count() > 1:
        raise MaltError(
            f"{processes.count()} processes need one run directory between them: give --run DIR"
        )
    folder = config.run or Path("runs") / time.strftime(f"{config.task.name}-%Y%m%d-%H%M%S")
    saved = folder / "config.yaml"
    if not processes.leads():
        processes.wait_for(saved)
        yield Run(folder, config)
        return
    check_folder(folder, config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(saved, dump(config))
    except OSError as error:
        raise MaltError(
            f"{folder} cannot be written ({error.strerror}): give another --run DIR"
        ) from None
    run = Run(folder, config)
    run.say(f"{program}: run directory {folder}")
    try:
        yield run
    except KeyboardInterrupt:
        raise KeyboardInterrupt(folder) from None


def check_folder(folder: Path, config: Config) -> None:
    """Raises MaltError where a folder holds a run of another config, or something else."""
    saved = folder / "config.yaml"
    if saved.is_file():
        before = make_config(read_yaml(saved))
        other = [key for key in differences(before, config) if not may_change(before, config, key)]
        if other:
            raise MaltError(
                f"{folder} holds a run of another config (different: {', '.join(other)}): "
                "give the same settings, or another --run DIR"
            )
    elif folder.exists() and not _is_empty(folder):
        raise MaltError(f"{folder} exists and is no run directory: give another --run DIR")


def may_change(before: Config, config: Config, key: str) -> bool:
    """Whether a run goes on with another value: who samples does not change what is sampled."""
    recorded = "replay" in (before.engine.name, config.engine.name)
    free = key == "model.device" or key.startswith("serve.")
    return free or (key.startswith("engine.") and not recorded)


def _is_empty(folder: Path) -> bool:
    """Whether it holds nothing but what a program killed at its very start left behind."""
    return folder.is_dir() and all(p.name.startswith(".config.yaml.") for p in folder.iterdir())


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


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


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`; on leaving it takes `path`'s place, which is whole or absent."""
    new, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir()
    yield new
    if path.exists():
        path.replace(old)  # a folder cannot be renamed over one that holds files
    new.replace(path)
    shutil.rmtree(old, ignore_errors=True)


def exit_status(program: Callable[[], object]) -> int:
    """Run a program; a user's mistake, or a disk's, becomes one line on stderr and status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no letter is worth a run
    try:
        program()
    except MaltError as error:
        print(one_line(f"error: {error}"), file=sys.stderr)
        return 2
    except OSError as error:
        file, reason = _file_of(error)
        if file is None:  # of a connection, say
            raise
        told = f"error: {file} cannot be used ({reason})"
        print(one_line(f"{told}: check what is there, its rights and the disk"), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        how = [f"the same command with --run {folder} goes on from here" for folder in stop.args]
        print(": ".join(["stopped", *how]), file=sys.stderr)
        return 130
    return 0


def _file_of(error: OSError) -> tuple[str | None, str]:
    """The file that an error is about, and what is wrong with it."""
    if isinstance(error, shutil.Error):  # (from, to, why) of every file that was not copied
        file, _, why = error.args[0][0]
        return file, why.partition("] ")[2].partition(": ")[0] or why
    return error.filename, first_line(error)


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
