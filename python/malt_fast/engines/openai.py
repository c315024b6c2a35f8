"""Samples from an OpenAI-compatible server (vLLM, SGLang): its requests, timeouts and retries.

Prompts go as token ids to /v1/completions and sampled ids come back (`return_token_ids`), so the
tokens trained on are those sampled. An adapter is named by a hash of its content; a server that
does not have it is asked to load it (vLLM's /v1/load_lora_adapter) from a path that it must see.

A request that fails for a temporary reason (429, 5xx, a lost connection, no answer in time) is sent
again after growing pauses. If that does not help, `poll` raises; earlier answers stay valid.
"""

import heapq
import os
import queue
import random
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import httpx
import numpy as np

from malt_fast.config.schema import EngineConfig
from malt_fast.engines import Completion, Policy, Request
from malt_fast.models.adapter_files import content_name
from malt_fast.utils.errors import MaltError, first_line

T = TypeVar("T")

WAIT = 0.5  # seconds that `poll` waits for an answer
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds before a request is sent again
SEEDS = 2**63  # servers read a seed as a signed 64-bit integer
REFUSED = (400, 413, 422)  # status codes about this one request
TEMPORARY = {408, 409, 425, 429, 500, 502, 503, 504}


class Temporary(Exception):
    """A failure that may be over when the request is sent again, after at least `wait` seconds."""

    def __init__(self, trouble: str, wait: float = 0) -> None:
        super().__init__(trouble)
        self.wait = wait


