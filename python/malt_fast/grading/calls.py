"""Calls of a function in threads: side by side, again after a failure, each bounded in time.

A thread cannot be ended from outside. One whose call takes too long is left alone and replaced;
what it returns later is ignored. All are daemons, so that none delays the end of the program.
"""

import heapq
import random
import time
from collections.abc import Callable, Generator, Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

from malt_fast.utils import interrupt
from malt_fast.utils.errors import first_line

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds before a call is made again
LOOK = 0.1  # seconds between two looks at calls that may be late
AHEAD = 64  # calls that wait for each worker


class Limits(NamedTuple):
    workers: int = 1  # calls at once
    retries: int = 3  # of a call that raises or is late
    timeout: float = 60.0  # seconds of one call


class Outcome(NamedTuple):
    """What became of a call in the end."""

    value: Any
    seconds: float  # of the last try
    error: str = ""  # the reason, if it failed


class Try(NamedTuple):
    call: int
    number: int  # from 0


class Worker(Thread):
    def __init__(
        self,
        function: Callable[..., Any],
        arguments: Sequence[tuple[Any, ...]],
        tries: "SimpleQueue[Try | None]",
        done: "SimpleQueue[tuple[Try, Outcome]]",
    ) -> None:
        super().__init__(daemon=True)
        self.function, self.arguments, self.tries, self.done = function, arguments, tries, done
        self.current: tuple[Try, float] | None = None  # and when it began
        self.is_late = False  # then it ends after its call
        self.start()

    def run(self) -> None:
        while (one := self.tries.get()) is not None:
            begun = time.monotonic()
            self.current = one, begun
            if self.is_late:
                self.tries.put(one)
                return
            try:
                value, error = self.function(*self.arguments[one.call]), ""
            except BaseException as raised:  # it is the user's, and may raise anything
                value, error = None, first_line(raised)
            self.current = None
            self.done.put((one, Outcome(value, time.monotonic() - begun, error)))


def called(
    function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], limits: Limits
) -> Generator[tuple[int, Outcome]]:
    """(index, outcome) of every call, as they end. Raises KeyboardInterrupt if asked to stop."""
    tries, done = SimpleQueue[Try | None](), SimpleQueue[tuple[Try, Outcome]]()
    make = lambda: Worker(function, arguments, tries, done)  # noqa: E731
    crew = [make() for _ in range(min(limits.workers, len(arguments)))]
    fresh = iter(range(len(arguments)))
    again: list[tuple[float, Try]] = []  # heap: when, what
    under_way: set[Try] = set()
    looked, left = time.monotonic(), len(arguments)
    try:
        while left:
            now = time.monotonic()
            while again and again[0][0] <= now:
                under_way.add(one := heapq.heappop(again)[1])
                tries.put(one)
            while len(under_way) < AHEAD * len(crew) and (call := next(fresh, None)) is not None:
                under_way.add(one := Try(call, 0))
                tries.put(one)
            ended = _ended(done)
            if now - looked >= LOOK:
                looked = now
                interrupt.check()
                late, crew = _late(crew, now - limits.timeout, make)
                error = f"it took more than {limits.timeout:g} s"
                ended += [(one, Outcome(None, limits.timeout, error)) for one in late]
            for one, outcome in ended:
                if one not in under_way:  # it was late
                    continue
                under_way.remove(one)
                if outcome.error and one.number < limits.retries:
                    pause = min(FIRST_PAUSE * 2**one.number, LONGEST_PAUSE)
                    when = time.monotonic() + pause * random.uniform(0.5, 1)  # not all at once
                    heapq.heappush(again, (when, Try(one.call, one.number + 1)))
                else:
                    left -= 1
                    yield one.call, outcome
    finally:
        while tries.qsize():  # what nobody has begun
            try:
                tries.get_nowait()
            except Empty:
                break
        for _ in crew:
            tries.put(None)


def _ended(done: "SimpleQueue[tuple[Try, Outcome]]") -> list[tuple[Try, Outcome]]:
    """The tries that have ended; waits a little for the first."""
    ended = []
    try:
        ended.append(done.get(timeout=LOOK))
        while True:
            ended.append(done.get_nowait())
    except Empty:
        return ended


def _late(
    crew: list[Worker], deadline: float, make: Callable[[], Worker]
) -> tuple[list[Try], list[Worker]]:
    """The tries that began before the deadline, and the living crew with others in their place."""
    late = []
    for worker in list(crew):
        current = worker.current
        if current is not None and current[1] < deadline:
            late.append(current[0])
            if not worker.is_late:
                worker.is_late = True
                crew.append(make())
    return late, [worker for worker in crew if worker.is_alive()]
