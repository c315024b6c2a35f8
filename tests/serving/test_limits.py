"""What clients may cost the server: long questions, slow clients, many connections."""

import json
import logging
import random
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from errno import EMFILE
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from malt_fast.evaluation.shape import Used
from malt_fast.models.plain_text import Tokens
from malt_fast.sampling.setup import Setup
from malt_fast.serving import address, connections, endpoint
from malt_fast.serving.answer import Answer, Asked, judge
from malt_fast.serving.reading import Reader, longest_entry
from malt_fast.utils.errors import MaltError
from tests.serving.scripted import (
    CHAT,
    TOKENIZER,
    ScriptedEngine,
    ask,
    post_aside,
    scripted,
    serving,
    shut,
    wait_until,
)

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n"


def good() -> ScriptedEngine:
    return ScriptedEngine(lambda r: "A:1")


@contextmanager
def connected(url: str, data: bytes = b"") -> Iterator[socket.socket]:
    """A connection that has sent `data`."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        sock.sendall(data)
        yield sock


def everything(sock: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    data = b""
    try:
        while more := sock.recv(65536):
            data += more
    except ConnectionResetError:
        pass
    return data


# ---- what takes long ----


def merging_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["</s>", "<a very long name of a control token>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    text = ["the theatre is there", "        x", "שלום עולם", "数数数数", "🙂🙂"]
    tokenizer.train_from_iterator(text * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


@pytest.mark.parametrize("tokenizer", [TOKENIZER, merging_tokenizer()], ids=["bytes", "merges"])
def test_no_question_that_fits_is_refused_for_its_bytes(tokenizer: Any) -> None:
    longest = longest_entry(tokenizer)
    assert longest < len("<a very long name of a control token>")
    draw = random.Random(0)
    parts = ["theatre", "        ", "שלום", "数数数数", "🙂", "x", "é", "\n"]
    for _ in range(200):
        text = "".join(draw.choices(parts, k=draw.randrange(1, 60)))
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(text.encode()) <= len(tokens) * longest


def test_a_question_of_too_many_bytes_is_not_tokenised() -> None:
    prompts = scripted(good()).setup.prompts
    reader = Reader(prompts, 100)
    assert len(reader.read("é" * 50).tokens) == 100
    prompts.encode_question = lambda text: pytest.fail("it was tokenised")  # type: ignore[method-assign]
    with pytest.raises(MaltError, match="the question has 1,000 bytes, but the 100 tokens"):
        reader.read("é" * 500)


def test_long_questions_delay_nobody() -> None:
    pipeline, gate = scripted(good(), room=100_000), threading.Event()
    encode, engine = pipeline.setup.prompts.encode_question, []

    def slow(text: str) -> Tokens:
        engine.append(threading.current_thread().name == "engine")
        assert len(text) < 20_000 or gate.wait(60)
        return encode(text)

    pipeline.setup.prompts.encode_question = slow  # type: ignore[method-assign]
    with serving(pipeline) as (url, inside):
        aside = [post_aside(url, ask(letter * 30_000)) for letter in "abc"]
        wait_until(lambda: inside.live == 3 and engine)
        for _ in range(3):
            assert httpx.post(url + CHAT, json=ask("short")).status_code == 200
        assert not any(replies for _, replies in aside)
        gate.set()
        for thread, _ in aside:
            thread.join()
    assert [replies[0].status_code for _, replies in aside] == [200] * 3
    assert not any(engine)


def test_votes_are_compared_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, where = threading.Event(), []

    def slow(setup: Setup, asked: Asked, used: Used) -> Answer:
        where.append(threading.current_thread().name)
        assert asked.question.text != "hard" or gate.wait(60)
        return judge(setup, asked, used)

    monkeypatch.setattr("malt_fast.serving.pipeline.judge", slow)
    engine = ScriptedEngine(lambda r: "A:1")
    with serving(scripted(engine)) as (url, _):
        thread, replies = post_aside(url, ask("hard"))
        wait_until(lambda: where)
        other, _ = post_aside(url, ask("easy"))
        wait_until(lambda: len(engine.seen) == 18)  # the engine goes on
        assert not replies and httpx.get(f"{url}/health").status_code == 200
        gate.set()
        thread.join()
        other.join()
    assert replies[0].status_code == 200 and all(name.startswith("judge") for name in where)


# ---- slow clients ----


def test_the_token_is_asked_for_before_the_body() -> None:
    with (
        serving(scripted(good()), token="s3cret") as (url, inside),
        connected(url, HEAD % 4_000_000 + b"Authorization: Bearer no\r\n\r\n{") as sock,
    ):
        assert sock.recv(1000).startswith(b"HTTP/1.1 401")
        assert not inside.bodies.arriving


def test_heads_bodies_and_answers_have_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD", 0.2)
    monkeypatch.setattr(endpoint, "PATIENCE", 0.2)
    with serving(scripted(good())) as (url, inside), ExitStack() as open_ones:
        heads = [b"", b"GET /health HTT", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"]
        silent, half, second = (open_ones.enter_context(connected(url, head)) for head in heads)
        assert everything(silent) == everything(half) == b""
        assert second.recv(1000).startswith(b"HTTP/1.1 200")
        second.sendall(b"GET /hea")
        assert everything(second) == b""
        body = open_ones.enter_context(connected(url, HEAD % 1000 + b"\r\n{"))
        said = everything(body)
        assert said.startswith(b"HTTP/1.1 408") and b"took over" in said
        refused = open_ones.enter_context(connected(url, HEAD % 10**9 + b"\r\n"))
        with pytest.raises(OSError):  # it reads no answer
            while True:
                refused.sendall(b"x" * 10_000)
        assert httpx.post(url + CHAT, json=ask("?")).status_code == 200
        assert not inside.bodies.arriving and not inside.bodies.held


def test_a_long_head_is_refused() -> None:
    with serving(scripted(good())) as (url, _), connected(url, b"GET / HTTP/1.1\r\nX: ") as sock:
        sock.sendall(b"x" * connections.LONGEST_HEAD)
        assert everything(sock).startswith(b"HTTP/1.1 400")


def test_long_bodies_share_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "LONG_BODIES", 100_000)
    with serving(scripted(good(), room=10**6)) as (url, inside), ExitStack() as open_ones:
        part = HEAD % 200_000 + b"\r\n" + b"x" * 90_000
        first = open_ones.enter_context(connected(url, part))
        wait_until(lambda: inside.bodies.held)
        second = open_ones.enter_context(connected(url, part))
        assert second.recv(1000).startswith(b"HTTP/1.1 503")
        assert httpx.post(url + CHAT, json=ask("x" * 15_000)).status_code == 200
        first.close()
        wait_until(lambda: not inside.bodies.held)
        assert httpx.post(url + CHAT, json=ask("x" * 50_000)).status_code == 200


def test_long_bodies_are_held_until_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "LONG_BODIES", 100_000)
    pipeline, gate = scripted(good(), room=10**6), threading.Event()
    encode = pipeline.setup.prompts.encode_question
    pipeline.setup.prompts.encode_question = (  # type: ignore[method-assign]
        lambda text: encode(text) if gate.wait(60) else pytest.fail("it was never opened")
    )
    with serving(pipeline) as (url, inside):
        thread, replies = post_aside(url, ask("x" * 90_000))
        wait_until(lambda: inside.live)
        assert httpx.post(url + CHAT, json=ask("x" * 90_000)).status_code == 503
        gate.set()
        thread.join()
        assert replies[0].status_code == 200 and not inside.bodies.held
        assert httpx.post(url + CHAT, json=ask("x" * 90_000)).status_code == 200


def test_a_long_question_that_is_refused_holds_up_other_long_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoint, "REST", 10**9)
    with serving(scripted(good(), room=60_000), grace=0) as (url, inside):
        for size in (50_000, 50_000):  # nobody waits after one that is answered
            assert httpx.post(url + CHAT, json=ask("x" * size)).status_code == 200
        assert httpx.post(url + CHAT, json=ask("x" * 90_000)).status_code == 400
        with pytest.raises(httpx.TimeoutException):
            httpx.post(url + CHAT, json=ask("x" * 50_000), timeout=0.3)
        assert httpx.post(url + CHAT, json=ask("short")).status_code == 200
        assert inside.long.locked()


def test_refusals_take_no_thread() -> None:
    with serving(scripted(good())) as (url, _):
        for _ in range(20):
            assert httpx.post(url + CHAT, json={}).status_code == 400
            assert httpx.get(f"{url}/nowhere").status_code == 404
        assert not any("AnyIO" in thread.name for thread in threading.enumerate())


def test_no_more_bodies_arrive_at_once_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "ARRIVING", 2)
    with serving(scripted(good())) as (url, inside), ExitStack() as open_ones:
        for _ in range(2):
            open_ones.enter_context(connected(url, HEAD % 9 + b"\r\n"))
        wait_until(lambda: inside.bodies.arriving == 2)
        reply = httpx.post(url + CHAT, json=ask("?"))
        assert reply.status_code == 503 and reply.headers["retry-after"]


# ---- many connections ----


def test_accepted_connections_send_at_once() -> None:
    with address.listen("127.0.0.1", 0) as listening, ExitStack() as open_ones:
        open_ones.enter_context(socket.create_connection(listening.getsockname()))
        accepted = open_ones.enter_context(listening.accept()[0])
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_connection_that_waited_longest_gives_way() -> None:
    with (
        serving(scripted(shut()), connections=4, grace=0) as (url, inside),
        ExitStack() as open_ones,
    ):
        body = json.dumps(ask("?")).encode()
        open_ones.enter_context(connected(url, HEAD % len(body) + b"\r\n" + body))
        wait_until(lambda: inside.live)
        silent = [open_ones.enter_context(connected(url, b"GET /")) for _ in range(50)]
        assert all(everything(sock) == b"" for sock in silent[:47])
        assert httpx.get(f"{url}/health").status_code == 200
        assert everything(silent[47]) == b""
        silent[49].sendall(b"health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert silent[49].recv(1000).startswith(b"HTTP/1.1 200")
        assert inside.live == 1


def test_connections_follow_from_the_files_that_may_be_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = [256, 600]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, new: limits.__setitem__(0, new[0]))
    with pytest.raises(MaltError, match=r"serve.max_waiting = 256 needs .* may have 600"):
        connections.room_for_connections(256)
    limits[:] = [256, 10**6]
    assert connections.room_for_connections(256) == 256 + connections.SPARE
    assert 256 + connections.SPARE < limits[0] < 10_000
    limits[:] = [resource.RLIM_INFINITY, resource.RLIM_INFINITY]
    assert connections.room_for_connections(9000) == 9000 + connections.SPARE


def test_failing_connections_write_a_line_a_second(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(connections.time, "monotonic", lambda: now[0])
    logger = logging.getLogger("test of connections")
    logger.addFilter(connections.OnceASecond())
    for _ in range(30):
        now[0] += 0.1
        try:
            raise OSError(EMFILE, "Too many open files")
        except OSError as error:
            logger.error("socket.accept() out of system resource\nsocket: x", exc_info=error)
    assert len(caplog.records) == 3
    assert {(r.getMessage(), r.exc_info) for r in caplog.records} == {
        ("socket.accept() out of system resource: [Errno 24] Too many open files", None)
    }
