"""Prompts as tries against sets of prefixes in plain Python."""

import numpy as np
import pytest

from malt_fast.engines.tries import in_both, tries


def prompts_of(seed: int) -> list[np.ndarray]:
    """Distinct prompts over few tokens, so that many begin alike and some are parts of others."""
    rng = np.random.default_rng(seed)
    drawn = [tuple(rng.integers(0, 3, rng.integers(1, 9))) for _ in range(rng.integers(1, 30))]
    return [np.array(prompt, np.int32) for prompt in dict.fromkeys(drawn)]


@pytest.mark.parametrize("seed", range(20))
def test_every_prefix_is_there_once_and_sees_its_own(seed):
    prompts = prompts_of(seed)
    groups = np.random.default_rng(seed).integers(0, 1 + seed % 3, len(prompts)).tolist()
    (trie,) = tries(prompts, groups, 1000)
    prefixes = {
        (group, *p[:n].tolist())
        for group, p in zip(groups, prompts, strict=True)
        for n in range(1, len(p) + 1)
    }
    assert len(trie.tokens) == len(prefixes)
    assert sorted(trie.prompts) == list(range(len(prompts)))
    for prompt, path in zip(trie.prompts, trie.paths, strict=True):
        np.testing.assert_array_equal(trie.tokens[path], prompts[prompt])
        np.testing.assert_array_equal(trie.positions[path], np.arange(len(path)))
        for n, row in enumerate(path):
            seen = [k for k in range(row + 1) if row < trie.end[k]]
            np.testing.assert_array_equal(seen, path[: n + 1])


@pytest.mark.parametrize("seed", range(5))
def test_a_capacity_cuts_tries_but_no_prompt(seed):
    prompts = prompts_of(seed)
    parts = list(tries(prompts, [0] * len(prompts), 6))
    assert sorted(np.concatenate([part.prompts for part in parts])) == list(range(len(prompts)))
    assert all(len(part.tokens) <= max(6, *map(len, prompts)) for part in parts)


@pytest.mark.parametrize("seed", range(20))
def test_longest_common_beginning(seed):
    *held, prompt = prompts_of(seed + 1)
    key, length = in_both(prompt, dict(enumerate(held)))
    shared = [
        next((i for i, (a, b) in enumerate(zip(x, prompt, strict=False)) if a != b), len(x))
        for x in held
    ]
    longest = max((min(n, len(prompt)) for n in shared), default=0)
    assert length == longest
    assert key == -1 if not longest else min(shared[key], len(prompt)) == longest
