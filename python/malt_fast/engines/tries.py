"""Prompts as prefix tries, each shared prefix once, in one sequence that one forward pass reads.

    prompts   a b c      row       0  1  2  3
              a b d      token     a  b  c  d
                         position  0  1  2  2
                         end       4  4  3  4     row q sees row k exactly when k <= q < end[k]

The layout and the attention over it are those of training (csrc/packing/tree_layout.hpp).
"""

from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from malt_fast import _core

Ints = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int32]
Owned = tuple[str | None, Indices]  # an adapter, and tokens that it has read

ALIGN = 16  # columns that are read at a time; fewer are not worth sharing


class Trie(NamedTuple):
    """Some prompts in one sequence of N rows."""

    tokens: Ints  # [N]
    positions: Ints  # [N]: in the prompts
    end: npt.NDArray[np.int32]  # [N]: where the subtree of a row's segment ends
    prompts: Ints  # [P]: which prompts they are
    paths: list[Ints]  # for each of them the rows of its tokens, in order


def tries(
    prompts: Sequence[npt.NDArray[np.int32]], groups: Sequence[int], capacity: int
) -> Iterator[Trie]:
    """Lay distinct prompts out in tries of about `capacity` rows; a longer prompt is alone.

    groups: a number >= 0 for each prompt; only prompts of one group share what they begin with.
    """
    roots = [np.array([-1 - group], np.int32) for group in groups]  # one more token in front
    lengths = np.array([1 + len(prompt) for prompt in prompts], np.int32)
    stop = np.array([0], np.int32)  # the layout leaves out the last token of a sequence
    pieces = [piece for pair in zip(roots, prompts, strict=True) for piece in pair]
    arena = np.concatenate([*pieces, stop])
    begin = np.cumsum(lengths, dtype=np.int64) - lengths
    last, one = np.full(len(prompts), len(arena) - 1), np.ones(len(prompts), np.int32)
    packs = _core.packing.lay_out(
        arena, begin, lengths, last, one, np.zeros(0, np.int64), max(capacity, int(lengths.max()))
    )
    for pack in range(len(packs)):
        rows, ends = (slice(*x[pack : pack + 2]) for x in (packs.begin, packs.target_begin))
        tokens, positions = (x[rows].astype(np.int64) for x in (packs.token, packs.position))
        end, stops = packs.end[rows], packs.row[ends].tolist()
        paths = [np.flatnonzero(end[: row + 1] > row)[1:] for row in stops]
        own = tokens >= 0
        shift = np.cumsum(np.concatenate([[False], ~own]))  # roots before a row
        yield Trie(
            tokens[own],
            positions[own] - 1,
            (end - shift[end])[own].astype(np.int32),
            packs.owner[ends].astype(np.int64),
            [path - shift[path] for path in paths],
        )


def in_both(prompts: Sequence[Owned], held: Mapping[int, Owned]) -> list[tuple[int, int]]:
    """(key, length) of the longest beginning that each prompt shares with one of `held`.

    Only tokens under one adapter are shared; without any the key is -1.
    """
    # In lexical order the one that shares most is next to the place of the prompt. The order may be
    # that of the bytes: a token has four, so the most equal bytes are the most equal tokens.
    rows = sorted((*_order(tokens), key) for key, tokens in held.items())
    found = []
    for prompt in prompts:
        at = bisect(rows, _order(prompt))
        near = [key for _, _, key in rows[max(0, at - 1) : at + 1] if held[key][0] == prompt[0]]
        lengths = [(_alike(prompt[1], held[key][1]), key) for key in near]
        length, key = max(lengths, default=(0, -1))
        found.append((key if length else -1, length))
    return found


def share(held: Mapping[int, Owned], slots: int) -> tuple[Indices, Indices]:
    """(lead, shared) of each slot: its first shared columns are read from the slot lead.

    held: the adapter and tokens of the keys in a slot. Groups of slots are chosen so that the
    fewest columns are read; in lexical order a group's slots are neighbours.
    """
    lead, shared = np.arange(slots, dtype=np.int32), np.zeros(slots, np.int32)
    order = [slot for *_, slot in sorted((*_order(own), slot) for slot, own in held.items())]
    rows, n = [held[slot] for slot in order], len(order)
    both = [_alike(a[1], b[1]) // ALIGN * ALIGN if a[0] == b[0] else 0 for a, b in pairwise(rows)]
    # Of the first j slots: columns not read at best, and where the last group begins for that.
    saved, begin = np.zeros((2, n + 1), np.int64)
    common = np.full(n, max(both, default=0))  # of slots i .. j - 1 in the order
    for j in range(2, n + 1):
        np.minimum(common[: j - 1], both[j - 2], out=common[: j - 1])
        gains = saved[:j] + common[:j] * np.arange(j - 1, -1, -1)
        begin[j] = gains.argmax()
        saved[j] = gains[begin[j]]
    while n > 1:
        first = int(begin[n])
        group = order[first:n]
        lead[group] = group[0]
        shared[group] = min(both[first : n - 1], default=0)
        n = first
    return lead, shared


def _order(own: Owned) -> tuple[str, bytes]:
    adapter, tokens = own
    return adapter or "", tokens.tobytes()


def _alike(a: Indices, b: Indices) -> int:
    """The number of tokens with which both begin."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n
