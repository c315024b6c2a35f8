"""Packs from C++ against sets of explicit prefixes, bins against a quadratic search."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malt_fast import _core
from tests.volume import volume

Sequence = tuple[list[int], list[int]]  # prompt, completion
Prefix = tuple[int, ...]
Pack = tuple[list[int], list[int]]  # members, pairs


def lay_out(
    sequences: list[Sequence], pairs: list[tuple[int, int]], capacity: int
) -> _core.packing.Packs:
    """Through one arena in which equal prompts are one slice, as training gives them."""
    arena: list[int] = []
    place: dict[tuple[int, ...], int] = {}
    columns = []
    for prompt, completion in sequences:
        if tuple(prompt) not in place:
            place[tuple(prompt)] = len(arena)
            arena += prompt
        columns.append((place[tuple(prompt)], len(prompt), len(arena), len(completion)))
        arena += completion
    slices = np.array(columns, np.int64).reshape(-1, 4).T
    links = np.array(pairs, np.int64).ravel()
    return _core.packing.lay_out(np.array(arena, np.int32), *slices, links, capacity)


# ---- what has to hold, on explicit prefixes ----


def prefixes(sequences: list[Sequence], members) -> set[Prefix]:
    rows = [[*sequences[i][0], *sequences[i][1]] for i in members]
    return {tuple(row[:n]) for row in rows for n in range(1, len(row))}


def depth_first(sequences: list[Sequence]) -> list[Prefix]:
    """All prefixes; children in the order in which sequences bring them."""
    trie: dict = {}
    for prompt, completion in sequences:
        node = trie
        for token in [*prompt, *completion][:-1]:
            node = node.setdefault(token, {})
    order: list[Prefix] = []
    waiting: list[tuple[Prefix, dict]] = [((), trie)]
    while waiting:
        prefix, node = waiting.pop()
        order.append(prefix)
        waiting += [((*prefix, token), child) for token, child in reversed(node.items())]
    return order[1:]


def find_units(
    sequences: list[Sequence], pairs: list[tuple[int, int]], capacity: int
) -> list[tuple[set[int], list[int]]]:
    """(members, pairs) of what shares a pack: what pairs connect, as many pairs as fit."""
    group = list(range(len(sequences)))
    for chosen, rejected in pairs:
        low, high = sorted((group[chosen], group[rejected]))
        group = [low if g == high else g for g in group]
    units: list[tuple[set[int], list[int]]] = []
    for smallest in sorted(set(group)):
        members, links = {smallest}, []
        for link, pair in enumerate(pairs):
            if group[pair[0]] != smallest:
                continue
            if links and len(prefixes(sequences, members | set(pair))) > capacity:
                units.append((members, links))
                members, links = set(), []
            members, links = (members if links else set()) | set(pair), [*links, link]
        units.append((members, links))
    return units


def check_units(
    sequences: list[Sequence], pairs: list[tuple[int, int]], capacity: int, packs: list[Pack]
) -> None:
    """No unit is divided, none is there twice, and trees that fit a pack are not cut."""
    units = find_units(sequences, pairs, capacity)
    where = []
    for members, links in units:
        holding = [p for p, pack in enumerate(packs) if members <= set(pack[0])]
        if links:
            holding = [p for p in holding if links[0] in packs[p][1]]
            assert all(set(links) <= set(packs[p][1]) for p in holding)
        assert len(holding) == 1
        where.append(holding[0])
    for i in range(len(sequences)):
        mine = {p for p, (members, _) in zip(where, units, strict=True) if i in members}
        assert mine == {p for p, pack in enumerate(packs) if i in pack[0]}
    for prefix in [(), *depth_first(sequences)]:
        inside = [u for u in range(len(units)) if below(sequences, units[u][0], prefix)]
        if bound(sequences, [units[u][0] for u in inside], prefix) <= capacity:
            assert len({where[u] for u in inside}) <= 1


def below(sequences: list[Sequence], members: set[int], prefix: Prefix) -> bool:
    rows = ([*sequences[i][0], *sequences[i][1]][:-1] for i in members)
    return all(tuple(row[: len(prefix)]) == prefix for row in rows)


def bound(sequences: list[Sequence], units: list[set[int]], prefix: Prefix) -> int:
    """Tokens of all the units; what units of one node share beyond it counts for each."""
    tokens = {row[:n] for row in [prefix] for n in range(1, len(row) + 1)}
    repeated = []
    for members in units:
        mine = prefixes(sequences, members)
        shared = [row for row in mine if below(sequences, members, row)]
        tokens |= set(shared)
        repeated += [row for row in mine if row not in shared]
    return len(tokens) + len(repeated)


def check(
    sequences: list[Sequence],
    pairs: list[tuple[int, int]],
    capacity: int,
    thorough: bool = True,
) -> list[int]:
    """Everything that has to hold; the size of each pack."""
    packs = lay_out(sequences, pairs, capacity)
    order = depth_first(sequences)
    sizes, members, links, contents = [], Counter(), Counter(), []
    for p in range(len(packs)):
        inputs, targets, mine, linked = (
            slice(*column[p : p + 2])
            for column in (packs.begin, packs.target_begin, packs.member_begin, packs.link_begin)
        )
        member, link = packs.member[mine].tolist(), packs.link[linked].tolist()
        assert member == sorted(set(member)) and member and link == sorted(link)
        assert all(set(pairs[i]) <= set(member) for i in link)
        paths = path_of_rows(packs.token[inputs], packs.position[inputs], packs.end[inputs])
        own = prefixes(sequences, member)
        assert paths == [prefix for prefix in order if prefix in own]
        assert len(paths) <= capacity
        found = zip(
            packs.owner[targets].tolist(),
            [paths[row] for row in packs.row[targets]],
            packs.target[targets].tolist(),
            strict=True,
        )
        expected = [
            (i, (*sequences[i][0], *sequences[i][1][:n]), token)
            for i in member
            for n, token in enumerate(sequences[i][1])
        ]
        assert list(found) == expected
        sizes.append(len(paths))
        contents.append((member, link))
        members.update(member)
        links.update(link)
    for column, entries in zip(
        (packs.begin, packs.target_begin, packs.member_begin, packs.link_begin),
        (packs.token, packs.owner, packs.member, packs.link),
        strict=True,
    ):
        assert column[0] == 0 and column[-1] == len(entries) and len(column) == len(packs) + 1
    assert sorted(links.elements()) == list(range(len(pairs)))
    assert sorted(members) == list(range(len(sequences)))
    assert pairs or set(members.values()) == {1}
    smallest = [member[0] for member, _ in contents]
    assert smallest == sorted(smallest)
    if thorough:
        check_units(sequences, pairs, capacity, contents)
    return sizes


def path_of_rows(token, position, end) -> list[Prefix]:
    """What each row sees by the mask rule, which must be a path from its root: its prefixes."""
    n, rows = len(token), np.arange(len(token))
    paths: list[Prefix] = []
    for q in range(n):
        seen = rows[(rows <= q) & (q < end)]
        assert position[seen].tolist() == list(range(position[q] + 1))
        path = tuple(token[seen].tolist())
        assert all(paths[k] == path[: k_th + 1] for k_th, k in enumerate(seen[:-1]))
        paths.append(path)
    assert len(set(paths)) == n
    return paths


def need(sequences: list[Sequence], pairs: list[tuple[int, int]]) -> int:
    units = [[i] for i in range(len(sequences))] + [list(pair) for pair in pairs]
    return max((len(prefixes(sequences, unit)) for unit in units), default=1)


tokens = st.lists(st.integers(0, 2), min_size=1, max_size=5)
prompts = st.sampled_from([[0], [1], [0, 1], [0, 1, 2, 0], [2] * 20, [0, 1, 2, 0, 1]])
forests = st.lists(st.tuples(prompts, tokens), min_size=1, max_size=12)


@settings(max_examples=volume(300))
@given(sequences=forests, room=st.integers(0, 30), data=st.data())
def test_layout(sequences, room, data):
    index = st.integers(0, len(sequences) - 1)
    pairs = data.draw(st.lists(st.tuples(index, index), max_size=8))
    check(sequences, pairs, need(sequences, pairs) + room)


def test_one_pack_where_everything_fits():
    sequences = [([0, 1], [2, 3, 9]), ([0, 1], [4, 5, 9]), ([7], [9])]
    packs = lay_out(sequences, [(0, 1)], 100)
    assert packs.token.tolist() == [0, 1, 2, 3, 4, 5, 7]
    assert packs.position.tolist() == [0, 1, 2, 3, 2, 3, 0]
    assert packs.end.tolist() == [6, 6, 4, 4, 6, 6, 7]
    assert packs.row.tolist() == [1, 2, 3, 1, 4, 5, 6]
    assert packs.link.tolist() == [0] and packs.member.tolist() == [0, 1, 2]


def test_linked_sequences_stay_together_where_they_fit():
    sequences = [([0] * 10, [k] * 6) for k in range(1, 9)]
    pairs = [(2 * k, 2 * k + 1) for k in range(4)]
    packs = lay_out(sequences, pairs, 20)
    assert packs.member.reshape(-1, 2).tolist() == [list(pair) for pair in pairs]
    assert check(sequences, pairs, 20) == [20] * 4


def test_a_family_that_does_not_fit_is_divided_over_its_pairs():
    sequences = [([0] * 10, [k] * 6) for k in range(1, 7)]
    pairs = [(0, k) for k in range(1, 6)]
    packs = lay_out(sequences, pairs, 25)  # the prompt and three completions
    assert [len(set(m)) for m in np.split(packs.member, packs.member_begin[1:-1])] == [3, 3, 2]
    assert check(sequences, pairs, 25) == [25, 25, 20]


def test_a_large_tree_is_cut_with_its_path_repeated():
    rng = np.random.default_rng(0)
    head = [0] * 50
    sequences = [
        ([*head, draft, *[1] * 40, check_], rng.integers(5, 99, 30).tolist())
        for draft in range(10)
        for check_ in range(4)
    ]
    sizes = check(sequences, [], 400, thorough=False)
    whole = len(prefixes(sequences, range(40)))
    assert len(sizes) <= -(-(whole - 50) // 350) + 1
    assert check(sequences, [], whole, thorough=False) == [whole]


def test_deep_chains_equal_sequences_and_prefixes_of_others():
    chain = list(range(3000))
    sequences = [(chain[:n], [chain[n], 5]) for n in range(1, 2990, 10)]
    size = len(prefixes(sequences, range(40)))
    assert check(sequences[:40], [], 4000, thorough=False) == [size]
    assert len(lay_out(sequences, [], 4000)) == 1
    assert check([([1, 2], [3, 4])] * 5, [(0, 4)], 3) == [3]
    assert check([([1], [2, 3, 4, 5]), ([1], [2, 3]), ([1, 2], [3, 9, 9])], [], 6) == [5]


def test_a_hundred_thousand_tokens():
    rng = np.random.default_rng(1)
    sequences, pairs = [], []
    for _ in range(40):
        question = rng.integers(0, 9, 60).tolist()
        for _ in range(3):
            prompt = question + rng.integers(0, 9, 100).tolist()
            pairs += [(len(sequences), len(sequences) + k) for k in (1, 2)]
            sequences += [(prompt, rng.integers(0, 9, 250).tolist()) for _ in range(3)]
    packs = lay_out(sequences, pairs, 4096)
    trees = [prefixes(sequences, range(i, i + 9)) for i in range(0, 360, 9)]
    assert packs.token.size == sum(map(len, trees))
    assert np.diff(packs.begin).max() <= 4096  # and no tree was cut to fill one
    assert sorted(packs.link.tolist()) == list(range(len(pairs)))


def test_a_capacity_beyond_all_need_costs_nothing():
    sequences = [([k], [1, 2, 3]) for k in range(50)]
    assert len(lay_out(sequences, [(0, 1)], 2**31 - 1)) == 1


def test_columns_are_views_and_outlive_their_packs():
    packs = lay_out([([1], [2, 3])], [], 10)
    token = packs.token
    assert np.shares_memory(token, packs.token) and not token.flags.writeable
    del packs
    assert token.tolist() == [1, 2]


def test_nothing():
    packs = lay_out([], [], 10)
    assert len(packs) == 0 and packs.begin.tolist() == [0] and packs.member.size == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"capacity": 4}, "sequence 1 needs 5 tokens, a pack has 4"),
        ({"capacity": 0}, "capacity must be"),
        ({"prompt_len": [2, 0]}, "the prompt of sequence 1 is empty"),
        ({"completion_len": [0, 2]}, "the completion of sequence 0 is empty"),
        ({"completion_begin": [2, 6]}, "the completion of sequence 1 lies outside tokens"),
        ({"prompt_begin": [-1, 0]}, "the prompt of sequence 0 lies outside tokens"),
        ({"pairs": [0, 2]}, "pairs name sequence 2 of 2"),
        ({"pairs": [0]}, "two indices each"),
        ({"prompt_len": [2]}, "must have the same number"),
        ({"tokens": [[1]]}, "one-dimensional"),
    ],
)
def test_bad_input_is_named(change, says):
    good = {
        "tokens": [1, 2, 3, 4, 5, 6, 7],
        "prompt_begin": [0, 0],
        "prompt_len": [2, 2],
        "completion_begin": [2, 3],
        "completion_len": [1, 4],
        "pairs": [0, 1],
        "capacity": 10,
    }
    assert len(_core.packing.lay_out(**good)) == 1
    with pytest.raises(ValueError, match=says):
        _core.packing.lay_out(**(good | change))


# ---- blocks ----


@settings(max_examples=volume(60))
@given(sequences=forests, block=st.integers(1, 9))
def test_block_map_is_the_dense_mask_by_blocks(sequences, block):
    end = lay_out(sequences, [], 10**6).end
    n, rows = -(-len(end) // block), np.arange(len(end))
    dense = (rows <= rows[:, None]) & (rows[:, None] < end)
    count, index, full_count, full_index = _core.packing.block_map(end, block)
    assert index.shape == full_index.shape == (n, n)
    for q in range(n):
        part, full = [], []
        for k in range(n):
            seen = dense[q * block : (q + 1) * block, k * block : (k + 1) * block]
            if seen.all() and k < q:
                full.append(k)
            elif seen.any():
                part.append(k)
        assert index[q, : count[q]].tolist() == part
        assert full_index[q, : full_count[q]].tolist() == full


def test_block_map_of_nothing():
    assert [array.size for array in _core.packing.block_map([], 4)] == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="block"):
        _core.packing.block_map([1], 0)


# ---- bins ----


def quadratic(sizes: list[int], capacity: int) -> list[int]:
    """The bin of each item; `open_bins` has (room left, bin), the last filled one first."""
    bins, open_bins = [0] * len(sizes), []
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):  # stable
        fits = [entry for entry in open_bins if entry[0] >= sizes[i]]
        room, bins[i] = min(fits, key=lambda entry: entry[0], default=(capacity, len(open_bins)))
        open_bins = [entry for entry in open_bins if entry[1] != bins[i]]
        open_bins.insert(0, (room - sizes[i], bins[i]))
    return bins


@settings(max_examples=volume(200))
@given(st.data(), st.sampled_from([1, 5, 63, 64, 65, 4095, 4096, 5000, 10**6, 2**41]))
def test_bins_are_those_of_the_quadratic_search(data, capacity):
    """Many items per unit of capacity and few: both ways to look a bin up."""
    near = st.sampled_from([0, 1, capacity // 2, capacity // 3 + 1, capacity])
    drawn = data.draw(st.lists(st.integers(0, capacity) | near, max_size=40))
    sizes = drawn * data.draw(st.sampled_from([1, 3]))
    bins = _core.packing.best_fit_decreasing(sizes, capacity)
    assert bins.tolist() == quadratic(sizes, capacity)


def test_bins_are_close_to_the_lower_bound():
    rng = np.random.default_rng(0)
    sizes = np.clip(rng.lognormal(6, 0.6, 100_000), 1, 16384).astype(np.int64)
    bins = _core.packing.best_fit_decreasing(sizes, 16384)
    assert np.bincount(bins, weights=sizes).max() <= 16384
    assert bins.max() + 1 <= 1.001 * np.ceil(sizes.sum() / 16384)


def test_items_that_fit_no_bin():
    for sizes in ([5, 11], [-1]):
        with pytest.raises(ValueError, match=r"does not fit 0\.\.10"):
            _core.packing.best_fit_decreasing(sizes, 10)
