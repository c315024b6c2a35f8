"""Connections and their limits: uvicorn's server, with what it leaves open closed.

uvicorn bounds the size of a request's head and closes idle connections. Here is the rest: a limit
on connections, and on the time that a client takes to send a head or to read an answer. Among more
connections than the limit, the one that has waited longest without a request gives way, so that
clients who connect and send nothing keep nobody out. Limits on bodies are the endpoint's.
"""

import asyncio
import logging
import resource
import socket
import time
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from malt_fast.utils.errors import MaltError

HEAD = 10.0  # seconds to send the head of a request, or what is left of a body that was refused
READING = 60.0  # seconds to read an answer that does not fit into the socket's buffer
IDLE = 75  # seconds between requests: more than the 60 s of proxies, which reuse connections
LONGEST_HEAD = 32 << 10  # bytes
SPARE = 1024  # connections besides those of questions in progress
BACKLOG = 64  # connections that are accepted before others are served again
AHEAD = 4096  # connections that the kernel accepts ahead; others try again, 1 s later
FILES = 192  # descriptors for everything else
CLOSING = 5  # seconds to send the last answers


class State(ServerState):
    """What all connections know: their limit, and until when each may go without a request."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.until: dict[Connection, float] = {}  # in the loop's time; longest waiting first

    async def close_late(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in [c for c, until in self.until.items() if until < now]:
            connection.transport.abort()


class Connection(H11Protocol):
    """A connection that is closed when its client takes too long, or too many others come."""

    server_state: State

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._give(HEAD)
        if len(self.connections) > self.server_state.limit:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        if not self._answering:
            self._give(HEAD)
        super().data_received(data)
        if self._answering:
            self.server_state.until.pop(self, None)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._answering:  # uvicorn closes after IDLE, but waits until all is sent
            self._give(IDLE + READING)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._give(READING)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._answering:
            self.server_state.until.pop(self, None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_state.until.pop(self, None)
        super().connection_lost(exc)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _make_room(self) -> None:
        longest = next(iter(self.server_state.until))  # perhaps this one
        del self.server_state.until[longest]
        longest.transport.abort()

    def _give(self, seconds: float) -> None:
        """Close the connection after so many seconds, or earlier if that was said before."""
        until = self.server_state.until
        if self in self.connections:
            until[self] = min(until.get(self, float("inf")), self.loop.time() + seconds)


class Server(uvicorn.Server):
    """Serves `app` over at most `connections` connections."""

    def __init__(self, app: ASGIApp, connections: int = SPARE) -> None:
        state = State(connections)
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",  # accepts at most BACKLOG connections at once
                http=Connection,
                ws="none",
                lifespan="off",
                log_level="warning",
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                h11_max_incomplete_event_size=LONGEST_HEAD,
                timeout_keep_alive=IDLE,
                timeout_graceful_shutdown=CLOSING,
                callback_notify=state.close_late,
                timeout_notify=0,  # at every tick, which is once a second
            )
        )
        self.server_state = state
        for name in ("asyncio", "uvicorn.error"):
            logging.getLogger(name).addFilter(once_a_second)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or []:
            listening.listen(AHEAD)  # asyncio has one number for both


def room_for_connections(max_waiting: int) -> int:
    """Connections to allow; this process may then open as many files as they need.

    Raises MaltError if the system does not let it.
    """
    wanted = max_waiting + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + BACKLOG + FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    room = wanted if soft == resource.RLIM_INFINITY else min(wanted, soft - BACKLOG - FILES)
    least = max_waiting + SPARE // 8
    if room < least:
        raise MaltError(
            f"serve.max_waiting = {max_waiting} needs {least + BACKLOG + FILES:,} open files, and "
            f"this process may have {soft:,}: lower it, or raise the limit (`ulimit -Hn`)"
        )
    return room


class OnceASecond(logging.Filter):
    """Passes one line a second per logger: what clients do must not fill the disk."""

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now - self.last.get(record.name, -1.0) < 1:
            return False
        self.last[record.name] = now
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, OSError):  # such as too many open files: a line is enough
            record.msg, record.args = f"{record.getMessage().splitlines()[0]}: {error}", None
            record.exc_info = None
        return True


once_a_second = OnceASecond()
