"""Attention over a pack: token q sees token k exactly when k <= q < end[k].

A pack holds prefix trees depth first (packing.py); `end[k]` is where the subtree of k's segment
ends, so one integer a token is the whole mask. transformers calls `tree_attention` for models whose
implementation is set to TREE. On a CPU it works through blocks of queries, each against the keys
that one of them sees; on a GPU it is FlexAttention. Both cost what is visible, not N^2.
"""

from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import AttentionInterface

from malt_fast._core import block_map
from malt_fast.errors import MaltError

TREE = "malt_tree"  # the name by which transformers knows tree_attention
QUERIES = 64  # a CPU's block of queries: larger ones see more keys that most of them do not
BLOCK = 128  # FlexAttention's


@dataclass(frozen=True)
class View:
    """A block of queries and the keys that any of them sees."""

    queries: slice
    runs: list[slice]  # of keys, ascending
    hidden: Tensor | None  # bool [queries, keys]: what one query does not see of them


@dataclass(frozen=True)
class Tree:
    """What the N tokens of a pack see, ready for one kind of device."""

    end: Tensor  # int32 [N]
    depth: int  # tokens of the longest path
    views: list[View] | None = None  # CPU
    block_mask: BlockMask | None = None  # GPU

    def to(self, device: torch.device) -> "Tree":
        if self.block_mask is None:
            return self
        end = self.end.to(device, non_blocking=True)
        return replace(self, end=end, block_mask=_block_mask(end, self.block_mask))


def make_tree(end: npt.NDArray[np.int32], depth: int, device: str) -> Tree:
    """The tree of a pack for "cpu" or "cuda"; still in main memory, for `Tree.to`."""
    ends = torch.from_numpy(end)
    if device == "cpu":
        return Tree(ends, depth, views=find_views(end))
    count, index, full_count, full_index = (
        torch.from_numpy(array)[None, None] for array in block_map(end, BLOCK)
    )
    mask = BlockMask.from_kv_blocks(
        count, index, full_count, full_index, BLOCK_SIZE=BLOCK, seq_lengths=(len(end), len(end))
    )
    return Tree(ends, depth, block_mask=mask)


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    tree: Tree | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query [1, H, N, D], key and value [1, G, N, D], H a multiple of G -> [1, N, H, D].

    Raises MaltError for what the rule k <= q < end[k] cannot express.
    """
    name = type(module).__name__
    if tree is None:
        raise MaltError(f"{name} was called without a tree: its model drops what it does not know")
    if dropout or kwargs.get("s_aux") is not None:
        what = "attention sinks" if not dropout else "attention_dropout"
        raise MaltError(f"{name} has {what}, which packs cannot have: use --train.packing rows")
    if sliding_window is not None and tree.depth > sliding_window:
        raise MaltError(
            f"{name} sees {sliding_window} tokens, but a path has {tree.depth}: "
            "use --train.packing rows"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if tree.views is not None:
        out = _Blocked.apply(query[0], key[0], value[0], tree.views, scale, softcap or 0.0)[None]
    else:
        out = flex(query, key, value, tree, scale, softcap)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(TREE, tree_attention)


# ---- CPU ----


def find_views(end: npt.NDArray[np.int32], size: int = QUERIES) -> list[View]:
    views = []
    for first in range(0, len(end), size):
        last = min(first + size, len(end))
        keys = np.flatnonzero(end[:last] > first)  # k < last and end[k] > first
        breaks = np.flatnonzero(np.diff(keys) != 1) + 1
        edges = [0, *breaks.tolist(), len(keys)]
        runs = [slice(int(keys[a]), int(keys[b - 1]) + 1) for a, b in pairwise(edges)]
        query = np.arange(first, last)[:, None]
        seen = (keys <= query) & (query < end[keys])
        views.append(
            View(slice(first, last), runs, None if seen.all() else torch.from_numpy(~seen))
        )
    return views


class _Blocked(torch.autograd.Function):
    """softmax(cap(scale Q K^T) + mask) V, a view at a time; backward makes the weights again."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, views: list[View], scale: float, cap: float
    ) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.rest = views, scale, cap
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        for view in views:
            weights = _weights(_rows(q, view, len(k)), _keys(k, view), view, scale, cap)[0]
            out[:, view.queries] = (weights @ _keys(v, view)).view(len(q), -1, v.shape[-1])
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (q, k, v), (views, scale, cap) = ctx.saved_tensors, ctx.rest
        dq = torch.empty_like(q, memory_format=torch.contiguous_format)
        dk, dv = (torch.zeros(x.shape, dtype=_compute(x.dtype)) for x in (k, v))
        for view in views:
            rows, keys = _rows(q, view, len(k)), _keys(k, view)
            weights, slope = _weights(rows, keys, view, scale, cap)
            g = _rows(grad, view, len(k))
            _add(dv, view, weights.mT @ g)
            d = torch._softmax_backward_data(g @ _keys(v, view).mT, weights, -1, weights.dtype)
            d = d * scale if slope is None else d * slope
            dq[:, view.queries] = (d @ keys).view(len(q), -1, q.shape[-1])
            _add(dk, view, d.mT @ rows)
        return dq, dk.to(k.dtype), dv.to(v.dtype), None, None, None


