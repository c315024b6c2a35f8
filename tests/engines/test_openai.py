"""Sampling from a server: one that behaves, and ones that do not."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from malt_fast.config.schema import EngineConfig
from malt_fast.engines import (
    Completion,
    Policy,
    Request,
    SamplingParams,
)
from malt_fast.engines import openai as module
from malt_fast.engines.openai import OpenAIEngine, check_server
from malt_fast.utils.errors import MaltError
from tests import small_run
from tests.small_run import write_model, write_questions

BASE = Policy("base")
END = 2
Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]  # status, body, headers


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.5)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


class Server:
    """Answers completions by `reply`, which gets the request's body and its number."""

    def __init__(self, reply: Callable[[dict, int], Reply], models: list[dict]) -> None:
        self.reply, self.models = reply, models
        self.bodies: list[dict] = []
        self.headers: list[Any] = []
        self.busy = self.busiest = 0
        self.lock = threading.Lock()

    def complete(self, body: dict) -> Reply:
        with self.lock:
            self.bodies.append(body)
            number = len(self.bodies)
            self.busy += 1
            self.busiest = max(self.busy, self.busiest)
        try:
            return self.reply(body, number)
        finally:
            with self.lock:
                self.busy -= 1

    def load(self, body: dict) -> Reply:
        self.models.append({"id": body["lora_name"], "parent": "base"})
        return 200, "loaded"


