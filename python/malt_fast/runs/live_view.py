"""The live view of a stage, at the bottom of the terminal until the stage is done.

    sample round 0 ━━━━━━━━━━━━━━━╸━━━━━━━━━━━━━━━━  15,402/39,000  0:00:21
      stage 1 of 8 · 0:00:17 elapsed · about 0:01:20 left
      12,871 tokens/s · 64 % of prompt tokens cached · trees: 120 open, 380 done
      so far about 255 generator examples, 316 verifier pairs, 570 refiner pairs
      refiner, right: 12 + 34 = 46 #### 46

Where there is no terminal, the same is printed as one line per minute.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

MINUTE = 60.0  # s between two lines of a log file
Facts = Callable[[], Sequence[str]]  # status lines; called by the thread that draws


@dataclass(frozen=True)
class Place:
    """Where a stage stands in its run."""

    begun: float  # s, when the program began to work on the run
    number: int = 0  # of the stage, from 1; 0: unknown
    stages: int = 0
    after: float | None = None  # s that the stages after this one will take; None: unknown

    def line(self, now: float, left: float | None) -> str:
        """For people; left: s that this stage will still take."""
        facts = [f"stage {self.number} of {self.stages}"] if self.number else []
        facts.append(f"{_clock(now - self.begun)} elapsed")
        if self.after is not None and left is not None:
            facts.append(f"about {_clock(self.after + left)} left")
        return " · ".join(facts)


class View:
    """Progress of a stage, and its facts."""

    def __init__(
        self,
        console: Console,
        name: str,
        total: int | None,
        facts: Facts,
        clock: Callable[[], float] = time.monotonic,
        place: Place | None = None,
    ) -> None:
        self.console, self.facts, self.clock, self.place = console, facts, clock, place
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
            get_time=clock,
        )
        self.steps = self.progress.add_task(name, total=total, count="")
        self.tokens = self.progress.add_task("tokens", total=None, count="", visible=False)
        self.printed = clock()  # s, when the last line was

    def advance(
        self, steps: int = 0, *, at: int | None = None, total: int | None = None, tokens: int = 0
    ) -> None:
        """Count `steps` more, or go to step `at`; `tokens` were sampled, or trained on."""
        self.progress.update(
            self.steps, advance=steps if at is None else None, completed=at, total=total
        )
        self.progress.update(self.steps, count=_count(self._task()))
        if tokens:
            self.progress.advance(self.tokens, tokens)
        if not self.console.is_terminal and self.clock() - self.printed >= MINUTE:
            self.printed = self.clock()
            self.console.print(
                self.line(), markup=False, highlight=False, soft_wrap=True, style="dim"
            )

    def lines(self) -> list[str]:
        """The place in the run, and the facts with the speed at the front of their first line."""
        speed = self.progress.tasks[self.tokens].speed
        facts = list(self.facts())
        if speed:
            facts[:1] = [" · ".join([f"{speed:,.0f} tokens/s", *filter(None, facts[:1])])]
        if self.place is not None:
            facts.insert(0, self.place.line(self.clock(), self._task().time_remaining))
        return [line for line in facts if line]

    def line(self) -> str:
        """Progress and facts in one line, for a log file."""
        task = self._task()
        left = "" if task.time_remaining is None else f", {_clock(task.time_remaining)} left"
        return " · ".join([f"{task.description}: {_count(task)}{left}", *self.lines()])

    def __rich__(self) -> Group:
        lines = [
            Text(f"  {line}", "dim", no_wrap=True, overflow="ellipsis") for line in self.lines()
        ]
        return Group(self.progress, *lines)

    def _task(self) -> Task:
        return self.progress.tasks[self.steps]


@contextmanager
def view(
    console: Console,
    name: str,
    total: int | None,
    facts: Facts = tuple,
    place: Place | None = None,
) -> Iterator[View]:
    """Show the progress of a stage while it works."""
    shown = View(console, name, total, facts, place=place)
    if not console.is_terminal:
        yield shown
        return
    with Live(shown, console=console, transient=True, refresh_per_second=2):
        yield shown


def _count(task: Task) -> str:
    return f"{int(task.completed):,}/{'?' if task.total is None else f'{int(task.total):,}'}"


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"
