"""The endpoint with real clients: what they get, what they are refused."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from malt_fast.engines import Completion, Request
from malt_fast.serving import endpoint as module
from malt_fast.serving import openapi
from malt_fast.serving.openai_format import ChatBody, Message, TextBody, cut
from malt_fast.serving.pipeline import Pipeline
from malt_fast.utils.errors import MaltError
from tests.serving.scripted import (
    CHAT,
    QUESTIONS,
    ScriptedEngine,
    ask,
    post_aside,
    scripted,
    serving,
    shut,
    wait_until,
)

# ---- a real run ----


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[str]:
    with serving(Pipeline.load(run)) as (url, _):
        yield url


@pytest.fixture
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_chat_says_what_the_pipeline_says(client: openai.OpenAI, expected: dict[str, Any]) -> None:
    for question, answer in expected.items():
        reply = client.chat.completions.create(
            **ask(question), extra_body={"malt": {"turns": True}}
        )
        assert reply.choices[0].message.content == answer.text
        assert reply.choices[0].finish_reason == answer.finish_reason
        assert reply.usage.prompt_tokens == answer.prompt_tokens
        assert reply.usage.completion_tokens == answer.completion_tokens
        assert reply.model_extra["malt"] == {
            "answer": answer.answer,
            "votes": answer.votes,
            "passes": 3,
            "turns": answer.turns,
        }


def test_completions_say_the_same(client: openai.OpenAI, expected: dict[str, Any]) -> None:
    for prompt in (QUESTIONS[0], [QUESTIONS[0]]):
        reply = client.completions.create(model="toy", prompt=prompt)
        assert reply.choices[0].text == expected[QUESTIONS[0]].text
        assert reply.object == "text_completion"
        assert "malt" not in reply.model_extra


def test_a_stream_is_the_answer_in_pieces(
    client: openai.OpenAI, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("malt_fast.serving.openai_format.PIECE", 2)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    answer = expected[QUESTIONS[1]]
    *chunks, last = client.chat.completions.create(
        **ask(QUESTIONS[1], **options), extra_body={"malt": {"turns": True}}
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == answer.text and max(map(len, pieces)) <= 2
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason == answer.finish_reason
    assert chunks[-1].model_extra["malt"]["votes"] == answer.votes
    assert last.choices == [] and last.usage.completion_tokens == answer.completion_tokens
    assert len({chunk.id for chunk in [*chunks, last]}) == 1

    plain = list(client.completions.create(model="toy", prompt=QUESTIONS[1], stream=True))
    assert "".join(chunk.choices[0].text for chunk in plain) == answer.text
    assert plain[-1].choices[0].finish_reason == answer.finish_reason and plain[-1].usage is None


def test_eight_at_once_get_what_each_gets_alone(server: str, expected: dict[str, Any]) -> None:
    with httpx.Client(base_url=server, timeout=60) as client, ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda q: client.post(CHAT, json=ask(q)).json(), QUESTIONS))
    said = [reply["choices"][0]["message"]["content"] for reply in replies]
    assert said == [expected[question].text for question in QUESTIONS]


def test_a_seed_decides(server: str, run: Path) -> None:
    with httpx.Client(base_url=server, timeout=60) as client:
        told = [
            client.post(CHAT, json=ask(QUESTIONS[0], seed=seed, malt={"turns": True})).json()
            for seed in (5, 5, 3, 2**70)
        ]
    turns = [reply["malt"]["turns"] for reply in told]
    assert turns[0] == turns[1] != turns[2] != turns[3]
    with Pipeline.load(run) as pipeline:
        assert [pipeline.answer(QUESTIONS[0], seed=s).turns for s in (5, 3)] == [turns[0], turns[2]]


def test_temperature_and_max_tokens(server: str) -> None:
    with httpx.Client(base_url=server, timeout=60) as client:
        body = ask(QUESTIONS[0], temperature=0, max_tokens=1, malt={"turns": True})
        reply = client.post(CHAT, json=body).json()
        newer = client.post(CHAT, json=ask(QUESTIONS[0], temperature=0, max_completion_tokens=1))
    first, *others = reply["malt"]["turns"]
    assert others == [first, first] and len(first["refiner"]) <= 1
    assert newer.json()["choices"][0]["message"]["content"] == first["refiner"]


def test_right_to_left_text_and_parts(server: str, run: Path) -> None:
    question = "כמה זה 1 ועוד 1? \u202eabc"
    parts = [{"type": "text", "text": question[:7]}, {"type": "text", "text": question[7:]}]
    body = {"messages": [{"role": "user", "content": parts}], "malt": {"turns": True}}
    reply = httpx.post(server + CHAT, json=body, timeout=60).json()
    with Pipeline.load(run) as pipeline:
        assert reply["malt"]["turns"] == pipeline.answer(question).turns


def test_models_and_health(client: openai.OpenAI, server: str) -> None:
    assert [model.id for model in client.models.list()] == ["toy"]
    assert httpx.get(f"{server}/health").json() == {"status": "ok"}


# ---- what is refused ----


@pytest.fixture(scope="module")
def scripted_server() -> Iterator[str]:
    with serving(scripted(ScriptedEngine(lambda r: None if r.question == "bad" else "A:1"))) as s:
        yield s[0]


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    [
        (CHAT, b"{", 400, "not a JSON object"),
        (CHAT, b"", 400, "not a JSON object"),
        (CHAT, b"\x00\xff\xfe\x80 binary \xc3", 400, "not a JSON object"),
        (CHAT, b"[" * 100_000, 400, "not a JSON object"),
        (CHAT, [1], 400, "not a JSON object"),
        (CHAT, {}, 400, "'messages' is missing"),
        (CHAT, {"messages": []}, 400, "messages is empty"),
        (CHAT, {"messages": [{"role": "user"}] * 9999}, 400, "9,999 messages: send at most 1,024"),
        (CHAT, ask(" "), 400, "the last message is empty"),
        (CHAT, {"messages": "x"}, 400, "messages = 'x' is not possible: it must be a list"),
        (CHAT, {"messages": [1]}, 400, "messages.0 = 1 is not possible: it must be an object"),
        (CHAT, ask("?", malt="x"), 400, "malt = 'x' is not possible: it must be an object"),
        (CHAT, ask("?", n=True), 400, "n = true is not possible"),
        (CHAT, ask("?", n=2), 400, "n = 2 is not possible: it must be valid (1, as"),
        (CHAT, ask("?", max_tokens=0), 400, "max_tokens = 0"),
        (CHAT, ask("?", temperature=-1), 400, "temperature = -1"),
        (CHAT, ask("?", seed="x"), 400, "seed = 'x'"),
        (CHAT, ask("?", seed="7"), 400, "seed = '7'"),
        (CHAT, ask("?", seed=True), 400, "seed = true"),
        (CHAT, ask("?", n=True), 400, "n = true"),
        (CHAT, ask("?", temperature=True), 400, "temperature = true"),
        (CHAT, ask("?", stream="yes"), 400, "stream = 'yes'"),
        (CHAT, ask("?", malt={"turns": 0}), 400, "malt.turns = 0"),
        (CHAT, ask("?", logprobs=True), 400, "echo and logprobs are not served"),
        (CHAT, b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, "half a Unicode"),
        (CHAT, b'{"model": "\\ud800", "messages": [{"role": "user"}]}', 404, "no model"),
        (CHAT, ask("?") | {"model": "gpt"}, 404, "no model 'gpt' here: ask for 'toy'"),
        (CHAT, {"messages": [{"role": "tool", "content": "?"}]}, 400, "messages.0.role"),
        (CHAT, {"messages": [{"role": "assistant", "content": "?"}]}, 400, "must come last"),
        (CHAT, ask([{"type": "image_url", "image_url": {}}]), 400, "not image_url"),
        (CHAT, ask([{"type": "image_url", "text": "?"}]), 400, "not image_url"),
        (CHAT, ask([{"text": "?"}]), 400, "not None"),
        (CHAT, ask(["?"]), 400, "not str"),
        (CHAT, ask([{"type": "text", "text": 1}]), 400, "parts of type text only"),
        (CHAT, ask("x" * 201), 400, "201 tokens, and 200 fit"),
        (CHAT, ask("x" * 1_000_000), 400, "1,000,000 bytes"),
        (CHAT, ask("x" * 5_000_000), 413, "longer than 4,194,304 bytes"),
        (CHAT, ask("bad"), 500, "no pass was finished: lost"),
        ("/v1/completions", {"prompt": ""}, 400, "the question is empty"),
        ("/v1/completions", {"prompt": [[1, 2]]}, 400, "token ids"),
        ("/v1/completions", {"prompt": ["a", "b"]}, 400, "one prompt"),
        ("/v1/completions", {"prompt": "?", "echo": True, "logprobs": 1}, 400, "not served"),
        ("/v1/completions", {"prompt": "?", "logprobs": 0}, 400, "not served"),
        ("/v1/embeddings", {}, 404, "is not served"),
    ],
)
def test_mistakes_are_told_as_openai_does(
    scripted_server: str, path: str, body: Any, status: int, sentence: str
) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = httpx.post(scripted_server + path, content=data, timeout=60)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert sentence in error["message"] and len(error["message"]) < 600
    assert error["type"] == ("server_error" if status == 500 else "invalid_request_error")


def test_a_stream_tells_what_went_wrong(scripted_server: str) -> None:
    reply = httpx.post(scripted_server + CHAT, json=ask("bad", stream=True))
    lines = [line for line in reply.text.splitlines() if line]
    assert json.loads(lines[-2].removeprefix("data: "))["error"]["message"].endswith("lost")
    assert lines[-1] == "data: [DONE]"
    refused = httpx.post(scripted_server + CHAT, json=ask("x" * 201, stream=True))
    assert refused.status_code == 400  # before the stream begins
    assert httpx.get(scripted_server + CHAT).status_code == 405


def test_unknown_fields_and_nulls_are_ignored(scripted_server: str) -> None:
    nulls = dict.fromkeys(["n", "seed", "stop", "temperature", "max_tokens", "stream", "logprobs"])
    body = ask("?", **nulls, top_p=0.5, user="me", tools=[])
    assert httpx.post(scripted_server + CHAT, json=body).status_code == 200


def test_whole_numbers_may_have_a_point(scripted_server: str) -> None:
    body = ask("?", n=1.0, seed=7.0, max_tokens=9.0, max_completion_tokens=9.0, temperature=1)
    assert httpx.post(scripted_server + CHAT, json=body).status_code == 200
    refused = httpx.post(scripted_server + CHAT, json=ask("?", seed=7.5))
    assert refused.status_code == 400 and "a whole number" in refused.text


def test_stop_cuts_the_final_text(scripted_server: str) -> None:
    for stop, text in [("1", "A:"), (["x", ":", "1"], "A"), ([], "A:1"), (["A", ""], "")]:
        reply = httpx.post(scripted_server + CHAT, json=ask("?", stop=stop)).json()
        assert reply["choices"][0]["message"]["content"] == text
    assert cut("abcabc", ["c", "bc"]) == "a"


def test_earlier_turns_stand_before_the_question() -> None:
    def question(*turns: tuple[str, str]) -> str:
        return ChatBody(messages=[Message(role=r, content=c) for r, c in turns]).question

    assert question(("user", "q ")) == "q "
    assert question(("system", "be brief"), ("user", "q")) == "be brief\n\nq"
    turns = [("system", "s"), ("user", "1+1?"), ("assistant", "2"), ("user", "2+2?")]
    assert question(*turns) == "s\n\nUser: 1+1?\n\nAssistant: 2\n\nUser: 2+2?"


def test_a_token_is_demanded_where_there_is_one() -> None:
    with serving(scripted(ScriptedEngine(lambda r: "A:1")), token="s3crét") as (url, _):
        for given in ({}, {"authorization": "Bearer no"}, {"authorization": "s3crét".encode()}):
            for reply in (
                httpx.post(url + CHAT, json=ask("?"), headers=given),
                httpx.get(f"{url}/v1/models", headers=given),
            ):
                assert reply.status_code == 401
                assert reply.json()["error"]["code"] == "invalid_api_key"
        for kind in ("Bearer", "bearer", "BEARER "):
            right = {"authorization": f"{kind} s3crét".encode()}
            assert httpx.post(url + CHAT, json=ask("?"), headers=right).status_code == 200
        assert httpx.get(f"{url}/health").status_code == 200


def test_why_the_engine_failed_is_told_to_those_with_the_token() -> None:
    with serving(scripted(ScriptedEngine()), token="s3cret") as (url, inside):
        inside.thread.failure = "cannot read /home/me/model"
        assert httpx.get(f"{url}/health").json() == {"status": "failed"}
        right = {"authorization": "Bearer s3cret"}
        assert "/home/me" in httpx.get(f"{url}/health", headers=right).json()["error"]


def test_a_question_that_outgrows_the_context_later_is_too_long() -> None:
    def long(request: Request) -> str:
        return "A:1" if request.question == "short" else "x" * 60

    pipeline = scripted(ScriptedEngine(long), context=100)
    with serving(pipeline) as (url, _):
        assert httpx.post(url + CHAT, json=ask("short")).status_code == 200
        reply = httpx.post(url + CHAT, json=ask("q" * 40))
        assert reply.status_code == 400
        message = reply.json()["error"]["message"]
        assert "what the verifier reads has grown to 105 tokens" in message
        assert "the model's context holds 100" in message
        stream = httpx.post(url + CHAT, json=ask("q" * 40, stream=True))
        assert '"type": "invalid_request_error"' in stream.text and message in stream.text


def test_a_real_model_refuses_it_too(server: str) -> None:
    reply = httpx.post(server + CHAT, json=ask("q" * 2041), timeout=60)
    error = reply.json()["error"]
    assert reply.status_code == 400, error
    assert "has grown to" in error["message"] and "/" not in error["message"]


def test_messages_hold_no_path_of_the_server() -> None:
    reason = "cannot read '/home/me/runs/toy/model': see http://127.0.0.1/x and a/b"
    reply = json.loads(module.refusal(module.ApiError(500, reason)).body)
    shown = "cannot read 'model': see http://127.0.0.1/x and a/b"
    assert reply["error"]["message"] == shown


def test_addresses_are_read_as_clients_write_them(scripted_server: str) -> None:
    for path in ("/v1/models/toy", "/v1/models/toy/", "/v1//models/toy"):
        assert httpx.get(scripted_server + path).json()["id"] == "toy"
    unknown = httpx.get(f"{scripted_server}/v1/models/gpt")
    assert unknown.status_code == 404 and unknown.json()["error"]["code"] == "model_not_found"
    for path in ("/v1//chat/completions", "/v1/chat/completions/"):
        assert httpx.post(scripted_server + path, json=ask("?")).status_code == 200
    assert httpx.get(f"{scripted_server}/v1/models/").json()["data"][0]["id"] == "toy"


# ---- clients that leave, engines that fail ----


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_takes_its_question_with_it(stream: bool) -> None:
    engine = shut()
    pipeline = scripted(engine)
    with serving(pipeline, max_waiting=1) as (url, inside):
        with httpx.Client(timeout=0.5) as client, pytest.raises(httpx.TimeoutException):
            client.post(url + CHAT, json=ask("left", stream=stream))
        wait_until(lambda: not inside.live and not pipeline.asked)
        asked = len(engine.seen)
        engine.gate.set()
        reply = httpx.post(url + CHAT, json=ask("stayed"))
        assert reply.status_code == 200
        assert {r.question for r in engine.seen[asked:]} == {"stayed"}
        assert not inside.live and not inside.thread.jobs


def test_more_questions_than_may_wait_get_429() -> None:
    engine = shut()
    with serving(scripted(engine), max_waiting=2) as (url, inside):
        aside = [post_aside(url, ask(text)) for text in "ab"]
        wait_until(lambda: inside.live == 2)
        reply = httpx.post(url + CHAT, json=ask("c"))
        assert reply.status_code == 429 and reply.headers["retry-after"] == "1"
        assert reply.json()["error"]["type"] == "rate_limit_error"
        assert "serve.max_waiting" in reply.json()["error"]["message"]
        engine.gate.set()
        for thread, _ in aside:
            thread.join()
        assert [replies[0].status_code for _, replies in aside] == [200, 200]
        assert httpx.post(url + CHAT, json=ask("c")).status_code == 200


def test_a_stream_is_kept_alive_while_the_roles_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_ALIVE", 0.02)
    engine = shut()
    with (
        serving(scripted(engine)) as (url, _),
        httpx.stream("POST", url + CHAT, json=ask("?", stream=True), timeout=60) as reply,
    ):
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = reply.iter_lines()
        assert '"role": "assistant"' in next(lines)
        assert next(line for line in lines if line) == ": the roles are at work"
        engine.gate.set()
        assert [line for line in lines if line][-1] == "data: [DONE]"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MaltError("the engine is out of power: plug it in"), "plug it in"),
        (RuntimeError("CUDA error\nmore"), "the engine failed (CUDA error)"),
    ],
)
def test_when_the_engine_dies_everybody_is_told(error: Exception, sentence: str) -> None:
    engine = shut()

    def broken() -> list[Completion]:
        if engine.gate.wait(0.01):
            raise error
        return []

    engine.poll = broken  # type: ignore[method-assign]
    with serving(scripted(engine)) as (url, inside):
        aside = [post_aside(url, ask("a")), post_aside(url, ask("b", stream=True))]
        wait_until(lambda: len(inside.thread.jobs) == 2)
        engine.gate.set()
        for thread, _ in aside:
            thread.join()
        (whole,), (stream,) = (replies for _, replies in aside)
        assert whole.status_code == 503 and sentence in whole.json()["error"]["message"]
        assert stream.status_code == 200 and sentence in stream.text
        later = httpx.post(url + CHAT, json=ask("c"))
        assert later.status_code == 503 and sentence in later.json()["error"]["message"]
        health = httpx.get(f"{url}/health")
        assert health.status_code == 503 and sentence in health.json()["error"]
        assert engine.closed


# ---- what it says about itself ----


def test_the_description_names_every_route_and_field(scripted_server: str) -> None:
    reply = httpx.get(f"{scripted_server}/openapi.json")
    described = reply.json()
    routes = {
        (route.path.replace(":path", ""), method.lower())
        for route in module.Endpoint("toy").routes()
        for method in route.methods or ()
        if method != "HEAD" and route.path != "/openapi.json"
    }
    named = {
        (path, method)
        for path, item in described["paths"].items()
        for method in item
        if method in ("get", "post")
    }
    assert named == routes
    for path, kind in ((CHAT, ChatBody), ("/v1/completions", TextBody)):
        question = described["paths"][path]["post"]
        schema = question["requestBody"]["content"]["application/json"]["schema"]
        assert set(schema["properties"]) == set(kind.model_fields)
        assert {"200", "400", "401", "404", "408", "413", "429", "500", "503"} == set(
            question["responses"]
        )
    assert "$defs" not in reply.text and '"security": []' in reply.text
    assert openapi.described("toy", token=True)["security"]


def test_a_wrong_method_is_told_the_right_ones(scripted_server: str) -> None:
    reply = httpx.get(scripted_server + CHAT)
    assert reply.status_code == 405 and reply.headers["allow"] == "POST"
    assert reply.json()["error"]["message"] == f"GET {CHAT} is not served: use POST"
