"""Serves the chain as one OpenAI-compatible model: `python -m malt_fast.serve --run DIR`.

Every question goes through generator, verifier and refiner, `evaluate.votes` times; the client gets
the majority's answer. Serves /v1/chat/completions, /v1/completions and /v1/models for lm-eval,
lighteval and OpenAI's clients, and /health, /ready and /metrics (docs/serve.md). The settings are
those of the run's config.yaml; only those below `serve`, `evaluate` and `engine`, the device and
sampling.max_tokens may be changed.

Does not: serve one role alone (use `vllm serve --enable-lora` with its adapter), return
log-probabilities, keep conversations.
"""

import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from malt_fast.config.arguments import Program
from malt_fast.config.changeable import SERVING_SETTINGS
from malt_fast.config.command import run_command
from malt_fast.config.schema import Config
from malt_fast.serving.address import check_host, listen, take_token, url_of
from malt_fast.utils import interrupt
from malt_fast.utils.errors import MaltError
from malt_fast.utils.installing import install_command

if TYPE_CHECKING:  # they need packages that are optional
    from malt_fast.serving.connections import Server
    from malt_fast.serving.endpoint import Endpoint

CLOSING = 10.0  # seconds that the engine may take to close
TICK = 0.05  # seconds between looks at what has come

PROGRAM = Program(
    "malt_fast.serve",
    Config,
    "Answers questions with the roles of a finished run, as one OpenAI-compatible model. The "
    "settings below `serve`, `evaluate` and `engine`, the device and sampling.max_tokens may be "
    "changed.",
    ("--run runs/gsm8k", "--run runs/gsm8k --serve.port 8080 --evaluate.votes 5"),
    common=(
        *("run", "serve.host", "serve.port", "serve.max_waiting", "serve.grace"),
        *("evaluate.votes", "engine.name", "sampling.max_tokens"),
    ),
    may_change=SERVING_SETTINGS,
)


def serve(config: Config) -> None:
    """Serve the run that a config names, until SIGINT or SIGTERM."""
    assert config.run is not None
    check_packages()
    # Imported here, after the first words: this takes longer than reading the command.
    from malt_fast.sampling.engine_choice import choose
    from malt_fast.serving.connections import Server, room_for_connections
    from malt_fast.serving.endpoint import Endpoint
    from malt_fast.serving.engine_thread import EngineThread
    from malt_fast.serving.pipeline import Pipeline

    # vLLM would fork its process off this one, whose server runs in a thread.
    os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
    token, settings, name = take_token(), config.serve, config.run.resolve().name
    check_host(settings.host, token)
    room = room_for_connections(settings.max_waiting)
    endpoint = Endpoint(name, token=token, max_waiting=settings.max_waiting)
    with (
        listen(settings.host, settings.port) as listening,
        running(Server(endpoint.app(), room), listening) as http,  # /health answers from now on
    ):
        pipeline = Pipeline.open(config)
        engine = "{}, {}".format(*choose(config))
        where = f"{url_of(listening)}/v1"
        stops = catch_signals()
        interrupt.check()  # a stop that was asked for while the weights were loaded
        gc.collect()
        gc.freeze()  # a million objects of libraries: each look at them would stop all for 0.3 s
        endpoint.thread = EngineThread(pipeline)
        print(f"serving {name} at {where} (engine: {engine}); Ctrl-C stops it", flush=True)
        while http.is_alive() and not stops:
            time.sleep(TICK)
        finish(endpoint, settings.grace, stops)
    endpoint.thread.closed.wait(CLOSING)


@contextmanager
def running(server: "Server", listening: socket.socket) -> Iterator[threading.Thread]:
    """A server in a thread of its own, which ends with the block."""
    thread = threading.Thread(target=server.run, args=([listening],), name="http", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        server.should_exit = True
        thread.join()


def catch_signals() -> list[int]:
    """The signals that have come, from now on."""
    stops: list[int] = []  # a lock could be held by whom the signal interrupts
    for number in interrupt.SIGNALS:
        signal.signal(number, lambda number, _: stops.append(number))
    return stops


def finish(endpoint: "Endpoint", grace: float, stops: Sequence[int]) -> None:
    """Take no more questions, and end once those in progress are answered: after `grace` seconds at
    the latest, or at a second signal."""
    endpoint.stopping = True
    end = time.monotonic() + grace
    while endpoint.live and time.monotonic() < end and len(stops) < 2:
        time.sleep(TICK)
    if endpoint.thread is not None:
        endpoint.thread.stop()


def check_packages() -> None:
    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise MaltError(
            f"serving needs {' and '.join(missing)}, not installed here: {install_command('serve')}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(PROGRAM, serve, argv)


if __name__ == "__main__":
    sys.exit(main())
