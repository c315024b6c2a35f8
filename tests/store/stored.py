"""Samples for tests of the store. Sample number i can be computed without the store."""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np

from malt_fast.store.segments import Sample
from malt_fast.store.store import Store, open_store


def key_of(i: int) -> bytes:
    return hashlib.blake2b(str(i).encode(), digest_size=16).digest()


@cache
def sample_of(i: int, longest: int = 20) -> Sample:
    """Sample number i; some have no tokens."""
    rng = np.random.default_rng(i)
    tokens = rng.integers(0, 2**31 - 1, rng.integers(0, longest), np.int32)
    path = tuple(rng.integers(0, 99, rng.integers(1, 4)).tolist())
    logprobs = (tokens / -7).astype(np.float32)
    return Sample(key_of(i), f"question \u00e9{i // 7}", path, i % 2, tokens, logprobs)


def same(a: Sample | None, b: Sample) -> bool:
    return (
        a is not None
        and (a.key, a.question, a.path, a.finish) == (b.key, b.question, b.path, b.finish)
        and np.array_equal(a.tokens, b.tokens)
        and np.array_equal(a.logprobs, b.logprobs)
        and (a.tokens.dtype, a.logprobs.dtype) == (np.int32, np.float32)
    )


def open_small(folder: Path, **options: object) -> Store:
    """A store that commits often and seals soon."""
    settings = {"batch": 4, "interval": 3600.0, "segment_bytes": 6_000} | options
    return open_store(folder, **settings)  # type: ignore[arg-type]


def fill(store: Store, numbers: range) -> None:
    for i in numbers:
        store.append([sample_of(i)])
        store.commit_if_due()
    store.commit_all()


def known(store: Store, n: int) -> list[int]:
    """Numbers below n whose samples the store has. Asserts that these are intact."""
    found = store.find([key_of(i) for i in range(n)])
    there = [i for i, one in enumerate(found) if one is not None]
    assert all(same(found[i][1], sample_of(i)) for i in there)  # type: ignore[index]
    return there
