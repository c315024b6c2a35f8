"""The HTTP side: routes, the token, limits on requests, streams, and errors.

Everything here runs in one event loop and waits for futures: of threads that parse and tokenise,
and of jobs, which the engine's thread resolves. When a client disconnects, its job is dropped.
"""

import asyncio
import hmac
import json
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from malt_fast.serving import metrics
from malt_fast.serving.answer import Answer
from malt_fast.serving.engine_thread import STOPPING, EngineThread, Job, Unavailable
from malt_fast.serving.openai_format import Body, ChatBody, Reply, TextBody, parse
from malt_fast.serving.openapi import described
from malt_fast.serving.reading import ReadQuestion
from malt_fast.utils.errors import MaltError

T = TypeVar("T")

MAX_BODY = 4 << 20  # bytes
SHORT_BODY = 16 << 10  # bytes that every body may have
LONG_BODIES = 32 << 20  # bytes that are held of longer bodies until they are read
ARRIVING = 512  # bodies that may arrive at once
REST = 5  # after a longer body that was refused: times as long as reading it took
PATIENCE = 30.0  # seconds for a body to arrive
KEEP_ALIVE = 10.0  # seconds between comments in a stream that waits for its answer
READERS = 2  # threads that parse and tokenise; a long body takes at most one
LOADING = "the model is being loaded: ask again in a while"
FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/'\"]+/)+")  # of a file in a message
LONGEST = 500  # characters of an error message


