"""One OpenAI-compatible endpoint that answers by the chain: `python -m malt_fast.serve --run DIR`.

Every question goes through generator, verifier and refiner, `evaluate.votes` times, and the
majority's answer is what the client gets. Serves /v1/chat/completions, /v1/completions, /v1/models
and /health, for lm-eval, lighteval and OpenAI's clients (docs/serve.md). The settings are those of
the run's config.yaml; only those below `serve`, `evaluate` and `engine`, the device and
sampling.max_tokens may be changed.

Does not: serve one role alone (an adapter of the run does, under `vllm serve --enable-lora`), give
log-probabilities, keep conversations.
"""

import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from malt_fast.config.arguments import Program
from malt_fast.config.command import run_command
from malt_fast.config.schema import Config, ServeConfig
from malt_fast.sampling.engine_choice import choose
from malt_fast.serving.pipeline import MAY_CHANGE, Pipeline
from malt_fast.utils import interrupt
from malt_fast.utils.errors import MaltError

TOKEN = "MALT_FAST_API_KEY"  # no setting: settings are written to files and shown to people
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
    may_change=MAY_CHANGE,
)


def serve(config: Config) -> None:
    """Serve the run that a config names, until SIGINT or SIGTERM."""
    assert config.run is not None
    check_packages()
    token = take_token()
    check_host(config.serve.host, token)
    with bind(config.serve) as listening:  # before the weights are loaded
        pipeline = Pipeline.open(config)
        host, port = listening.getsockname()[:2]
        name = config.run.resolve().name
        at = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        told = "{}, {}".format(*choose(config))
        print(f"serving {name} at {at}/v1 (engine: {told}); Ctrl-C stops it", flush=True)
        run_server(pipeline, config.serve, name, token, listening)


def run_server(
    pipeline: Pipeline,
    settings: ServeConfig,
    name: str,
    token: str | None,
    listening: socket.socket,
) -> None:
    from malt_fast.serving.endpoint import Endpoint, Server
    from malt_fast.serving.thread import EngineThread

    for stop in (signal.SIGINT, signal.SIGTERM):  # which the server catches, and raises at its end
        signal.signal(stop, lambda *_: None)
    interrupt.check()  # one that came while the weights were loaded
    thread = EngineThread(pipeline)
    endpoint = Endpoint(thread, name, token=token, max_waiting=settings.max_waiting)
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


def take_token() -> str | None:
    """What clients must send, if anything; no child process of this one inherits it."""
    return os.environ.pop(TOKEN, "").strip() or None


def check_host(host: str, token: str | None) -> None:
    """Raises MaltError for an address that others reach where no token guards it."""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback and token is None:
        raise MaltError(
            f"serve.host = '{host}' can be reached by others, and nothing keeps them out: set "
            f"{TOKEN} to a token that clients send, or leave serve.host at 127.0.0.1"
        )


def bind(settings: ServeConfig) -> socket.socket:
    """A listening socket. Raises MaltError for a port that is taken and a host that is not ours."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        raise MaltError(
            f"{settings.host}:{settings.port} cannot be served at ({error.strerror or error}): "
            "give another --serve.port, or --serve.host"
        ) from None


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(PROGRAM, serve, argv)


if __name__ == "__main__":
    sys.exit(main())
