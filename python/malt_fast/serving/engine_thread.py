"""The thread that owns a pipeline: others give it jobs and wait for their futures.

Engines are not thread-safe, so nothing else touches the pipeline once the thread runs. When the
engine fails or the server stops, all jobs, waiting and later ones, fail with that reason; the
thread itself lives as long as the process.
"""

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from malt_fast.serving.answer import Answer
from malt_fast.serving.pipeline import Pipeline
from malt_fast.serving.reading import ReadQuestion
from malt_fast.utils.errors import MaltError, first_line

log = logging.getLogger(__name__)

STOPPING = "the server is stopping: ask again when it is back"


class Unavailable(Exception):
    """No answer will come, for a reason that lies not in the question."""


@dataclass(eq=False)
class Job:
    """A question with its own settings, and the future of its answer."""

    question: ReadQuestion
    seed: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    answer: "Future[Answer]" = field(default_factory=Future)  # fails by Unavailable


class EngineThread:
    """Answers jobs until `stop`, or until the engine raises."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.failure = ""  # why no more questions are answered
        self.closed = threading.Event()  # set once the engine is closed
        self.jobs: dict[int, Job] = {}  # by ticket
        self.inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="engine", daemon=True).start()

    def ask(self, job: Job) -> None:
        """Hand over a job. Raises Unavailable if it can have no answer."""
        if self.failure:
            raise Unavailable(self.failure)
        self.inbox.put(partial(self._take, job))

    def drop(self, job: Job) -> None:
        """Discard a job that nobody waits for any more."""
        self.inbox.put(partial(self._drop, job))

    def stop(self) -> None:
        """Fail all jobs without an answer and close the engine; then `closed` is set."""
        self.inbox.put(partial(self._fail, STOPPING))

    # ---- in the thread ----

    def _run(self) -> None:
        while not self.failure:
            self._read()
            if not self.failure:
                self._work()
        try:
            self.pipeline.close()
        except Exception:  # a dead engine may not even close
            log.exception("the engine was not closed")
        self.closed.set()
        while True:
            self.inbox.get()()

    def _read(self) -> None:
        """Run what others asked for; wait for it while there is no other work."""
        if not self.pipeline.busy:
            self.inbox.get()()
        while not self.inbox.empty():
            self.inbox.get()()

    def _work(self) -> None:
        try:
            done = self.pipeline.poll()
        except MaltError as error:
            self._fail(str(error))
            return
        except Exception as error:  # a bug or a broken device must not leave clients waiting
            log.exception("the engine failed")
            self._fail(f"the engine failed ({first_line(error)}): see the server's log")
            return
        for ticket, answer in done:
            _resolve(self.jobs.pop(ticket).answer, answer)

    def _take(self, job: Job) -> None:
        if self.failure:
            _resolve(job.answer, error=Unavailable(self.failure))
            return
        ticket = self.pipeline.submit(
            job.question, seed=job.seed, temperature=job.temperature, max_tokens=job.max_tokens
        )
        self.jobs[ticket] = job

    def _drop(self, job: Job) -> None:
        for ticket in [ticket for ticket, held in self.jobs.items() if held is job]:
            del self.jobs[ticket]
            self.pipeline.drop(ticket)

    def _fail(self, reason: str) -> None:
        self.failure = self.failure or reason
        for job in self.jobs.values():
            _resolve(job.answer, error=Unavailable(self.failure))
        self.jobs.clear()


def _resolve(future: "Future[Any]", value: Any = None, error: Exception | None = None) -> None:
    """Set a future, unless it was cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