@contextmanager
def serving(reply: Callable[[dict, int], Reply], models: list[dict] | None = None) -> Iterator:
    server = Server(reply, models or [{"id": "base"}])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.answer((200, {"data": server.models}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            server.headers.append(self.headers)
            loads = self.path.endswith("load_lora_adapter")
            self.answer(server.load(body) if loads else server.complete(body))

        def answer(self, reply: Reply) -> None:
            status, payload, *more = reply
            data = payload.encode() if isinstance(payload, str) else json.dumps(payload).encode()
            self.send_response(status)
            for name, value in (more[0] if more else {}).items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


def said(tokens: list[int], logprobs: list) -> dict:
    choice = {"token_ids": tokens, "logprobs": {"token_logprobs": logprobs}}
    return {"choices": [choice | {"finish_reason": "stop"}]}


def output(body: dict) -> list[int]:
    """What a good server says: a function of the prompt and the seed."""
    random = np.random.default_rng([body["seed"], *body["prompt"]])
    return [*random.integers(3, 200, min(body["max_tokens"], 5) - 1).tolist(), END]


def good(body: dict, number: int = 0) -> Reply:
    tokens = output({"seed": 0} | body)
    choice = {
        "token_ids": tokens,
        "logprobs": {"token_logprobs": [-0.5 * i for i in range(len(tokens))]},
        "finish_reason": "stop",
    }
    return 200, {"choices": [choice]}


def settings(server: Server, **more: Any) -> EngineConfig:
    return EngineConfig(name="openai", base_url=server.url, max_retries=3, **more)


def asks(n: int, policy: Policy = BASE) -> list[Request]:
    params = SamplingParams(temperature=0.7, top_p=0.9, max_tokens=8, stop_token_ids=(END,))
    prompts = [np.arange(3, 5 + i, dtype=np.int32) for i in range(n)]
    return [
        Request(i, str(i), (i,), policy, prompt, params, seed=2**63 + i, priority=i)
        for i, prompt in enumerate(prompts)
    ]


def run(engine: OpenAIEngine, requests: list[Request]) -> dict[int, Completion]:
    engine.submit(requests)
    done: dict[int, Completion] = {}
    try:
        while engine.pending:
            done |= {completion.id: completion for completion in engine.poll()}
    finally:
        engine.close()
    return done


def test_tokens_go_and_come_as_they_are_by_few_requests_at_a_time(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")

    four = threading.Barrier(4)

    def slow(body: dict, number: int) -> Reply:
        if number <= 4:  # answered when all four are there
            four.wait(timeout=60)
        return good(body)

    with serving(slow) as server:
        done = run(OpenAIEngine(settings(server, concurrency=4), [BASE]), asks(30))
    assert server.busiest == 4 and server.headers[0]["authorization"] == "Bearer secret"
    bodies = {len(body["prompt"]): body for body in server.bodies}
    for request in asks(30):
        body, out = bodies[len(request.prompt)], done[request.id]
        assert body["prompt"] == request.prompt.tolist() and body["seed"] == request.id
        assert body["stop_token_ids"] == [END] and body["temperature"] == 0.7
        assert out.tokens.tolist() == output(body) and out.finish_reason == "stop"
        assert out.logprobs.tolist() == [-0.5 * i for i in range(len(out.tokens))]
    first = [len(body["prompt"]) for body in server.bodies[:8]]
    assert max(first) <= 2 + 8 + 4  # older trees first


def test_passing_troubles_are_waited_out():
    troubles: list[Reply] = [
        (429, {"error": {"message": "slow down"}}, {"retry-after": "0.02"}),
        (503, "starting"),
        (200, "no json"),
        (200, {"choices": []}),
        (500, {"error": "oops"}),
    ]

    def moody(body: dict, number: int) -> Reply:
        return troubles[number // 2 % 5] if number % 2 else good(body)

    with serving(moody) as server:
        done = run(OpenAIEngine(settings(server, concurrency=1), [BASE]), asks(20))
    assert len(server.bodies) > 20
    assert all(done[i].tokens.tolist() == good_tokens(request) for i, request in each(20))


def each(n: int) -> Iterator[tuple[int, Request]]:
    return ((request.id, request) for request in asks(n))


def good_tokens(request: Request) -> list[int]:
    prompt = request.prompt.tolist()
    return output({"prompt": prompt, "seed": request.seed % 2**63, "max_tokens": 8})


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ((429, "busy"), r"no usable answer in 4 tries \(status 429, busy\)"),
        ((200, "<html>"), "it answered garbage"),
        ((200, {"choices": [{"token_ids": [1], "logprobs": None}]}), "it answered garbage"),
        ((200, said([2**40], [-1.0])), "it answered garbage"),
        ((200, said([5], [None])), "a log-prob is missing"),
        ((401, {"error": {"message": "bad key"}}), r"refuses access \(status 401, bad key\): set"),
        ((404, {"error": {"message": "no model"}}), "status 404, no model"),
    ],
)
def test_a_server_that_fails_for_good_loses_nothing_that_came_before(reply, says):
    with serving(lambda body, number: good(body) if number <= 5 else reply) as server:
        engine = OpenAIEngine(settings(server, concurrency=1), [BASE])
        engine.submit(asks(9))
        done: list[Completion] = []
        with pytest.raises(MaltError, match=says) as caught:
            while engine.pending:
                done += engine.poll()
        engine.close()
    assert "\n" not in str(caught.value) and len(done) == 5


def test_a_failure_is_told_after_the_last_answer_under_way():
    """Even where nothing is left to ask."""

    def reply(body: dict, number: int) -> Reply:
        if output(body) == good_tokens(first):
            return 500, "gone"
        time.sleep(0.3)
        return good(body)

    first, second = asks(2)
    done: list[Completion] = []
    with serving(reply) as server:
        engine = OpenAIEngine(settings(server, concurrency=2), [BASE])
        engine.submit([first, second])
        with pytest.raises(MaltError, match="gone"):
            while engine.pending:
                done += engine.poll()
    assert [one.id for one in done] == [second.id]


def test_a_slow_server_and_a_dead_one():
    def asleep(body: dict, number: int) -> Reply:
        time.sleep(0.3)
        return good(body)

    with serving(asleep) as server:
        with pytest.raises(MaltError, match=r"no answer in 0\.05 s.*raise engine\.timeout"):
            run(OpenAIEngine(settings(server, timeout=0.05), [BASE]), asks(1))
        config = settings(server)
    with pytest.raises(MaltError, match=r"no server answers at http://127"):
        check_server(config, "base")
    with pytest.raises(MaltError, match=r"no server answers at http://127"):
        OpenAIEngine(config, [BASE])


def test_a_silent_server_does_not_hold_the_program_at_its_end():
    asleep = threading.Event()

    def silent(body: dict, number: int) -> Reply:
        asleep.wait(60)
        return good(body)

    with serving(silent) as server:
        code = f"""
import numpy as np
from malt_fast.config.schema import EngineConfig
from malt_fast.engines import Policy, Request, SamplingParams
from malt_fast.engines.openai import OpenAIEngine
engine = OpenAIEngine(EngineConfig(name="openai", base_url="{server.url}"), [Policy("base")])
prompt = np.ones(3, np.int32)
engine.submit([Request(0, "q", (0,), Policy("base"), prompt, SamplingParams(), 0)])
assert engine.poll() == []
engine.close()
"""
        done = subprocess.run([sys.executable, "-c", code], timeout=50)
        asleep.set()
    assert done.returncode == 0


def test_the_server_is_not_asked_before_it_wants():
    times: list[float] = []

    def later(body: dict, number: int) -> Reply:
        times.append(time.monotonic())
        return (429, "wait", {"retry-after": "0.4"}) if number == 1 else good(body)

    with serving(later) as server:
        run(OpenAIEngine(settings(server, concurrency=1), [BASE]), asks(1))
    assert times[1] - times[0] >= 0.4


def test_a_request_that_is_refused_fails_alone():
    def picky(body: dict, number: int) -> Reply:
        long = len(body["prompt"]) > 10
        return (400, {"error": {"message": "too long"}}) if long else good(body)

    with serving(picky) as server:
        done = run(OpenAIEngine(settings(server), [BASE]), asks(12))
    assert {i for i in done if done[i].error} == {9, 10, 11}
    assert done[9].error == "the server refused it: too long"


def test_outputs_are_as_long_as_the_servers_context_allows():
    """vLLM refuses a request whose prompt and max_tokens together exceed its context."""
    context = 12

    def strict(body: dict, number: int) -> Reply:
        fits = len(body["prompt"]) + body["max_tokens"] <= context
        return good(body) if fits else (400, {"error": {"message": "too long"}})

    with serving(strict, [{"id": "base", "max_model_len": context}]) as server:
        done = run(OpenAIEngine(settings(server), [BASE]), asks(14))
    assert {i for i in done if done[i].error} == {10, 11, 12, 13}  # prompts of 12 tokens and more
    assert done[10].error.startswith("the prompt has 12 tokens, which fill the server's context: ")
    assert max(len(body["prompt"]) + body["max_tokens"] for body in server.bodies) == context
    assert not any(body.get("ignore_eos") for body in server.bodies)


def test_servers_that_cannot_be_used_are_told_at_the_start():
    with serving(good) as server:
        check_server(settings(server), "base")
        with pytest.raises(MaltError, match="does not serve 'other' but base"):
            check_server(settings(server), "other")
    with serving(good, [{"id": "alias", "root": "/models/base"}]) as server:
        check_server(settings(server), "/models/base")
    with (
        serving(lambda body, number: (400, {"error": "prompt must be a string"})) as server,
        pytest.raises(MaltError, match=r"not take and return token ids \(prompt must be a string"),
    ):
        check_server(settings(server), "base")
    text = {"choices": [{"text": "hello", "logprobs": None, "finish_reason": "length"}]}
    with (
        serving(lambda body, number: (200, text)) as server,
        pytest.raises(MaltError, match="does not take and return token ids, so roles"),
    ):
        check_server(settings(server), "base")
    with serving(good) as server:
        server.models = None
        with pytest.raises(MaltError, match="is no OpenAI-compatible server"):
            check_server(settings(server), "base")


def test_a_run_goes_on_where_its_server_failed(tmp_path, capsys):
    """Nothing is asked twice, and the forest is that of a run that never failed."""
    data, model = write_questions(tmp_path / "q.jsonl"), write_model(tmp_path / "model")
    models = [{"id": "served", "root": str(model)}]

    def answer(body: dict, number: int) -> Reply:
        one_or_two = 3 + ord("1") - 33 + body.get("seed", 0) % 2
        choice = {
            "token_ids": [one_or_two],
            "logprobs": {"token_logprobs": [-0.7]},
            "finish_reason": "length",
        }
        return 200, {"choices": [choice]}

    def run(folder: str, server: Server) -> int:
        options = ["--engine.name", "openai", "--engine.base_url", server.url]
        options += ["--engine.concurrency", "2", "--engine.max_retries", "0"]
        return small_run.run(data, model, tmp_path / folder, *options, "--train.dpo_roles", "[]")

    def fails(body: dict, number: int) -> Reply:
        if number == 149:  # is under way when the next one fails
            time.sleep(0.5)
        return answer(body, number) if number < 150 else (500, "gone")

    with serving(fails, models) as server:
        assert run("a", server) == 2
        first = {(tuple(b["prompt"]), b.get("seed")) for b in server.bodies[1:149]}
    assert "status 500, gone" in capsys.readouterr().err
    assert not (tmp_path / "a/round-0/forest.arrows").exists()
    with serving(answer, models) as server:
        assert run("a", server) == 0
        again = {(tuple(b["prompt"]), b.get("seed")) for b in server.bodies[1:]}
    assert not first & again
    with serving(answer, models) as server:
        assert run("b", server) == 0
    assert small_run.content(tmp_path / "a") == small_run.content(tmp_path / "b")
    loaded = [model["id"] for model in server.models[1:]]
    assert loaded and all("sft-" in name for name in loaded)
