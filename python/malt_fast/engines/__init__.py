"""The interface of engines: prompt tokens go in, sampled tokens come out, in any order.

A request names everything its tokens depend on (weights, prompt, sampling parameters, seed), so the
same request gives the same tokens, whatever else is pending.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from malt_fast._core.forest import FINISH_LENGTH, FINISH_STOP


@dataclass(frozen=True, slots=True)
class Policy:
    """The weights that answer."""

    base: str  # hub id or directory
    adapter: str | None = None  # PEFT adapter directory


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample, in vLLM's names and meaning."""

    temperature: float = 1.0  # 0 = greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 = all
    min_p: float = 0.0
    max_tokens: int = 16
    stop_token_ids: tuple[int, ...] = ()  # ends the output, and is part of it


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One output to sample."""

    id: int  # chosen by the caller, unique among those pending
    question: str  # question id
    path: tuple[int, ...]  # child indices from the root: (1,), (1, 0), ...
    policy: Policy
    prompt: npt.NDArray[np.int32]  # [P], P >= 1
    params: SamplingParams
    seed: int  # unsigned, 64 bits
    priority: int = 0  # lower goes first, if the engine can choose


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """One sampled output, or the reason why it failed."""

    id: int
    tokens: npt.NDArray[np.int32]  # [T], as sampled, end token included if finish_reason is "stop"
    logprobs: npt.NDArray[np.float32]  # [T], under the model at temperature 1, before any filter
    finish_reason: Literal["stop", "length", "error"]
    error: str = ""

    @property
    def finish(self) -> int:
        """The finish reason as the forest and the store code it; not for a failed one."""
        return FINISH_STOP if self.finish_reason == "stop" else FINISH_LENGTH

    @classmethod
    def failed(cls, id: int, error: str) -> "Completion":
        """A completion without tokens. error: the reason."""
        return cls(id, np.empty(0, np.int32), np.empty(0, np.float32), "error", error)


class Engine(Protocol):
    """Samples outputs. Not thread-safe: one caller submits and polls."""

    @property
    def wants(self) -> int:
        """How many pending requests keep it busy; more only wait."""

    def submit(self, requests: Sequence[Request]) -> None:
        """Take more requests; allowed at any time between polls."""

    def poll(self) -> list[Completion]:
        """Work or wait a little, and return what finished; often nothing.

        Raises MaltError if the engine cannot go on; completions returned before stay valid.
        """

    @property
    def pending(self) -> int:
        """Requests submitted whose completion `poll` has not returned yet."""

    def figures(self) -> dict[str, float]:
        """Figures about the engine's work, for people."""

    def close(self) -> None:
        """Free the weights; the engine cannot be used afterwards."""


Policies = dict[str, Policy]  # by role