def _weights(
    rows: Tensor, keys: Tensor, view: View, scale: float, cap: float
) -> tuple[Tensor, Tensor | None]:
    """Softmax [G, heads/G * queries, keys], and d capped / d raw if there is a cap."""
    scores, slope = rows @ keys.mT, None
    if cap:
        share = torch.tanh(scores * (scale / cap))
        scores, slope = share * cap, (1 - share * share) * scale
    else:
        scores *= scale
    if view.hidden is not None:
        scores.unflatten(1, (-1, len(view.hidden))).masked_fill_(view.hidden, -torch.inf)
    return torch.softmax(scores, -1), slope


def _rows(x: Tensor, view: View, groups: int) -> Tensor:
    """[H, N, D] -> the view's queries, those that share keys in one: [G, H/G * queries, D]."""
    part = x[:, view.queries]
    return part.reshape(groups, -1, x.shape[-1]).to(_compute(x.dtype))


def _keys(x: Tensor, view: View) -> Tensor:
    parts = [x[:, run] for run in view.runs]
    return (parts[0] if len(parts) == 1 else torch.cat(parts, 1)).to(_compute(x.dtype))


def _add(out: Tensor, view: View, part: Tensor) -> None:
    for run, piece in zip(
        view.runs, part.split([run.stop - run.start for run in view.runs], 1), strict=True
    ):
        out[:, run] += piece


def _compute(dtype: torch.dtype) -> torch.dtype:
    """A CPU multiplies low precision slowly, and float32 costs no memory here."""
    return torch.float64 if dtype == torch.float64 else torch.float32


# ---- GPU ----


def flex(
    query: Tensor, key: Tensor, value: Tensor, tree: Tree, scale: float, softcap: float | None
) -> Tensor:
    """FlexAttention, compiled on a GPU once for all lengths."""
    run = _compiled_flex() if query.is_cuda else flex_attention
    out: Tensor = run(
        query,
        key,
        value,
        score_mod=None if softcap is None else _softcap_mod(softcap),
        block_mask=tree.block_mask,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out


@cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention, dynamic=True)


@cache  # one function object a cap, or every call would be compiled anew
def _softcap_mod(cap: float) -> Any:
    def score_mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    return score_mod


def _block_mask(end: Tensor, blocks: BlockMask) -> BlockMask:
    """The blocks on `end`'s device, with the rule for those that are seen in part."""

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (q < end[k])

    moved = blocks.to(end.device)
    moved.mask_mod = mask_mod
    return moved
