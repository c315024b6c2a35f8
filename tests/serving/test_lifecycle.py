"""How the server begins, what it tells about itself, how it stops; the program."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from malt_fast import serve
from malt_fast.config.schema import ServeConfig
from malt_fast.engines.weights import Weights
from malt_fast.serving import address
from malt_fast.serving import endpoint as module
from malt_fast.serving.connections import Server
from malt_fast.serving.engine_thread import EngineThread
from malt_fast.serving.metrics import Metrics
from malt_fast.serving.pipeline import Pipeline
from malt_fast.utils.errors import MaltError
from malt_fast.utils.seals import seal
from tests.serving.scripted import (
    CHAT,
    QUESTIONS,
    ScriptedEngine,
    ask,
    make_run,
    post_aside,
    scripted,
    serving,
    shut,
    wait_until,
)

# ---- what is told about the server ----


def test_a_server_is_alive_before_it_is_ready() -> None:
    endpoint = module.Endpoint("toy")
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        serve.running(Server(endpoint.app()), listening),
    ):
        url = "http://{}:{}".format(*listening.getsockname())
        assert httpx.get(f"{url}/health").status_code == 200
        ready = httpx.get(f"{url}/ready")
        assert (ready.status_code, ready.json()) == (503, {"status": "loading"})
        early = httpx.post(url + CHAT, json=ask("?"))
        assert early.status_code == 503 and early.headers["retry-after"]
        endpoint.thread = EngineThread(scripted(ScriptedEngine(lambda r: "A:1")))
        assert httpx.get(f"{url}/ready").json() == {"status": "ok"}
        assert httpx.post(url + CHAT, json=ask("?")).status_code == 200
        endpoint.thread.failure = "it broke"
        assert [httpx.get(url + path).status_code for path in ("/ready", "/health")] == [503, 503]
        endpoint.thread.stop()


def test_metrics_count_what_happens() -> None:
    engine = shut()
    with serving(scripted(engine), token="s3cret") as (url, _):
        assert httpx.get(f"{url}/metrics").status_code == 401
        client = httpx.Client(headers={"authorization": "bearer s3cret"}, timeout=60)

        def values() -> dict[str, float]:
            lines = client.get(f"{url}/metrics").text.splitlines()
            return {k: float(v) for k, v in (x.rsplit(" ", 1) for x in lines if x[0] != "#")}

        aside = [
            threading.Thread(target=client.post, args=(url + CHAT,), kwargs={"json": ask(q)})
            for q in ("a", "b", "c")
        ]
        engine.wants = 6  # two questions
        for thread in aside:
            thread.start()
        wait_until(lambda: values()["malt_questions_waiting"] == 1)
        assert values()["malt_questions_running"] == 2
        engine.gate.set()
        for thread in aside:
            thread.join()
        client.post(url + CHAT, json={})
        client.get(f"{url}/health")
        found = values()
    assert found['malt_requests_total{status="200"}'] == 3
    assert found['malt_requests_total{status="400"}'] == 1
    assert len([name for name in found if "requests_total" in name]) == 2
    assert found["malt_generated_tokens_total"] == 3 * 9 * 4  # "A:1" and an end token
    assert found["malt_questions_running"] == found["malt_questions_waiting"] == 0
    assert found['malt_answer_seconds_bucket{le="+Inf"}'] == found["malt_answer_seconds_count"] == 3


def test_metrics_are_prometheus_text() -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    counts = Metrics()
    counts.requests.update([200, 200, 404])
    for seconds in (0.05, 0.1, 0.2, 7, 1000):
        counts.answer(seconds)
    text = counts.text(running=1, waiting=2, tokens=3)
    families = {f.name: f for f in parser.text_string_to_metric_families(text)}
    assert {name: f.type for name, f in families.items()} == {
        "malt_requests": "counter",
        "malt_questions_running": "gauge",
        "malt_questions_waiting": "gauge",
        "malt_generated_tokens": "counter",
        "malt_answer_seconds": "histogram",
    }
    buckets = {s.labels.get("le"): s.value for s in families["malt_answer_seconds"].samples}
    assert (buckets["0.1"], buckets["0.25"], buckets["10"], buckets["+Inf"]) == (2, 3, 4, 5)
    assert {s.labels["status"]: s.value for s in families["malt_requests"].samples} == {
        "200": 2,
        "404": 1,
    }


# ---- how it stops ----


def test_what_is_under_way_when_the_time_is_over_gets_503() -> None:
    with serving(scripted(shut()), grace=0.1) as (url, inside):
        thread, replies = post_aside(url, ask("?"))
        wait_until(lambda: inside.thread.jobs)
    thread.join()
    assert replies[0].status_code == 503
    assert "stopping" in replies[0].json()["error"]["message"]


def test_a_server_that_stops_finishes_what_it_began() -> None:
    engine = shut()
    with serving(scripted(engine)) as (url, inside):
        thread, replies = post_aside(url, ask("?"))
        wait_until(lambda: inside.live)
        stopping = threading.Thread(target=serve.finish, args=(inside, 60, []))
        stopping.start()
        wait_until(lambda: inside.stopping)
        late = httpx.post(url + CHAT, json=ask("late"))
        assert late.status_code == 503 and late.headers["retry-after"]
        ready = httpx.get(f"{url}/ready")
        assert (ready.status_code, ready.json()) == (503, {"status": "stopping"})
        assert httpx.get(f"{url}/health").status_code == 200
        engine.gate.set()
        thread.join()
        stopping.join()
        assert replies[0].status_code == 200


def test_a_second_signal_stops_at_once() -> None:
    with serving(scripted(shut())) as (url, inside):
        thread, replies = post_aside(url, ask("?"))
        wait_until(lambda: inside.live)
        serve.finish(inside, 60, [signal.SIGTERM, signal.SIGTERM])
        thread.join()
    assert replies[0].status_code == 503


# ---- the program ----


def start(run: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "malt_fast.serve", "--run", str(run), *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, env=os.environ | environment, stdout=pipe, stderr=pipe, text=True
    )


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_program_serves_until_it_is_stopped(
    run: Path, stop: signal.Signals, expected: dict[str, Any]
) -> None:
    process = start(run, "--serve.port", "0", MALT_FAST_API_KEY=" s3cret\n")
    assert process.stdout.readline() == f"serve: loading {run}\n"
    line = process.stdout.readline()
    try:
        assert line.startswith("serving toy at http://127.0.0.1:"), process.stderr.read()
        url = line.split()[3].removesuffix("/v1")
        with httpx.Client(timeout=60, headers={"authorization": "Bearer s3cret"}) as client:
            refused = client.get(f"{url}/v1/models", headers={"authorization": "Bearer no"})
            assert refused.status_code == 401 and "s3cret" not in refused.text
            reply = client.post(url + CHAT, json=ask(QUESTIONS[0])).json()
            assert reply["choices"][0]["message"]["content"] == expected[QUESTIONS[0]].text
            with client.stream("POST", url + CHAT, json=ask(QUESTIONS[1], stream=True)) as stream:
                lines = stream.iter_lines()
                assert '"role": "assistant"' in next(lines)
                process.send_signal(stop)
                assert [line for line in lines if line][-1] == "data: [DONE]"
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, out, errors) == (0, "", "")
        files = [path for path in run.rglob("*") if path.is_file()]
        assert "s3cret" not in line and not any(b"s3cret" in f.read_bytes() for f in files)
    finally:
        process.kill()


def test_weights_that_cannot_be_loaded_end_the_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path)
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert serve.main(["--run", str(run), "--serve.port", "0"]) == 2
    out, errors = capsys.readouterr()
    assert "serving" not in out and "cannot be loaded" in errors


def test_nothing_is_read_after_the_start(
    run: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    copy = make_run(tmp_path)
    with Pipeline.load(copy) as pipeline:
        shutil.rmtree(tmp_path / "model")
        shutil.rmtree(copy)
        answers = pipeline.answers(QUESTIONS)
    assert [answer.turns for answer in answers] == [a.turns for a in expected.values()]


def test_an_adapter_that_is_damaged_while_it_is_loaded_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    folder = run / "adapters" / "refiner" / "final"
    names = ["adapter_config.json", "adapter_model.safetensors"]
    seal(folder, "made by hand", names)
    load, path = Weights.load, folder / names[1]
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1

    def load_damaged(weights: Weights, adapter: str | None) -> None:
        path.write_bytes(damaged)
        load(weights, adapter)

    monkeypatch.setattr(Weights, "load", load_damaged)
    with pytest.raises(MaltError, match="is damaged"):
        Pipeline.load(run)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "--run is missing"),
        (["--run", "nowhere"], "nowhere holds no run"),
        (["--run", "RUN", "--serve.prot", "1"], "did you mean"),
        (["--run", "RUN", "--serve.port", "70000"], "serve.port"),
        (["--run", "RUN", "--seed", "9"], "seed was fixed by training"),
        (["--run", "RUN", "--serve.host", "0.0.0.0"], "MALT_FAST_API_KEY"),
        (["--run", "RUN", "--serve.host", "::"], "MALT_FAST_API_KEY"),
        (["--run", "RUN", "--serve.host", "my.machine"], "MALT_FAST_API_KEY"),
        (["--run", "RUN", "--serve.port", "TAKEN"], "cannot listen at"),
    ],
)
def test_mistakes_are_one_sentence(
    run: Path,
    words: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Pipeline, "open", lambda config: pytest.fail("the model was loaded"))
    monkeypatch.delenv("MALT_FAST_API_KEY", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        places = {"RUN": str(run), "TAKEN": str(taken.getsockname()[1])}
        assert serve.main([places.get(word, word) for word in words]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and shown.count("\n") == 1
    assert sentence in shown


def test_the_token_is_no_setting_and_no_child_inherits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("key" in name or "token" in name for name in ServeConfig.model_fields)
    monkeypatch.setenv(address.TOKEN, "s3cret\n")
    assert address.take_token() == "s3cret" and address.TOKEN not in os.environ
    monkeypatch.setenv(address.TOKEN, " ")
    assert address.take_token() is None


def test_hosts_that_only_this_machine_reaches_need_no_token() -> None:
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        address.check_host(host, None)
    address.check_host("0.0.0.0", "token")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    with pytest.raises(MaltError, match=r"starlette and uvicorn, .* 'uvicorn>="):
        serve.check_packages()