class ApiError(Exception):
    """A response other than 200."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class Endpoint:
    """Serves one model, `name`; if there is a `token`, requests must send it.

    It answers once `thread` is set, and until `stopping`.
    """

    def __init__(self, name: str, *, token: str | None = None, max_waiting: int = 256) -> None:
        self.name, self.token, self.max_waiting = name, token, max_waiting
        self.thread: EngineThread | None = None
        self.stopping = False
        self.live = 0  # questions in progress
        self.bodies = Bodies()
        self.readers = ThreadPoolExecutor(READERS, "reader")
        self.long = asyncio.Semaphore(READERS - 1)
        self.metrics = metrics.Metrics()

    def routes(self) -> list[Route]:
        return [
            Route("/health", self.health),
            Route("/ready", self.ready),
            Route("/metrics", self.figures),
            Route("/openapi.json", self.description),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.text, methods=["POST"]),
        ]

    def app(self) -> ASGIApp:
        starlette = Starlette(
            routes=self.routes(),
            exception_handlers={
                ApiError: in_loop(lambda _, error: refusal(error)),
                MaltError: in_loop(lambda _, error: refusal(ApiError(400, str(error)))),
                Unavailable: in_loop(lambda _, error: refusal(ApiError(503, str(error)))),
                HTTPException: in_loop(_no_route),
                ClientDisconnect: in_loop(lambda *_: Response(status_code=499)),  # nobody reads it
                Exception: in_loop(lambda *_: refusal(ApiError(500, "the server has a bug"))),
            },
        )
        return Counted(starlette, self.metrics)

    # ---- about the server ----

    async def health(self, request: Request) -> Response:
        """Whether the server lives: a restart mends what this complains about."""
        if not (failure := self.thread.failure if self.thread else ""):
            return as_json({"status": "ok"})
        reason = {"error": failure} if self._has_token(request) else {}  # it may name local files
        return as_json({"status": "failed", **reason}, 503)

    async def ready(self, request: Request) -> Response:
        """Whether questions are answered."""
        if self.stopping or self.thread is None:
            return as_json({"status": "stopping" if self.stopping else "loading"}, 503)
        return await self.health(request)

    async def figures(self, request: Request) -> Response:
        self._check_token(request)
        pipeline = self.thread.pipeline if self.thread else None
        begun, waiting = pipeline.at_work if pipeline else (0, 0)
        tokens = pipeline.sampled if pipeline else 0
        text = self.metrics.text(running=begun, waiting=waiting, tokens=tokens)
        return Response(text, media_type=metrics.TYPE)

    async def description(self, request: Request) -> Response:
        return as_json(described(self.name, self.token is not None))

    async def models(self, request: Request) -> Response:
        self._check_token(request)
        return as_json({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        self._check_token(request)
        self._check_model(request.path_params["name"])
        return as_json(self._model())

    def _model(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": 0, "owned_by": "malt-fast"}

    def _check_model(self, name: str) -> None:
        if name != self.name:
            message = f"there is no model '{name}' here: ask for '{self.name}'"
            raise ApiError(404, message, "model_not_found")

    # ---- questions ----

    async def chat(self, request: Request) -> Response:
        return await self._complete(request, ChatBody)

    async def text(self, request: Request) -> Response:
        return await self._complete(request, TextBody)

    async def _complete(self, request: Request, kind: type[Body]) -> Response:
        begun = time.monotonic()
        self._check_token(request)
        with ExitStack() as leaving:
            thread, body, question = await self._read(request, kind, leaving)
            reply = Reply(body, self.name)
            job = Job(question, body.seed, body.temperature, body.limit)
            leaving.callback(thread.drop, job)
            thread.ask(job)
            job.answer.add_done_callback(partial(self._note, begun))
            if body.stream:
                return Events(events(job, reply), leaving.pop_all())
            answer = await result_while_connected(request, job.answer)
        if answer.error:
            raise failed(answer)
        return as_json(reply.whole(answer))

    def _note(self, begun: float, answer: "Future[Answer]") -> None:
        if not answer.cancelled() and answer.exception() is None:
            self.metrics.answer(time.monotonic() - begun)

    def _open_thread(self) -> EngineThread:
        """The engine's thread. Raises ApiError if no more questions are taken now."""
        if self.stopping:
            raise ApiError(503, STOPPING)
        if self.thread is None:
            raise ApiError(503, LOADING)
        if self.live >= self.max_waiting:
            raise ApiError(
                429,
                f"{self.live} questions are in progress, which is the limit of this server "
                "(serve.max_waiting): ask again later",
            )
        return self.thread

    @contextmanager
    def _place(self) -> Iterator[None]:
        """A place among the questions in progress."""
        self.live += 1
        try:
            yield
        finally:
            self.live -= 1

    async def _read(
        self, request: Request, kind: type[Body], leaving: ExitStack
    ) -> tuple[EngineThread, Body, ReadQuestion]:
        """The body and its question, parsed and tokenised in a thread; a place until `leaving`.

        Long ones take turns. After one that is refused the next has to wait, as those who send only
        such would else leave little time to the engine.
        """
        self._open_thread()
        async with self.bodies.held_of(request) as data:
            thread = self._open_thread()
            leaving.enter_context(self._place())

            def work() -> tuple[EngineThread, Body, ReadQuestion]:
                body = parse(kind, data)
                self._check_model(self.name if body.model is None else body.model)
                return thread, body, thread.pipeline.read(body.question)

            loop = asyncio.get_running_loop()
            if len(data) <= SHORT_BODY:
                return await loop.run_in_executor(self.readers, work)
            await self.long.acquire()
            begin, rest = loop.time(), REST
            try:
                read = await loop.run_in_executor(self.readers, work)
                rest = 0
                return read
            finally:
                loop.call_later(rest * (loop.time() - begin), self.long.release)

    # ---- the token ----

    def _has_token(self, request: Request) -> bool:
        """Whether the request sends the token, if there is one."""
        if self.token is None:
            return True
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode("latin-1"), os.fsencode(self.token))
        return kind.lower() == "bearer" and right

    def _check_token(self, request: Request) -> None:
        if not self._has_token(request):
            raise ApiError(
                401,
                "the token is missing or wrong: send the server's MALT_FAST_API_KEY as the API key",
                "invalid_api_key",
            )


