"""Attention over a pack: token q sees token k exactly when k <= q < end[k].

A pack holds prefix trees depth first (csrc/packing/tree_layout.hpp); `end[k]` is where the subtree
of k's segment ends, so one integer per token is the whole mask. transformers calls `tree_attention`
in models whose attention implementation is TREE. It runs in C++ on a CPU (tree_attention.hpp) and
as FlexAttention on a GPU. The cost of both grows with the visible pairs, not with N^2.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.utils._python_dispatch import is_in_torch_dispatch_mode
from transformers import AttentionInterface

from malt_fast import _core

TREE = "malt_tree"  # the name under which tree_attention is registered in transformers
BLOCK = 128  # tokens in a block of FlexAttention's mask


@dataclass(frozen=True)
class Tree:
    """The mask of a pack of N tokens, for one kind of device."""

    end: Tensor  # int32 [N]
    depth: int  # tokens of the longest path
    block_mask: BlockMask | None = None  # on a GPU only

    def to(self, device: torch.device) -> "Tree":
        if self.block_mask is None:
            return self
        end = self.end.to(device, non_blocking=True)
        return replace(self, end=end, block_mask=_block_mask(end, self.block_mask))


def make_tree(end: npt.NDArray[np.int32], depth: int, device: str) -> Tree:
    """The mask of a pack for "cpu" or "cuda", in main memory; Tree.to moves it."""
    ends = torch.from_numpy(end)
    if device == "cpu":
        return Tree(ends, depth)
    count, index, full_count, full_index = (
        torch.from_numpy(array)[None, None] for array in _core.packing.block_map(end, BLOCK)
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

    The signature is that of transformers' attention functions. Raises ValueError for attention
    that the rule k <= q < end[k] cannot express.
    """
    name = type(module).__name__
    if tree is None:
        raise ValueError(f"{name} was called without a tree, which its model does not pass on")
    if dropout or kwargs.get("s_aux") is not None:
        what = "attention sinks" if not dropout else "attention_dropout"
        raise ValueError(f"{name} has {what}")
    if sliding_window is not None and tree.depth > sliding_window:
        raise ValueError(f"a path of {tree.depth} tokens exceeds the window of {sliding_window}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if tree.block_mask is not None:
        out = flex(query, key, value, tree, scale, softcap)
    else:
        q, k, v = (x[0].float() for x in (query, key, value))
        out = _Blocked.apply(q, k, v, tree.end, scale, softcap or 0.0)[None].to(query.dtype)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(TREE, tree_attention)


# ---- CPU ----

_attend: Callable[..., None] = _core.packing.tree_attention
_attend_gradient: Callable[..., None] = _core.packing.tree_attention_gradient


@torch.library.custom_op("malt_fast::tree_attention", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, end: Tensor, scale: float, cap: float
) -> tuple[Tensor, Tensor]:
    """(output, log of the sum of exponentials [H, N]); an operator for selective checkpointing."""
    out, log_sum = _like(q), torch.empty(q.shape[:2])
    arrays = (x.detach().numpy() for x in (q, k, v, end))
    _attend(*arrays, scale, cap, out.numpy(), log_sum.numpy())
    return out, log_sum


class _Blocked(torch.autograd.Function):
    """csrc/packing/tree_attention.hpp on q [H, N, D], k and v [G, N, D], in float32."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, end: Tensor, scale: float, cap: float
    ) -> Tensor:
        q, k, v = (_rows_side_by_side(x) for x in (q, k, v))
        out, log_sum = _forward(q, k, v, end, scale, cap)
        ctx.save_for_backward(q, k, v, end, out, log_sum)
        ctx.settings = scale, cap
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, end, out, log_sum = ctx.saved_tensors
        changes = [_like(x) for x in (q, k, v)]
        inputs = (x.detach().numpy() for x in (q, k, v, end))
        arrays = (x.numpy() for x in (out, log_sum, _rows_side_by_side(grad), *changes))
        _attend_gradient(*inputs, *ctx.settings, *arrays)
        return *changes, None, None, None


def _rows_side_by_side(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _like(x: Tensor) -> Tensor:
    """Uninitialised [H, N, D] with a token's values side by side, as the layers around want it."""
    return x.new_empty(x.shape[1], x.shape[0], x.shape[2]).transpose(0, 1)


# ---- GPU ----


def flex(
    query: Tensor, key: Tensor, value: Tensor, tree: Tree, scale: float, softcap: float | None
) -> Tensor:
    """FlexAttention; on a GPU compiled once for all lengths."""
    seen, device = is_in_torch_dispatch_mode(), query.device.type
    run: Any = _compiled_flex(seen) if query.is_cuda else flex_attention
    # autocast skips FlexAttention, and rotary embedding may have cast query and key to float32
    kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    out: Tensor = run(
        *(x.to(kind) for x in (query, key, value)),
        score_mod=None if softcap is None else _softcap_mod(softcap, query.device),
        block_mask=tree.block_mask,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out


@cache
def _compiled_flex(seen: bool) -> Any:
    """seen: by selective checkpointing as one operator, whose results it can keep."""
    if not seen:
        return torch.compile(flex_attention, dynamic=True)
    options: dict[str, Any] = {"wrap_inductor_compiled_regions": True}
    return torch.compile(flex_attention, dynamic=True, options=options)


@cache  # one function object per cap, or every call would compile again
def _softcap_mod(cap: float, device: torch.device) -> Any:
    limit = torch.tensor(cap, device=device)  # torch.compile would recompile for a plain number

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return limit * torch.tanh(score / limit)

    return score_mod


def _block_mask(end: Tensor, blocks: BlockMask) -> BlockMask:
    """`blocks` on the device of `end`, with the mask of partially visible blocks."""

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (q < end[k])

    moved = blocks.to(end.device)
    moved.mask_mod = mask_mod
    return moved
