"""The HTTP side: routes, the token, the limit on waiting requests, streams, and errors.

Everything here runs in one event loop and waits for the futures of jobs, which the engine's thread
resolves. When a client disconnects, its job is dropped.
"""

import asyncio
import hmac
import json
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from malt_fast.serving.engine_thread import EngineThread, Job, Unavailable
from malt_fast.serving.openai_format import Body, ChatBody, Reply, TextBody, parse
from malt_fast.utils.errors import MaltError

T = TypeVar("T")

MAX_BODY = 4 << 20  # bytes
KEEP_ALIVE = 10.0  # seconds between comments in a stream that waits for its answer
GRACE = 3.0  # seconds that requests have to finish when the server stops
LONGEST = 500  # characters of an error message


class ApiError(Exception):
    """A response other than 200."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class Endpoint:
    """Serves one model, `name`; if there is a `token`, requests must send it."""

    def __init__(
        self, thread: EngineThread, name: str, *, token: str | None = None, max_waiting: int = 256
    ) -> None:
        self.thread, self.name, self.token, self.max_waiting = thread, name, token, max_waiting
        self.live: set[Job] = set()  # whose clients are waiting

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/health", self.health),
                Route("/v1/models", self.models),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/v1/completions", self.text, methods=["POST"]),
            ],
            exception_handlers={
                ApiError: lambda _, error: refusal(error),
                MaltError: lambda _, error: refusal(ApiError(400, str(error))),
                Unavailable: lambda _, error: refusal(ApiError(503, str(error))),
                HTTPException: _no_route,
                ClientDisconnect: lambda _, error: Response(status_code=499),  # nobody reads it
                Exception: lambda _, error: refusal(ApiError(500, "the server has a bug")),
            },
        )

    async def health(self, request: Request) -> Response:
        failure = self.thread.failure
        if not failure:
            return as_json({"status": "ok"})
        reason = {"error": failure} if self._has_token(request) else {}  # it may name local files
        return as_json({"status": "failed", **reason}, 503)

    async def models(self, request: Request) -> Response:
        self._check_token(request)
        model = {"id": self.name, "object": "model", "created": 0, "owned_by": "malt-fast"}
        return as_json({"object": "list", "data": [model]})

    async def chat(self, request: Request) -> Response:
        return await self._complete(request, ChatBody)

    async def text(self, request: Request) -> Response:
        return await self._complete(request, TextBody)

    async def _complete(self, request: Request, kind: type[Body]) -> Response:
        self._check_token(request)
        body = parse(kind, await read_body(request))
        if body.model not in (None, self.name):
            raise ApiError(
                404,
                f"there is no model '{body.model}' here: ask for '{self.name}'",
                "model_not_found",
            )
        if len(self.live) >= self.max_waiting:
            raise ApiError(429, f"{len(self.live)} questions are being answered: ask again later")
        job = Job(body.question, body.seed, body.temperature, body.limit)
        reply = Reply(body, self.name)
        with ExitStack() as leaving:
            self.live.add(job)
            leaving.callback(self._leave, job)
            self.thread.ask(job)
            await result_while_connected(request, job.accepted)
            if body.stream:
                return Events(events(job, reply), leaving.pop_all())
            answer = await result_while_connected(request, job.answer)
        if answer.error:
            raise ApiError(500, answer.error)
        return as_json(reply.whole(answer))

    def _leave(self, job: Job) -> None:
        self.live.discard(job)
        self.thread.drop(job)

    def _has_token(self, request: Request) -> bool:
        """Whether the request sends the token, if there is one."""
        if self.token is None:
            return True
        given = request.headers.get("authorization", "").encode("latin-1")
        return hmac.compare_digest(given, os.fsencode(f"Bearer {self.token}"))

    def _check_token(self, request: Request) -> None:
        if not self._has_token(request):
            raise ApiError(
                401,
                "the token is missing or wrong: send the server's MALT_FAST_API_KEY as the API key",
                "invalid_api_key",
            )


async def result_while_connected(request: Request, future: "Future[T]") -> T:
    """The result of a future. Raises ClientDisconnect if the client leaves first."""
    wanted: asyncio.Future[Any] = asyncio.wrap_future(future)
    # After the body, the only message is that the client has left.
    gone: asyncio.Future[Any] = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({wanted, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
    if not wanted.done():
        raise ClientDisconnect
    result: T = wanted.result()
    return result


async def read_body(request: Request) -> bytes:
    """The body of a request. Raises ApiError if it is too long."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY:
            raise ApiError(413, f"the body is longer than {MAX_BODY:,} bytes: send less")
    return bytes(data)


# ---- streams ----


class Events(StreamingResponse):
    """Server-sent events; `leaving` is closed when they end or the client leaves."""

    def __init__(self, content: AsyncIterator[bytes], leaving: ExitStack) -> None:
        super().__init__(
            content, media_type="text/event-stream", headers={"cache-control": "no-store"}
        )
        self.leaving = leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.leaving:
            await super().__call__(scope, receive, send)


async def events(job: Job, reply: Reply) -> AsyncIterator[bytes]:
    """The opening at once, comments while the roles work, then the answer in chunks."""
    for chunk in reply.opening():
        yield event(chunk)
    wanted = asyncio.wrap_future(job.answer)
    while not (await asyncio.wait({wanted}, timeout=KEEP_ALIVE))[0]:
        yield b": the roles are at work\n\n"
    try:
        answer = wanted.result()
    except Unavailable as error:
        yield event(error_body(ApiError(503, str(error))))
    else:
        if answer.error:
            yield event(error_body(ApiError(500, answer.error)))
        else:
            for chunk in reply.chunks(answer):
                yield event(chunk)
    yield b"data: [DONE]\n\n"


def event(values: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(values)}\n\n".encode()


# ---- plain answers ----


HEADERS = {
    401: {"www-authenticate": "Bearer"},
    429: {"retry-after": "1"},
    503: {"retry-after": "1"},
}


def as_json(values: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(values), status, HEADERS.get(status), "application/json")


def refusal(error: ApiError) -> Response:
    return as_json(error_body(error), error.status)


def error_body(error: ApiError) -> dict[str, Any]:
    """An error in OpenAI's format."""
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(
        error.status, "server_error" if error.status >= 500 else "invalid_request_error"
    )
    message = error.message if len(error.message) <= LONGEST else f"{error.message[:LONGEST]} ..."
    return {"error": {"message": message, "type": kind, "param": None, "code": error.code}}


def _no_route(request: Request, error: Any) -> Response:
    routes = "/v1/chat/completions, /v1/completions, /v1/models or /health"
    message = f"{request.method} {request.url.path} is not served: use {routes}"
    return refusal(ApiError(error.status_code, message))


# ---- the server ----


class Server(uvicorn.Server):
    """When it stops, gives requests GRACE seconds to finish, then calls `stop`."""

    def __init__(self, app: Starlette, stop: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                lifespan="off",
                timeout_keep_alive=75,  # s: clients that ask now and then keep their connection
                timeout_graceful_shutdown=int(2 * GRACE) + 1,
            )
        )
        self.stop = stop

    async def shutdown(self, sockets: Any = None) -> None:
        asyncio.get_running_loop().call_later(GRACE, self.stop)
        await super().shutdown(sockets)
