"""An engine that samples no output twice: stored outputs are reused, equal requests share one.

    request --key--> store ----------> completion
               '---> inner engine --> store, completion

A key is a hash of everything an output depends on: weights, tokenizer, sampling parameters, prompt
and seed. The inner engine is opened when it is first needed: if all outputs are stored, no model is
loaded.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from malt_fast._core.forest import FINISH_STOP
from malt_fast.engines import Completion, Engine, Policy, Request, SamplingParams
from malt_fast.store.segments import Sample
from malt_fast.store.store import Store

WANTS = 4096  # until the inner engine is open
PAUSE = 0.1  # seconds without a poll of the inner engine, while outputs of the store come


class StoredEngine:
    """Answers from `store`, else from `others` or `open_inner()`, whose outputs go to the store.

    weights: identifies the weights of a policy by content; tokenizer: its fingerprint; rows: int64
    by request id, filled with the store's row of every output.
    """

    def __init__(
        self,
        store: Store,
        others: Sequence[Store],
        open_inner: Callable[[], Engine],
        weights: Callable[[Policy], str],
        tokenizer: str,
        rows: npt.NDArray[np.int64],
    ) -> None:
        self.store, self.others, self.open_inner = store, others, open_inner
        self.weights, self.tokenizer, self.rows = weights, tokenizer, rows
        self.inner: Engine | None = None
        self.known: list[Completion] = []  # answered from the store, not polled yet
        self.asked: dict[
            int, tuple[bytes, Request]
        ] = {}  # key and request in the inner engine, by id
        self.same: dict[bytes, list[int]] = {}  # ids that wait for an output, by its key
        self.waiting = 0  # number of those ids
        self.polled = 0.0  # when the inner engine was, by a monotonic clock
        self.reused = self.reused_tokens = 0
        self._contexts: dict[tuple[Policy, SamplingParams], bytes] = {}

    @property
    def wants(self) -> int:
        return WANTS if self.inner is None else self.inner.wants

    @property
    def pending(self) -> int:
        return len(self.known) + self.waiting

    def submit(self, requests: Sequence[Request]) -> None:
        """Raises MaltError if the inner engine cannot be opened."""
        keys = self._keys(requests)
        missing = []
        for request, key, found in zip(requests, keys, self._find(keys), strict=True):
            if found is None:
                ids = self.same.setdefault(key, [])
                ids.append(request.id)
                self.waiting += 1
                if len(ids) == 1:
                    missing.append(request)
                    self.asked[request.id] = (key, request)
            else:
                row, sample = found
                self.rows[request.id] = row
                self.known.append(_completion(request.id, sample))
                self.reused += 1
                self.reused_tokens += len(sample.tokens)
        if missing:
            if self.inner is None:
                self.inner = self.open_inner()
                self.polled = time.monotonic()
            self.inner.submit(missing)

    def poll(self) -> list[Completion]:
        """Raises MaltError if the inner engine cannot go on, or the store cannot be written."""
        known, self.known = self.known, []
        if self.inner is None or not self.asked:
            return known
        if known and time.monotonic() < self.polled + PAUSE:  # a poll may take half a second
            return known
        completions = self.inner.poll()
        self.polled = time.monotonic()
        done: list[Completion] = []
        samples: list[Sample] = []
        ids: list[list[int]] = []  # of each sample
        for completion in completions:
            key, request = self.asked.pop(completion.id)
            same = self.same.pop(key)
            self.waiting -= len(same)
            done += [replace(completion, id=id) for id in same]
            if completion.finish_reason != "error":
                samples.append(_sample(key, request, completion))
                ids.append(same)
        for row, same in zip(self.store.append(samples), ids, strict=True):
            self.rows[same] = row
        self.store.commit_if_due()
        return known + done

    def figures(self) -> dict[str, float]:
        figures = {} if self.inner is None else self.inner.figures()
        if not self.reused:
            return figures
        return figures | {"reused": self.reused, "reused_tokens": self.reused_tokens}

    def close(self) -> None:
        if self.inner is not None:
            self.inner.close()

    def _find(self, keys: Sequence[bytes]) -> list[tuple[int, Sample] | None]:
        found = self.store.find(keys)
        for other in self.others:
            missing = [i for i, one in enumerate(found) if one is None]
            theirs = other.find([keys[i] for i in missing])
            taken = [(i, one[1]) for i, one in zip(missing, theirs, strict=True) if one is not None]
            rows = self.store.append([sample for _, sample in taken])
            for (i, sample), row in zip(taken, rows, strict=True):
                found[i] = (row, sample)
            self.store.commit_if_due()
        return found

    def _keys(self, requests: Sequence[Request]) -> list[bytes]:
        """The key of each request; siblings share their prompt, which is hashed once."""
        keys = []
        last, prefix = None, hashlib.blake2b()
        for request in requests:
            prompt = (id(request.prompt), request.policy, request.params)
            if prompt != last:
                last, prefix = prompt, hashlib.blake2b(self._context(request), digest_size=16)
                prefix.update(np.ascontiguousarray(request.prompt).data)
            digest = prefix.copy()
            seed = request.seed if request.params.temperature > 0 else 0  # greedy needs none
            digest.update(seed.to_bytes(8, "little"))
            keys.append(digest.digest())
        return keys

    def _context(self, request: Request) -> bytes:
        place = (request.policy, request.params)
        if place not in self._contexts:
            parts = [self.weights(request.policy), self.tokenizer, asdict(request.params)]
            text = json.dumps(parts, sort_keys=True)
            self._contexts[place] = hashlib.blake2b(text.encode(), digest_size=32).digest()
        return self._contexts[place]


def _sample(key: bytes, request: Request, completion: Completion) -> Sample:
    finish = completion.finish
    return Sample(
        key, request.question, request.path, finish, completion.tokens, completion.logprobs
    )


def _completion(id: int, sample: Sample) -> Completion:
    reason: Literal["stop", "length"] = "stop" if sample.finish == FINISH_STOP else "length"
    return Completion(id, sample.tokens, sample.logprobs, reason)
