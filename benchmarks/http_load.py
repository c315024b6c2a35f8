"""A load generator for HTTP: so many clients, each with a connection of its own that is kept open.

Each client sends its next request once the answer to its last one is there, whole or in chunks. It
reads only as much of HTTP as the servers here write, so that it costs little beside them.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Load:
    """What the clients saw."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)  # seconds, of answers with status 200
    first: list[float] = field(default_factory=list)  # seconds to the first byte of an answer
    errors: dict[str, int] = field(default_factory=dict)  # by status line, or by what went wrong
    bodies: list[bytes] = field(default_factory=list)  # of whole answers

    def figures(self) -> dict[str, Any]:
        quantiles = np.quantile(self.latencies or [np.nan], [0.5, 0.9, 0.99, 1])
        names = ("p50_ms", "p90_ms", "p99_ms", "longest_ms")
        return {
            "requests": len(self.latencies),
            "requests_per_s": len(self.latencies) / self.seconds,
            **{name: 1000 * float(q) for name, q in zip(names, quantiles, strict=True)},
            "first_byte_p50_ms": 1000 * float(np.median(self.first or [np.nan])),
            "errors": self.errors,
        }


def chat(question: str, **more: Any) -> bytes:
    """A request for an answer to a question."""
    body = json.dumps({"messages": [{"role": "user", "content": question}], **more}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def read_answer(reader: asyncio.StreamReader) -> tuple[str, bytes, float]:
    """(status line, body, when its first byte came)."""
    head = await reader.readuntil(b"\r\n\r\n")
    came = time.perf_counter()
    status = head[9:12].decode()
    _, found, rest = head.lower().partition(b"content-length: ")
    if found:
        return status, await reader.readexactly(int(rest.split(b"\r\n", 1)[0])), came
    return status, await reader.readuntil(b"\r\n0\r\n\r\n"), came


async def client(
    port: int, requests: Iterator[bytes], end: float, load: Load, *, keep: bool = False
) -> None:
    """Asks until `end` or until there are no more requests; counts what goes wrong."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    for request in requests:
        begin = time.perf_counter()
        if begin >= end:
            break
        writer.write(request)
        try:
            status, body, came = await read_answer(reader)
        except (OSError, EOFError) as error:
            load.errors[type(error).__name__] = load.errors.get(type(error).__name__, 0) + 1
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
            continue
        if status == "200" and b'"error"' not in body:
            load.latencies.append(time.perf_counter() - begin)
            load.first.append(came - begin)
            if keep:
                load.bodies.append(body)
        else:
            load.errors[status] = load.errors.get(status, 0) + 1
    writer.close()


async def _run(
    port: int, requests: Iterator[bytes], clients: int, seconds: float, keep: bool
) -> Load:
    load, begin = Load(), time.perf_counter()
    end = begin + seconds
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client(port, requests, end, load, keep=keep))
    load.seconds = time.perf_counter() - begin
    return load


def run_load(
    port: int,
    requests: Iterator[bytes],
    *,
    clients: int,
    seconds: float = float("inf"),
    keep: bool = False,
) -> Load:
    """Send `requests` from `clients` connections for so long, or until all are answered."""
    return asyncio.run(_run(port, requests, clients, seconds, keep))
