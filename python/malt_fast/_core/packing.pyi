"""
Packs of prefix trees, and attention over them.
"""

from __future__ import annotations

import typing

import numpy
import numpy.typing

__all__: list[str] = [
    "Packs",
    "best_fit_decreasing",
    "block_map",
    "lay_out",
    "tree_attention",
    "tree_attention_gradient",
]

class Packs:
    """
    P packs of prefix trees, as columns; rows and ends count from the pack's start.

    Pack p has the inputs begin[p]:begin[p + 1] of token, position and end; the targets
    target_begin[p]:target_begin[p + 1] of row, target and owner; the sequences
    member_begin[p]:member_begin[p + 1] of member; the pairs link_begin[p]:link_begin[p
    + 1] of link.
    """
    def __len__(self) -> int: ...
    @property
    def begin(self) -> numpy.typing.NDArray[numpy.int64]: ...
    @property
    def end(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        End of the subtree of the token's segment: row q sees row k when k <= q < end[k].
        """
    @property
    def link(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        Pairs of each pack, ascending.
        """
    @property
    def link_begin(self) -> numpy.typing.NDArray[numpy.int64]: ...
    @property
    def member(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        Sequences of each pack, ascending.
        """
    @property
    def member_begin(self) -> numpy.typing.NDArray[numpy.int64]: ...
    @property
    def owner(self) -> numpy.typing.NDArray[numpy.int32]: ...
    @property
    def position(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        Counted from the root of the token's tree.
        """
    @property
    def row(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        The row that predicts `target`, a token of sequence `owner`.
        """
    @property
    def target(self) -> numpy.typing.NDArray[numpy.int32]: ...
    @property
    def target_begin(self) -> numpy.typing.NDArray[numpy.int64]: ...
    @property
    def token(self) -> numpy.typing.NDArray[numpy.int32]: ...

def best_fit_decreasing(
    sizes: numpy.typing.ArrayLike, capacity: typing.SupportsInt | typing.SupportsIndex
) -> numpy.typing.NDArray[numpy.int32]:
    """
    Bin of each item: in decreasing size, each goes into the fullest bin with room.

    Sizes are in 0..capacity.
    """

def block_map(
    end: numpy.typing.ArrayLike, block: typing.SupportsInt | typing.SupportsIndex
) -> tuple[
    numpy.typing.NDArray[numpy.int32],
    numpy.typing.NDArray[numpy.int32],
    numpy.typing.NDArray[numpy.int32],
    numpy.typing.NDArray[numpy.int32],
]:
    """
    (count [n], index [n, n], full_count [n], full_index [n, n]), n = ceil(N / block).

    Block i of queries sees part of the key blocks index[i, :count[i]] and the whole of
    full_index[i, :full_count[i]], ascending: the layout of FlexAttention.
    """

def lay_out(
    tokens: numpy.typing.ArrayLike,
    prompt_begin: numpy.typing.ArrayLike,
    prompt_len: numpy.typing.ArrayLike,
    completion_begin: numpy.typing.ArrayLike,
    completion_len: numpy.typing.ArrayLike,
    pairs: numpy.typing.ArrayLike,
    capacity: typing.SupportsInt | typing.SupportsIndex,
) -> Packs:
    """
    Lay sequences out as prefix trees, in packs of at most `capacity` tokens.

    Sequence i is the prompt `tokens[prompt_begin[i]:][:prompt_len[i]]` and its
    completion, given likewise; equal prompts are best given as the same slice. pairs [2
    L]: two sequences each, which then share a pack. The last token of a sequence is no
    input; every token of a completion is a target. A sequence is in one pack, or in
    several if its pairs do not fit in one. Raises ValueError for what fits in no pack.
    """

def tree_attention(
    q: numpy.typing.NDArray[numpy.float32],
    k: numpy.typing.NDArray[numpy.float32],
    v: numpy.typing.NDArray[numpy.float32],
    end: numpy.typing.ArrayLike,
    scale: typing.SupportsFloat | typing.SupportsIndex,
    softcap: typing.SupportsFloat | typing.SupportsIndex,
    out: numpy.typing.NDArray[numpy.float32],
    log_sum: numpy.typing.NDArray[numpy.float32],
    simd: str = "",
) -> None:
    """
    Fill out [H, N, D] and log_sum [H, N] from q [H, N, D], k and v [G, N, D] (H % G == 0).

    The D values of a row must be contiguous; other strides are free. softcap 0 means
    none. Formulas: csrc/packing/tree_attention.hpp.
    """

def tree_attention_gradient(
    q: numpy.typing.NDArray[numpy.float32],
    k: numpy.typing.NDArray[numpy.float32],
    v: numpy.typing.NDArray[numpy.float32],
    end: numpy.typing.ArrayLike,
    scale: typing.SupportsFloat | typing.SupportsIndex,
    softcap: typing.SupportsFloat | typing.SupportsIndex,
    out: numpy.typing.NDArray[numpy.float32],
    log_sum: numpy.typing.NDArray[numpy.float32],
    grad: numpy.typing.NDArray[numpy.float32],
    dq: numpy.typing.NDArray[numpy.float32],
    dk: numpy.typing.NDArray[numpy.float32],
    dv: numpy.typing.NDArray[numpy.float32],
    simd: str = "",
) -> None:
    """
    Fill dq, dk and dv from the upstream gradient of `out`; shapes as in tree_attention().
    """
