"""Prompts as prefix tries, each shared prefix once, in one sequence that one forward pass reads.

    prompts   a b c      row       0  1  2  3
              a b d      token     a  b  c  d
                         position  0  1  2  2
                         end       4  4  3  4     row q sees row k exactly when k <= q < end[k]

The layout and the attention over it are those of training (csrc/packing/tree_layout.hpp).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from malt_fast import _core

Ints = npt.NDArray[np.int64]


class Trie(NamedTuple):
    """Some prompts in one sequence of N rows."""

    tokens: Ints  # [N]
    positions: Ints  # [N]: in the prompts
    end: npt.NDArray[np.int32]  # [N]: where the subtree of a row's segment ends
    prompts: Ints  # [P]: which prompts they are
    paths: list[Ints]  # for each of them the rows of its tokens, in order


def tries(prompts: Sequence[npt.NDArray[np.int32]], capacity: int) -> Iterator[Trie]:
    """Lay distinct prompts out in tries of about `capacity` rows; a longer prompt is alone."""
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    stop = np.array([0], np.int32)  # the layout leaves out the last token of a sequence
    arena = np.concatenate([*prompts, stop])
    begin = np.cumsum(lengths, dtype=np.int64) - lengths
    last, one = np.full(len(prompts), len(arena) - 1), np.ones(len(prompts), np.int32)
    packs = _core.packing.lay_out(
        arena, begin, lengths, last, one, np.zeros(0, np.int64), max(capacity, int(lengths.max()))
    )
    for pack in range(len(packs)):
        rows, ends = (slice(*x[pack : pack + 2]) for x in (packs.begin, packs.target_begin))
        end = packs.end[rows].copy()  # the layout's own is read-only
        paths = [np.flatnonzero(end[: row + 1] > row) for row in packs.row[ends].tolist()]
        tokens, positions = (x[rows].astype(np.int64) for x in (packs.token, packs.position))
        yield Trie(tokens, positions, end, packs.owner[ends].astype(np.int64), paths)


def in_both(prompt: Ints, held: Mapping[int, Ints]) -> tuple[int, int]:
    """(key, length) of the longest beginning that `prompt` shares with one of `held`."""
    best, longest = -1, 0
    for key, tokens in held.items():
        n = min(len(prompt), len(tokens))
        # Most share no more than before: the last token that would have to be equal, first.
        if n > longest and tokens[longest] == prompt[longest]:
            differ = np.flatnonzero(tokens[:n] != prompt[:n])
            length = int(differ[0]) if len(differ) else n
            if length > longest:
                best, longest = key, length
    return best, longest