class OpenAIEngine:
    """Samples from the server at `settings.base_url`. policies: all that requests may name.

    Raises MaltError for a server that is down, refuses access, or does not know a model.
    """

    def __init__(self, settings: EngineConfig, policies: Sequence[Policy]) -> None:
        self.wants = 2 * settings.concurrency
        self.settings = settings
        self.waiting: list[tuple[int, int, Request]] = []  # heap of (priority, arrival, request)
        self.sent: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[Completion | MaltError] = queue.SimpleQueue()
        self.running = self.arrived = 0
        self.failure: MaltError | None = None
        self.stopped = threading.Event()
        self.client = _client(settings)
        try:
            models = served_models(self.client, settings)
            self.context = {p.base: context_of(models, p.base, settings) for p in policies}
            self.names = {policy: self._name(policy, models) for policy in policies}
        except BaseException:
            self.client.close()
            raise
        for _ in range(settings.concurrency):  # daemons: a silent server must not delay the exit
            threading.Thread(target=self._work, daemon=True).start()

    @property
    def pending(self) -> int:
        return len(self.waiting) + self.running + (self.failure is not None)

    def submit(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self.arrived += 1
            heapq.heappush(self.waiting, (request.priority, self.arrived, request))
        self._send()

    def poll(self) -> list[Completion]:
        """Wait a little for answers. Raises MaltError if the server gave none to a request, once
        the answers that were under way are there."""
        done: list[Completion] = []
        while self.running:
            try:
                answer = self.answers.get(timeout=0 if done else WAIT)
            except queue.Empty:
                break
            self.running -= 1
            if isinstance(answer, MaltError):
                self.failure = self.failure or answer
                self.stopped.set()  # others are not tried again
            else:
                done.append(answer)
        if self.failure and not self.running and not done:
            raise self.failure
        self._send()
        return done

    def figures(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        self.stopped.set()
        self.waiting.clear()
        for _ in range(self.settings.concurrency):
            self.sent.put(None)
        self.client.close()

    def _send(self) -> None:
        while self.waiting and self.running < self.settings.concurrency and not self.failure:
            self.sent.put(heapq.heappop(self.waiting)[-1])
            self.running += 1

    # ---- in a thread ----

    def _work(self) -> None:
        while (request := self.sent.get()) is not None:
            try:
                self.answers.put(retried(partial(self._ask, request), self.settings, self.stopped))
            except MaltError as error:
                self.answers.put(error)
            except Exception as error:  # a bug here must not leave `poll` waiting forever
                self.answers.put(MaltError(f"an answer was not understood: {error!r}"))

    def _ask(self, request: Request) -> Completion:
        """Send a request once. An output may be as long as the server's context allows."""
        room = self.context[request.policy.base] - len(request.prompt)
        if room < 1:
            return Completion.failed(
                request.id,
                f"the prompt has {len(request.prompt)} tokens, which fill the server's context: "
                "lower sampling.max_tokens, as later roles read what earlier ones wrote, or start "
                "the server with a longer one",
            )
        body = _body(request, self.names[request.policy], room)
        response = sent(self.client, self.settings, "POST", "completions", body)
        if response.status_code in REFUSED:
            return Completion.failed(request.id, f"the server refused it: {_reason(response)}")
        if response.status_code != 200:
            raise _refusal(self.settings, response)
        try:
            return _completion(request, response.json())
        except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
            raise Temporary(f"it answered garbage: {first_line(error)}") from None

    # ---- models and adapters by name ----

    def _name(self, policy: Policy, models: Mapping[str, Mapping[str, Any]]) -> str:
        """The server's name for a policy; it is asked to load an adapter that it does not know."""
        base = base_name(models, policy.base, self.settings)
        if policy.adapter is None:
            return base
        name = content_name(policy.adapter)
        if name not in models:
            self._load(name, policy.adapter)
        return name

    def _load(self, name: str, adapter: str) -> None:
        body = {"lora_name": name, "lora_path": adapter}
        load = partial(sent, self.client, self.settings, "POST", "load_lora_adapter", body)
        response = retried(load, self.settings, self.stopped)
        if response.status_code != 200:
            raise MaltError(
                f"the server has no model '{name}' and does not load it ({_reason(response)}): "
                f"start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora, or with "
                f"--lora-modules {name}={adapter}"
            )


def sent(
    client: httpx.Client, settings: EngineConfig, method: str, path: str, body: Any = None
) -> httpx.Response:
    """The response to a request. Raises Temporary for no answer, or one that asks to try again."""
    try:
        response = client.request(method, path, json=body)
    except httpx.TimeoutException:
        raise Temporary(f"no answer in {settings.timeout:g} s") from None
    except httpx.HTTPError as error:
        raise Temporary(first_line(error)) from error
    if response.status_code in TEMPORARY:
        trouble = f"status {response.status_code}, {_reason(response)}"
        raise Temporary(trouble, _retry_after(response))
    return response


def retried(send: Callable[[], T], settings: EngineConfig, stopped: threading.Event) -> T:
    """Call `send` until it returns. Raises MaltError after the last retry."""
    pause = FIRST_PAUSE
    for attempts_left in range(settings.max_retries, -1, -1):
        try:
            return send()
        except Temporary as error:
            trouble = error
        if not attempts_left or stopped.is_set():
            break
        # random, so that not all come at once, and not before the server asks for them
        stopped.wait(max(trouble.wait, pause * random.uniform(0.5, 1)))
        pause = min(2 * pause, LONGEST_PAUSE)
    raise MaltError(
        f"the server at {settings.base_url} gave no usable answer in "
        f"{settings.max_retries + 1} tries ({trouble}): check the server, or raise "
        "engine.timeout or engine.max_retries"
    )


def check_server(settings: EngineConfig, base: str) -> None:
    """Raises MaltError for a server that is down, lacks the base model or takes no token ids."""
    with _client(settings) as client:
        name = base_name(served_models(client, settings), base, settings)
        probe = {"model": name, "prompt": [1, 2], "max_tokens": 1, "logprobs": 0}
        body = probe | {"return_token_ids": True}
        ask = partial(sent, client, settings, "POST", "completions", body)
        response = retried(ask, settings, threading.Event())
        if response.status_code not in (200, *REFUSED):
            raise _refusal(settings, response)
        try:
            known = isinstance(response.json()["choices"][0]["token_ids"], list)
        except (ValueError, KeyError, TypeError, IndexError):
            known = False
        if not known:
            reason = f" ({_reason(response)})" if response.status_code != 200 else ""
            raise MaltError(
                f"the server at {settings.base_url} does not take and return token ids{reason}, so "
                "roles could not be trained on the tokens sampled: use vLLM or SGLang of 2026"
            )


def served_models(client: httpx.Client, settings: EngineConfig) -> dict[str, dict[str, Any]]:
    """The server's models by name."""
    try:
        response = sent(client, settings, "GET", "models")
    except Temporary as trouble:
        if isinstance(trouble.__cause__, httpx.ConnectError):  # nobody there: no retries
            raise MaltError(
                f"no server answers at {settings.base_url} ({trouble}): start it, or check "
                "engine.base_url"
            ) from None
        again = partial(sent, client, settings, "GET", "models")
        response = retried(again, settings, threading.Event())
    if response.status_code != 200:
        raise _refusal(settings, response)
    try:
        return {str(model["id"]): model for model in response.json()["data"]}
    except (ValueError, KeyError, TypeError):
        raise MaltError(
            f"what answers at {settings.base_url} is no OpenAI-compatible server: check "
            "engine.base_url, which usually ends in /v1"
        ) from None


def base_name(models: Mapping[str, Mapping[str, Any]], base: str, settings: EngineConfig) -> str:
    """The server's name for the base model: the same, or that of a model whose root it is."""
    for name, model in models.items():
        if base in (name, model.get("root")) and not model.get("parent"):
            return name
    raise MaltError(
        f"the server at {settings.base_url} does not serve '{base}' but {', '.join(models)}: give "
        "--model.name_or_path what it serves, or start it with that model"
    )


def context_of(models: Mapping[str, Mapping[str, Any]], base: str, settings: EngineConfig) -> int:
    """Tokens of prompt and output that the server takes; without a word from it, any number."""
    length = models[base_name(models, base, settings)].get("max_model_len")
    return length if isinstance(length, int) else sys.maxsize


def _client(settings: EngineConfig) -> httpx.Client:
    key = os.environ.get("OPENAI_API_KEY")
    n = settings.concurrency
    return httpx.Client(
        base_url=settings.base_url or "",
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(settings.timeout, connect=min(30, settings.timeout)),
        limits=httpx.Limits(max_connections=n, max_keepalive_connections=n),
    )


def _body(request: Request, model: str, room: int) -> dict[str, Any]:
    params = request.params
    return {
        "model": model,
        "prompt": request.prompt.tolist(),
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k or -1,
        "min_p": params.min_p,
        "max_tokens": min(params.max_tokens, room),
        "stop_token_ids": list(params.stop_token_ids),  # not with ignore_eos: SGLang ignores both
        "repetition_penalty": 1.0,  # vLLM's server takes missing values from the model's files
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": request.seed % SEEDS,
        "logprobs": 0,
        "return_token_ids": True,
    }


def _completion(request: Request, answer: Any) -> Completion:
    """The output in an answer. Raises ValueError, KeyError, TypeError or IndexError if invalid."""
    choice = answer["choices"][0]
    tokens = np.array(choice["token_ids"], np.int32)
    logprobs = np.array(choice["logprobs"]["token_logprobs"], np.float32)
    reason = choice["finish_reason"]
    if tokens.ndim != 1 or tokens.shape != logprobs.shape or not len(tokens) or tokens.min() < 0:
        raise ValueError(f"{tokens.shape} token ids with {logprobs.shape} log-probs")
    if not np.isfinite(logprobs).all():
        raise ValueError("a log-prob is missing or not a number")
    if len(tokens) > request.params.max_tokens or reason not in ("stop", "length"):
        raise ValueError(f"{len(tokens)} tokens, finished by {reason!r}")
    return Completion(request.id, tokens, logprobs, reason)


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the server asks clients to wait."""
    try:
        return min(LONGEST_PAUSE, float(response.headers.get("retry-after", 0)))
    except ValueError:  # a date
        return FIRST_PAUSE


def _refusal(settings: EngineConfig, response: httpx.Response) -> MaltError:
    fixes = {401: "set OPENAI_API_KEY", 403: "set OPENAI_API_KEY", 404: "check engine.base_url"}
    return MaltError(
        f"the server at {settings.base_url} refuses access (status {response.status_code}, "
        f"{_reason(response)}): {fixes.get(response.status_code, 'see its log')}"
    )


def _reason(response: httpx.Response) -> str:
    """The server's error message, in one line."""
    try:
        reason = response.json()
        for key in ("error", "message"):
            reason = reason.get(key, reason) if isinstance(reason, dict) else reason
    except ValueError:
        reason = response.text
    return " ".join(str(reason).split())[:200].rstrip(".:") or "no reason given"
