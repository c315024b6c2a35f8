"""The embedded engine: samples with transformers in this process, on the CPU or one GPU.

Requests wait in one queue per policy. A batch takes rows of one lane, which are the policies that
its weights can mix (weights.py), or one that they cannot. It is refilled from their queues as rows
finish; when all are empty, the lane with the most requests is next. Prompts of older trees go
first, and those that begin alike together, so that what they share is run once.

A row's tokens depend on its request alone: its random numbers come from (seed, step). Its logits
can vary by rounding with the other rows of the batch, as in any batched matrix product.
"""

import heapq
import logging
from collections import Counter
from collections.abc import Sequence

import torch

from malt_fast.engines import Completion, Policy, Request
from malt_fast.engines.batch import Batch
from malt_fast.engines.check_decoding import check_decoding
from malt_fast.engines.weights import Weights
from malt_fast.utils.errors import MaltError, first_line

log = logging.getLogger(__name__)

REFILL = 8  # a running batch is refilled once 1/8 of its rows are free
IDLE = 4  # without more requests it is made smaller once 1/4 of its rows are idle

Entry = tuple[int, bytes, int, Request]  # (priority, prompt, submission, request)


class HFEngine:
    """Samples with transformers; models and adapters are loaded when first needed.

    dtype: float32, bfloat16 or float16; device: auto (a GPU if there is one), cpu, cuda, cuda:1...;
    batch_size: rows decoded together, halved for good when memory runs out.
    """

    def __init__(
        self,
        dtype: str = "float32",
        device: str = "auto",
        batch_size: int = 256,
        trust_remote_code: bool = False,
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype, self.device, self.batch_size = dtype, torch.device(device), batch_size
        self.trust_remote_code = trust_remote_code
        self.queues: dict[Policy, list[Entry]] = {}
        self.weights: dict[str, Weights] = {}
        self.lane: Policy | None = None  # whose rows are in `batch`
        self.batch: Batch | None = None
        self.done: list[Completion] = []
        self.submitted = 0
        self.prompt_tokens = self.prefilled = 0  # tokens, without the last of each prompt

    @property
    def wants(self) -> int:
        """A batch, and as many to choose from: more would keep trees open that get no turn."""
        return 2 * self.batch_size

    @property
    def pending(self) -> int:
        running = self.batch.running if self.batch else 0
        return sum(map(len, self.queues.values())) + running + len(self.done)

    def load(self, policies: Sequence[Policy]) -> None:
        """Load weights now that would be loaded when first needed. Raises MaltError for those that
        cannot be."""
        with torch.inference_mode():
            for policy in policies:
                self._weights(policy.base).load(policy.adapter)

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; more may come between polls."""
        for request in requests:
            key = (request.priority, request.prompt.tobytes(), self.submitted, request)
            heapq.heappush(self.queues.setdefault(request.policy, []), key)
            self.submitted += 1

    def poll(self) -> list[Completion]:
        """Decode one token per row. Raises MaltError for weights that cannot be loaded."""
        with torch.inference_mode():
            if not self.done and self.pending:
                self._work()
        done, self.done = self.done, []
        return done

    def figures(self) -> dict[str, float]:
        """`prefix_cache_hits`: share of prompt tokens whose keys were there, or run for another."""
        return {"prefix_cache_hits": 1 - self.prefilled / max(1, self.prompt_tokens)}

    def close(self) -> None:
        self.batch = None
        self.queues.clear()
        self.weights.clear()

    def _work(self) -> None:
        """One step of the batch, which is refilled first if that is worth it."""
        batch = self._current()
        try:
            self._refill(batch)
            if batch.running:
                self.done += batch.step()
            return
        except torch.OutOfMemoryError as error:
            reason = str(error)
        self._shrink(batch, reason)  # outside `except`: the traceback holds on to tensors

    def _current(self) -> Batch:
        """The batch if it has rows, else an empty one for the lane with the most requests."""
        if self.batch is not None and self.batch.running:
            return self.batch
        waiting: Counter[Policy] = Counter()
        for policy, queue in self.queues.items():
            waiting[self._lane(policy)] += len(queue)
        self.lane = max(waiting, key=lambda lane: waiting[lane])
        weights = self._weights(self.lane.base)
        if weights.mixes(self.lane.adapter):
            weights.mix()
        else:
            weights.switch(self.lane.adapter)
        if self.batch is None or self.batch.weights is not weights:
            self.batch = Batch(weights, self.batch_size)
        self.batch.compact()
        return self.batch

    def _weights(self, base: str) -> Weights:
        if base not in self.weights:
            try:
                loaded = Weights(base, self.dtype, self.device, self.trust_remote_code)
                check_decoding(base, loaded.model)
            except torch.OutOfMemoryError as error:
                beside = "".join(f" beside '{other}'" for other in self.weights)
                raise MaltError(
                    f"'{base}' does not fit into the memory of {self.device}{beside} "
                    f"({first_line(error)}): choose a smaller model, or bfloat16 as model.dtype"
                ) from None
            self.weights[base] = loaded
        return self.weights[base]

    def _lane(self, policy: Policy) -> Policy:
        """The bare base for all policies whose rows it can mix."""
        mixes = self._weights(policy.base).mixes(policy.adapter)
        return Policy(policy.base) if mixes else policy

    def _refill(self, batch: Batch) -> None:
        """Put new rows into free slots, or close the gaps if there are no more."""
        queues = [  # another base is loaded when its turn comes, not beside a running batch
            queue
            for policy, queue in self.queues.items()
            if policy.base == batch.weights.base and self._lane(policy) == self.lane
        ]
        if queues and batch.free * REFILL >= batch.size:
            self._admit(batch, queues)
        elif not queues and (len(batch.requests) - batch.running) * IDLE >= len(batch.requests):
            batch.compact()

    def _admit(self, batch: Batch, queues: Sequence[list[Entry]]) -> None:
        """Move requests from the queues to the batch; those that cannot run fail at once."""
        good: list[Request] = []
        while any(queues) and len(good) < batch.free:
            request = heapq.heappop(min(filter(None, queues)))[-1]
            if error := _problem(request, batch.weights):
                self.done.append(Completion.failed(request.id, error))
            else:
                good.append(request)
        self.queues = {policy: queue for policy, queue in self.queues.items() if queue}
        if good:
            self.prompt_tokens += sum(len(request.prompt) - 1 for request in good)
            self.prefilled += batch.admit(good)

    def _shrink(self, batch: Batch, reason: str) -> None:
        """Out of memory: queue the rows again, for a batch of half the size."""
        rows = [request for request in batch.requests if request is not None]
        self.batch = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.batch_size == 1:
            error = (
                f"out of memory with one output at a time ({reason}): choose a smaller model, or "
                "bfloat16 as model.dtype"
            )
            self.done += [Completion.failed(row.id, error) for row in rows]
            return
        self.batch_size //= 2
        log.warning("out of memory: engine.batch_size is now %d", self.batch_size)
        self.submit(rows)


def _problem(request: Request, weights: Weights) -> str:
    """Why a request cannot run, in one sentence; "" if it can."""
    prompt = request.prompt
    if not len(prompt):
        return "the prompt is empty"
    if len(prompt) > weights.context - 1:
        return (
            f"the prompt has {len(prompt)} tokens, but the context of '{weights.base}' holds "
            f"{weights.context}, one of which is for the answer: lower "
            "sampling.max_tokens, as later roles read what earlier ones wrote, or choose a model "
            "with a longer context"
        )
    if request.params.max_tokens < 1:
        return f"max_tokens is {request.params.max_tokens}: ask for at least 1"
    if prompt.min() < 0 or prompt.max() >= weights.vocabulary:
        return f"the prompt has tokens outside the vocabulary of {weights.vocabulary}"
    return ""
