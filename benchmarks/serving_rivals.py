"""What bench_serving.py measures, each a function to run in a process of its own.

A server listens at a free port of the loopback, puts its number into `port`, and serves until it is
terminated.
"""

import gc
import signal
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from malt_fast import engines
from malt_fast.config.load import saved_config
from malt_fast.config.schema import Config
from malt_fast.engines import Completion
from malt_fast.runs.saved import saved_policies
from malt_fast.sampling.prepare import load_setup
from malt_fast.serve import finish, running
from malt_fast.serving.address import listen
from malt_fast.serving.connections import Server, room_for_connections
from malt_fast.serving.endpoint import Endpoint
from malt_fast.serving.engine_thread import EngineThread
from malt_fast.serving.pipeline import Pipeline, room_for_question

SAYS = " 75 56 81 45 59"  # every output of every role


class Scripted:
    """An engine that gives every request the same output at once."""

    wants = 1024

    def __init__(self, tokens: Any) -> None:
        self.tokens, self.logprobs = tokens, np.zeros(len(tokens), np.float32)
        self.waiting: list[engines.Request] = []

    @property
    def pending(self) -> int:
        return len(self.waiting)

    def submit(self, requests: Sequence[engines.Request]) -> None:
        self.waiting += requests

    def poll(self) -> list[Completion]:
        waiting, self.waiting = self.waiting, []
        return [Completion(r.id, self.tokens, self.logprobs, "stop") for r in waiting]

    def figures(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass


def scripted_pipeline(run: Path) -> Pipeline:
    """The pipeline of a run, whose engine only repeats itself."""
    setup = load_setup(saved_config(Config, {"run": run}, ()), questions=False)
    _, policies = saved_policies(run, setup.base())
    tokens = setup.prompts.encode_output(1, SAYS)
    return Pipeline(setup, policies, Scripted(tokens), room_for_question(setup))


def serve_scripted(run: Path, port: "Queue[int]") -> None:
    """Our server, without a model."""
    serve_pipeline(scripted_pipeline(run), port)


def serve_pipeline(pipeline: Pipeline, port: "Queue[int]") -> None:
    """Our server on a pipeline."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    endpoint = Endpoint("measured", max_waiting=1024)
    gc.collect()
    gc.freeze()
    with (
        listen("127.0.0.1", 0) as listening,
        running(Server(endpoint.app(), room_for_connections(1024)), listening),
    ):
        endpoint.thread = EngineThread(pipeline)
        port.put(listening.getsockname()[1])
        while not stop.wait(0.1):
            pass
        finish(endpoint, 5, [])
    endpoint.thread.closed.wait(10)


def serve_plain(body: bytes, port: "Queue[int]") -> None:
    """uvicorn and starlette answering a fixed body, streamed as server-sent events if so asked."""

    async def answer(request: Request) -> Response:
        if b'"stream": true' not in await request.body():
            return Response(body, media_type="application/json")

        async def events() -> Any:
            for _ in range(3):
                yield b"data: " + body + b"\n\n"
            yield b"data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])])
    config: Any = {"http": "h11", "loop": "asyncio", "log_level": "warning", "access_log": False}
    with listen("127.0.0.1", 0) as listening:
        port.put(listening.getsockname()[1])
        uvicorn.Server(uvicorn.Config(app, **config)).run(sockets=[listening])


def answer_directly(run: Path, asked: Connection) -> None:
    """Without a server: for every list of questions (tokens sampled, seconds)."""
    with Pipeline.load(run) as pipeline:
        asked.send((0, 0.0))
        while True:
            questions = asked.recv()
            before, begin = pipeline.sampled, time.perf_counter()
            pipeline.answers(questions)
            asked.send((pipeline.sampled - before, time.perf_counter() - begin))