class Counted:
    """Counts the responses of an app by status, and reads `//x/` as `/x`."""

    def __init__(self, app: ASGIApp, counts: metrics.Metrics) -> None:
        self.app, self.counts = app, counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = re.sub("/+", "/", scope["path"])
        path = path.rstrip("/") or "/"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start" and path.startswith("/v1"):
                self.counts.requests[message["status"]] += 1
            await send(message)

        await self.app({**scope, "path": path}, receive, counted)


class Bodies:
    """Reads the bodies of requests; of all that are there at once, a limited number of bytes."""

    def __init__(self) -> None:
        self.arriving = self.held = 0  # bodies, and bytes of long ones

    @asynccontextmanager
    async def held_of(self, request: Request) -> AsyncIterator[bytearray]:
        """The body of a request, which is held until the block ends.

        Raises ApiError for a body that is too long or too slow, or one too many.
        """
        if self.arriving >= ARRIVING:
            raise ApiError(503, f"{ARRIVING} requests are arriving: ask again later")
        self.arriving += 1
        data, mine = bytearray(), 0
        try:
            try:
                async with asyncio.timeout(PATIENCE):
                    async for chunk in request.stream():
                        data += chunk
                        more = max(0, len(data) - SHORT_BODY) - mine
                        mine, self.held = mine + more, self.held + more
                        self._check(len(data), mine)
            except TimeoutError:
                reason = f"the body took over {PATIENCE:.0f} s: send it faster"
                raise ApiError(408, reason) from None
            yield data
        finally:
            self.arriving, self.held = self.arriving - 1, self.held - mine

    def _check(self, size: int, mine: int) -> None:
        if size > MAX_BODY:
            raise ApiError(413, f"the body is longer than {MAX_BODY:,} bytes: send less")
        if mine and self.held > LONG_BODIES:
            raise ApiError(503, "many long requests are arriving: ask again later")


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
    """The opening at once, comments while the roles work, then all chunks of the answer."""
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
            yield event(error_body(failed(answer)))
        else:
            yield b"".join(map(event, reply.chunks(answer)))
    yield b"data: [DONE]\n\n"


def event(values: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(values)}\n\n".encode()


# ---- plain answers ----


HEADERS = {
    401: {"www-authenticate": "Bearer"},
    408: {"connection": "close"},
    429: {"retry-after": "1"},
    503: {"retry-after": "5"},
}


def as_json(values: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(values), status, HEADERS.get(status), "application/json")


def refusal(error: ApiError) -> Response:
    return as_json(error_body(error), error.status)


def failed(answer: Answer) -> ApiError:
    """The error of a question that has no answer; asking again helps unless it was too long."""
    return ApiError(400 if answer.outgrown else 500, answer.error)


def error_body(error: ApiError) -> dict[str, Any]:
    """An error in OpenAI's format."""
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(
        error.status, "server_error" if error.status >= 500 else "invalid_request_error"
    )
    message = error.message if error.status < 500 else FOLDERS.sub("", error.message)
    message = message if len(message) <= LONGEST else f"{message[:LONGEST]} ..."
    return {"error": {"message": message, "type": kind, "param": None, "code": error.code}}


def in_loop(handler: Callable[[Request, Any], Response]) -> Callable[..., Awaitable[Response]]:
    """A handler of exceptions; starlette would run a plain function in one of 40 threads."""

    async def handle(request: Request, error: Any) -> Response:
        return handler(request, error)

    return handle


def _no_route(request: Request, error: Any) -> Response:
    headers = error.headers or {}  # the methods that are allowed, where only the method is wrong
    routes = "/v1/chat/completions, /v1/completions, /v1/models, /health, /ready, /metrics"
    use = headers.get("Allow", f"{routes} or /openapi.json")
    message = f"{request.method} {request.url.path} is not served: use {use}"
    response = refusal(ApiError(error.status_code, message))
    response.headers.update(headers)
    return response
