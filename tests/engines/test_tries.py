"""Prompts as tries against sets of prefixes in plain Python."""

from collections.abc import Iterator

import numpy as np
import pytest

from malt_fast.engines.tries import ALIGN, in_both, share, tries


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


@pytest.mark.parametrize("seed", range(200))
def test_longest_common_beginning(seed):
    rng = np.random.default_rng(seed)
    tokens = [
        rng.choice([1, 2, 256, 70_000], rng.integers(0, 9)).astype(np.int32) for _ in range(30)
    ]
    owned = [([None, "a", "b"][rng.integers(0, 3)], own) for own in tokens]
    prompts, held = owned[:10], dict(enumerate(owned[10 : 10 + rng.integers(0, 21)]))
    for (adapter, prompt), (key, length) in zip(prompts, in_both(prompts, held), strict=True):
        shared = {
            key: next(
                (i for i, (a, b) in enumerate(zip(own, prompt, strict=False)) if a != b),
                min(len(own), len(prompt)),
            )
            for key, (other, own) in held.items()
            if other == adapter
        }
        assert length == max(shared.values(), default=0)
        assert key == -1 if not length else shared[key] == length


def partitions(items: list[int]) -> Iterator[list[list[int]]]:
    """All ways to put items in groups."""
    if not items:
        yield []
        return
    for rest in partitions(items[1:]):
        yield [[items[0]], *rest]
        for i, group in enumerate(rest):
            yield [*rest[:i], [items[0], *group], *rest[i + 1 :]]


@pytest.mark.parametrize("seed", range(30))
def test_shared_columns_are_equal_and_the_most_that_one_level_saves(seed):
    rng = np.random.default_rng(seed)
    held: dict[int, tuple[str | None, np.ndarray]] = {}
    for slot in rng.permutation(9)[: rng.integers(0, 7)]:
        blocks = np.repeat(rng.integers(0, 2, 3), ALIGN)
        adapter = [None, "a"][rng.integers(0, 1 + seed % 2)]
        held[int(slot)] = adapter, blocks[: rng.integers(0, len(blocks) + 1)].astype(np.int32)
    lead, shared = share(held, 9)

    def common(group: list[int]) -> int:
        first = held[group[0]]
        lengths = [
            next(
                (n for n, (a, b) in enumerate(zip(x, first[1], strict=False)) if a != b),
                min(len(x), len(first[1])),
            )
            if adapter == first[0]
            else 0
            for adapter, x in map(held.__getitem__, group)
        ]
        return min(lengths) // ALIGN * ALIGN

    saved = 0
    for group in ([s for s in held if lead[s] == slot] for slot in held):
        if len(group) > 1:
            assert set(shared[group]) == {common(group)}
            saved += common(group) * (len(group) - 1)
    assert saved == max(
        sum(common(group) * (len(group) - 1) for group in groups)
        for groups in partitions(list(held))
    )
    others = [slot for slot in range(9) if slot not in held]
    assert not shared[others].any()
