"""Serves the chain as one OpenAI-compatible model: `python -m malt_fast.serve --run DIR`.

Every question goes through generator, verifier and refiner, `evaluate.votes` times; the client gets
the majority's answer. Serves /v1/chat/completions, /v1/completions, /v1/models and /health, for
lm-eval, lighteval and OpenAI's clients (docs/serve.md). The settings are those of the run's
config.yaml; only those below `serve`, `evaluate` and `engine`, the device and sampling.max_tokens
may be changed.

Does not: serve one role alone (use `vllm serve --enable-lora` with its adapter), return
log-probabilities, keep conversations.
"""

import signal
import socket
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from malt_fast.config.arguments import Program
from malt_fast.config.command import run_command
from malt_fast.config.schema import Config
from malt_fast.sampling.engine_choice import choose
from malt_fast.serving.address import check_host, listen, take_token, url_of
from malt_fast.serving.pipeline import SERVING_SETTINGS, Pipeline
from malt_fast.utils import interrupt
from malt_fast.utils.errors import MaltError

CLOSING = 10.0  # seconds that the engine may take to close

PROGRAM = Program(
    "malt_fast.serve",
    Config,
    "Answers questions with the roles of a finished run, as one OpenAI-compatible model. The "
    "settings below `serve`, `evaluate` and `engine`, the device and sampling.max_tokens may be "
    "changed.",
    ("--run runs/gsm8k", "--run runs/gsm8k --serve.port 8080 --evaluate.votes 5"),
    common=(
        *("run", "serve.host", "serve.port", "serve.max_waiting"),
        *("evaluate.votes", "engine.name", "sampling.max_tokens"),
    ),
    may_change=SERVING_SETTINGS,
)


def serve(config: Config) -> None:
    """Serve the run that a config names, until SIGINT or SIGTERM."""
    assert config.run is not None
    check_packages()
    token, settings = take_token(), config.serve
    check_host(settings.host, token)
    with listen(settings.host, settings.port) as listening:  # before the weights are loaded
        pipeline = Pipeline.open(config)
        name, engine = config.run.resolve().name, "{}, {}".format(*choose(config))
        where = f"{url_of(listening)}/v1"
        print(f"serving {name} at {where} (engine: {engine}); Ctrl-C stops it", flush=True)
        run_server(pipeline, listening, name, token, settings.max_waiting)


def run_server(
    pipeline: Pipeline, listening: socket.socket, name: str, token: str | None, max_waiting: int
) -> None:
    from malt_fast.serving.endpoint import Endpoint, Server
    from malt_fast.serving.engine_thread import EngineThread

    for stop in (signal.SIGINT, signal.SIGTERM):  # the server catches them and raises at its end
        signal.signal(stop, lambda *_: None)
    interrupt.check()  # a stop that was asked for while the weights were loaded
    thread = EngineThread(pipeline)
    endpoint = Endpoint(thread, name, token=token, max_waiting=max_waiting)
    Server(endpoint.app(), thread.stop).run(sockets=[listening])
    thread.stop()
    thread.closed.wait(CLOSING)


def check_packages() -> None:
    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise MaltError(
            f"serving needs {' and '.join(missing)}, not installed here: "
            "pip install 'malt-fast[serve]'"
        )


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(PROGRAM, serve, argv)


if __name__ == "__main__":
    sys.exit(main())
