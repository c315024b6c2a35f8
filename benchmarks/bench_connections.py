"""What bad clients cost a server: time of /health and of a small question, and memory.

    python benchmarks/bench_connections.py --run RUN [--json FILE]

Starts `malt_fast.serve` on a finished run and measures, each on connections of its own:

- calm: nothing else;
- heads: 10,000 connections that have sent half a head, opened again where the server closed them;
- bodies: 200 requests whose body of 4 MiB comes at 4 KiB a second, besides;
- question: four questions of 4 MiB that the server must refuse, besides nothing.
"""

import argparse
import json
import multiprocessing
import os
import resource
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPConnection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import httpx
from common import environment, print_table, summary, write_json

HEADS, BODIES, LONG = 10_000, 200, 4 << 20
SAMPLES, PAUSE = 50, 0.1  # requests to /health, and seconds between them
CHAT = "/v1/chat/completions"
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n"


@contextmanager
def served(run: Path) -> Iterator[tuple[str, int]]:
    """A server on a run: its address and process."""
    command = [sys.executable, "-m", "malt_fast.serve", "--run", str(run), "--serve.port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("serving"))
        yield line.split()[3].removesuffix("/v1"), process.pid
    finally:
        process.terminate()
        process.wait()


def resident(pid: int) -> float:
    """MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def connect(url: str, head: bytes) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    sock = socket.create_connection((host, int(port)), timeout=30)
    sock.sendall(head)
    sock.setblocking(False)
    return sock


def keep_open(url: str, heads: int, bodies: int, stop: Event) -> None:
    """Hold half heads and slow bodies, and open again those that the server closes."""
    selector = selectors.DefaultSelector()
    begin = {False: b"GET /health HTT", True: HEAD % LONG + b"\r\n"}

    def add(slow: bool) -> None:
        try:
            selector.register(connect(url, begin[slow]), selectors.EVENT_READ, slow)
        except OSError:
            time.sleep(0.01)

    for i in range(heads + bodies):
        add(slow=i >= heads)
    while not stop.wait(1.0):
        closed = [key for key, _ in selector.select(0)]
        for key in closed:
            selector.unregister(key.fileobj)
            key.fileobj.close()  # type: ignore[union-attr]
        for key in [k for k in selector.get_map().values() if k.data]:
            with suppress(OSError):
                key.fileobj.send(b" " * 4096)  # type: ignore[union-attr]
        for key in closed:
            add(key.data)
    for key in list(selector.get_map().values()):
        key.fileobj.close()  # type: ignore[union-attr]


def long_questions(url: str, stop: Event) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "how much " * (LONG // 10)}]})
    while not stop.is_set():
        reply = httpx.post(url + CHAT, content=body, timeout=120)
        assert reply.status_code == 400, reply.text


def small_question(url: str) -> None:
    body = {"messages": [{"role": "user", "content": "How much is 1 + 1?"}], "max_tokens": 1}
    reply = httpx.post(url + CHAT, json=body, timeout=120)
    assert reply.status_code == 200, reply.text


def ask_health(url: str) -> None:
    """On a connection of its own."""
    connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
    connection.request("GET", "/health")
    reply = connection.getresponse()
    assert reply.status == 200
    reply.read()
    connection.close()


def measure(url: str, pid: int, trouble: list[Callable[..., None]], settle: float) -> Any:
    """Seconds of /health and of a question, and memory, while `trouble` runs."""
    stop = multiprocessing.Event()
    makers = [multiprocessing.Process(target=make, kwargs={"stop": stop}) for make in trouble]
    for maker in makers:
        maker.start()
    time.sleep(settle)
    health, memory = [], []
    for _ in range(SAMPLES):
        time.sleep(PAUSE)
        begin = time.perf_counter()
        ask_health(url)
        health.append(time.perf_counter() - begin)
        memory.append(resident(pid))
    begin = time.perf_counter()
    small_question(url)
    question = time.perf_counter() - begin
    stop.set()
    for maker in makers:
        maker.join()
    return {
        "health": summary(health) | {"max_s": max(health)},
        "question": question,
        "megabytes": max(memory),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with served(given.run) as (url, pid):
        small_question(url)
        flood = partial(keep_open, url)
        cases: dict[str, tuple[list[Callable[..., None]], float]] = {
            "calm": ([], 0),
            "heads": ([partial(flood, HEADS, 0)], 15),
            "bodies": ([partial(flood, HEADS, BODIES)], 15),
            "question": ([partial(long_questions, url)] * 4, 3),
        }
        found = {name: measure(url, pid, *case) for name, case in cases.items()}
    calm = found["calm"]["megabytes"]
    rows = [
        [
            name,
            "",
            f"{1000 * values['health']['median_s']:.1f}",
            f"{1000 * values['health']['max_s']:.1f}",
            f"{values['question']:.2f}",
            f"{values['megabytes'] - calm:.0f}",
        ]
        for name, values in found.items()
    ]
    header = ["case", "", "/health, ms", "longest, ms", "question, s", "memory, MB more"]
    print_table("a server among bad clients", header, rows)
    if given.json:
        write_json(given.json, {"environment": environment(), "cases": found})


if __name__ == "__main__":
    main()
