"""Attention of decoded rows: on a CPU that of csrc/kernels/cached_attention.hpp, else by a mask."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from malt_fast import _core
from malt_fast.utils.tensors import bits

NO_MASK = torch.empty(1, 1, 1, 0)  # beside `Reads` or a tree: transformers makes none of its own

_attend: Callable[..., None] = _core.kernels.cached_attention

Ints = npt.NDArray[np.int32]


class Reads(NamedTuple):
    """What the rows of a step attend to: row i sees the columns below end[i] of slot i.

    The first shared[i] of them are the same in the slot lead[i]: they are read there, once for all
    rows with the same two.
    """

    end: Ints
    lead: Ints
    shared: Ints  # <= end


def attend(
    query: Tensor,  # [n, H, 1, D]
    keys: Tensor,  # [n, G, columns, D]
    values: Tensor,  # [n, G, columns, E]
    reads: Reads,
    scale: float | None,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    """[n, 1, H, E]; a row that sees nothing gets zeros."""
    n, heads, _, width = query.shape
    out = torch.empty(n, heads, values.shape[-1])
    _attend(
        query[:, :, 0].float().contiguous().numpy(),
        bits(keys)[0],
        *bits(values),
        np.arange(n),
        *reads,
        scale=width**-0.5 if scale is None else scale,
        softcap=softcap or 0,
        window=window or 0,
        out=out.numpy(),
    )
    return out[:, None].to(query.dtype)


def mask_of(length: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """[n, 1, 1, width], added to scores: row i sees columns 0 .. length[i]."""
    visible = torch.arange(width, device=length.device) <= length[:, None]
    return torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, -torch.inf)[:, None, None]
