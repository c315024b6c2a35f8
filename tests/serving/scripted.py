"""For tests of serving: a run made by hand, a scripted engine, a server in a thread."""

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from malt_fast.config.load import dump, make_config
from malt_fast.engines import Completion, Policy, Request
from malt_fast.sampling.setup import Setup
from malt_fast.serve import finish, running
from malt_fast.serving.address import listen
from malt_fast.serving.connections import SPARE, Server
from malt_fast.serving.endpoint import Endpoint
from malt_fast.serving.engine_thread import EngineThread
from malt_fast.serving.pipeline import Pipeline
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.task import Task
from malt_fast.tasks.wording import RolePrompt
from tests.adapters import make_adapter, write_index
from tests.small_run import write_model, write_questions
from tests.tiny import byte_tokenizer

CHAIN = ["generator", "verifier", "refiner"]
WORDING = {
    "generator": "{question} G:",
    "verifier": "{question} {generator} V:",
    "refiner": "{question} {generator} {verifier} R:",
}
QUESTIONS = [f"one or two? ({i})" for i in range(8)]
CHAT = "/v1/chat/completions"
TOKENIZER = byte_tokenizer()
END = TOKENIZER.eos_token_id


def make_run(folder: Path) -> Path:
    """A run whose verifier got no adapter and whose generator got no DPO, and its model."""
    model, run = write_model(folder / "model"), folder / "toy"
    (folder / "prompts.yaml").write_text(json.dumps({"chat": False, "prompts": WORDING}))
    task = {
        "name": "jsonl",
        "path": str(write_questions(folder / "questions.jsonl")),
        "grader": "number",
        "prompts": str(folder / "prompts.yaml"),
    }
    values = {
        "seed": 3,
        "task": task,
        "model": {"name_or_path": str(model), "device": "cpu"},
        "engine": {"name": "hf"},
        "sampling": {"temperature": 1, "max_tokens": 4},
    }
    adapters = run / "adapters"
    for seed, place in enumerate(["generator/sft", "refiner/sft", "refiner/final"]):
        make_adapter(str(model), adapters / place, seed)
    write_index(run, {"generator": "sft", "refiner": "dpo"})
    (run / "config.yaml").write_text(dump(make_config(values)))
    return run


@cache
def encode(text: str) -> np.ndarray:
    return np.array([*TOKENIZER(text)["input_ids"], END], np.int32)


def say(request: Request) -> str | None:
    """Mostly an answer, sometimes none or a failure: a hash of everything that may matter."""
    key = (request.policy, request.prompt.tobytes(), request.seed, request.params)
    draw = hashlib.sha256(repr(key).encode()).digest()
    if draw[0] < 10:
        return None
    return "no idea" if draw[0] < 40 else f"{'x' * (draw[1] % 4)} A:{draw[2] % 3}"


class ScriptedEngine:
    """Answers by `script` (None: a failure), a few at a time in any order, while `gate` is open."""

    wants = 20

    def __init__(self, script: Callable[[Request], str | None] = say, order: int = 0) -> None:
        self.script, self.random = script, random.Random(order)
        self.waiting: list[Request] = []
        self.seen: list[Request] = []
        self.gate = threading.Event()
        self.gate.set()
        self.closed = False

    @property
    def pending(self) -> int:
        return len(self.waiting)

    def submit(self, requests: Sequence[Request]) -> None:
        self.waiting += requests
        self.seen += requests

    def poll(self) -> list[Completion]:
        if not self.gate.wait(0.01):
            return []
        self.random.shuffle(self.waiting)
        n = 5 + len(self.waiting) // 4
        done, self.waiting = self.waiting[:n], self.waiting[n:]
        return [self._answer(request) for request in done]

    def _answer(self, request: Request) -> Completion:
        text = self.script(request)
        if text is None:
            return Completion.failed(request.id, "lost")
        tokens = encode(text)[: request.params.max_tokens]
        reason = "stop" if tokens[-1] == END else "length"
        return Completion(request.id, tokens, np.zeros(len(tokens), np.float32), reason)

    def figures(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        self.closed = True


def scripted(
    engine: ScriptedEngine, room: int = 200, context: int = 10**9, **evaluating: object
) -> Pipeline:
    """A pipeline of three trained roles on a scripted engine."""
    wording = {role: RolePrompt(None, text) for role, text in WORDING.items()}
    prompts = Prompts(CHAIN, wording, TOKENIZER, chat=False)
    config = make_config({"seed": 4, "evaluate": evaluating})
    policies = {role: Policy("m", role) for role in CHAIN}
    setup = Setup(config, Task("jsonl", [], [], wording, False, "number"), prompts)
    return Pipeline(setup, policies, engine, room, context)


@contextmanager
def serving(
    pipeline: Pipeline,
    *,
    token: str | None = None,
    max_waiting: int = 256,
    connections: int = SPARE,
    grace: float = 60,
) -> Iterator[tuple[str, Endpoint]]:
    """A server on a free port of the loopback: its address, and its inside."""
    endpoint = Endpoint("toy", token=token, max_waiting=max_waiting)
    server = Server(endpoint.app(), connections)
    with listen("127.0.0.1", 0) as listening, running(server, listening):
        thread = endpoint.thread = EngineThread(pipeline)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", endpoint
        finally:
            finish(endpoint, grace, [])
    thread.closed.wait()


# ---- clients ----


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "toy", "messages": [{"role": "user", "content": text}], **more}


def wait_until(ready: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def shut() -> ScriptedEngine:
    """An engine that answers nothing until its gate is opened."""
    engine = ScriptedEngine(lambda r: "A:1")
    engine.gate.clear()
    return engine


def post_aside(url: str, body: dict[str, Any]) -> tuple[threading.Thread, list[httpx.Response]]:
    """A request in a thread, and where its answer will be."""
    replies: list[httpx.Response] = []
    thread = threading.Thread(
        target=lambda: replies.append(httpx.post(url + CHAT, json=body, timeout=60))
    )
    thread.start()
    return thread, replies
