"""Tiles of the logits hidden W^T: their size, their memory and the products they are made with."""

from functools import cached_property

import torch
from torch import Tensor

from malt_fast import _core
from malt_fast.utils.tensors import bits

from .running_softmax import sums_dtype

# Most logits of a tile, and most columns. On a CPU a tile should fit its caches; rows that are a
# power of two apart share few cache sets, and products took 4 % longer. On a GPU its product should
# have whole waves of parts: 2048 x 8448 are 528 of 256 x 128, four for each of an H100's 132
# multiprocessors.
TILE = {"cpu": (1 << 21, 1920), "cuda": (2048 * 8448, 8448)}

# Most rows whose weights, if apart from the tiles, enter one product: with W, each reads and writes
# 8 H bytes of sums a row; with hidden, each slice of dW is summed once if no more rows follow.
FROZEN_ROWS, TRAINED_ROWS = 4096, 16384


def tile_shape(rows: int, vocabulary: int, hidden: Tensor) -> tuple[int, int]:
    """Rows and columns of the largest tile of hidden [..., H] W^T."""
    size, width = TILE.get(hidden.device.type, TILE["cpu"])
    if hidden.is_cuda:  # Python takes longer to start a small product than the GPU to compute it
        size *= min(2, max(1, 4096 // max(1, hidden.shape[-1])))
    width = min(width, vocabulary)
    return min(rows, max(1, size // max(1, width))), width


def block_rows(rows: int, vocabulary: int, hidden: Tensor, most: int) -> int:
    """Rows whose weights enter one product: a tile's, or up to `most` if weights lie apart."""
    height, _ = tile_shape(rows, vocabulary, hidden)
    return max(height, min(rows, most)) if weights_apart(hidden) else height


def weights_apart(hidden: Tensor) -> bool:
    """Whether weights have memory of their own; otherwise they overwrite the logits."""
    return product_dtype(hidden) != sums_dtype(hidden.dtype)


def slices(n: int, step: int, start: int = 0) -> list[slice]:
    return [slice(i, min(i + step, n)) for i in range(start, n, max(1, step))]


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which tiles are multiplied: low precision where that is fast."""
    low = x.is_cuda or (x.dtype == torch.bfloat16 and bool(_core.kernels.bf16_levels()))
    return x.dtype if low else sums_dtype(x.dtype)


def multiply(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """out = a b, in float32 if the operands are low precision."""
    if a.dtype == out.dtype:
        return torch.mm(a, b, out=out)
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=out.dtype, out=out)
    _core.kernels.bf16_product(out.numpy(), bits(a)[0], bits(b)[0], add=False)
    return out


def add_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """out += a b, in float32 if the operands are low precision."""
    if a.dtype == out.dtype:
        out.addmm_(a, b)
    elif a.is_cuda:
        torch.addmm(out, a, b, out_dtype=out.dtype, out=out)
    else:  # torch's products of bfloat16 round their sums to bfloat16 on a CPU
        _core.kernels.bf16_product(out.numpy(), bits(a)[0], bits(b)[0], add=True)


def add_at(out: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """out[index] += values in a fixed order, which index_add_ guarantees on a CPU only."""
    if out.is_cuda:
        return out.index_put_((index,), values, accumulate=True)
    return out.index_add_(0, index, values)


class Buffer:
    """Memory of one tile, taken at first use and viewed in each tile's shape; views are cached, as
    making one is slow."""

    def __init__(self, dtype: torch.dtype, device: torch.device, rows: int, columns: int) -> None:
        self.dtype, self.device, self.size = dtype, device, rows * columns
        self.views: dict[tuple[int, int], Tensor] = {}

    @cached_property
    def flat(self) -> Tensor:
        return torch.empty(self.size, dtype=self.dtype, device=self.device)

    def __call__(self, rows: int, columns: int) -> Tensor:
        view = self.views.get((rows, columns))
        if view is None:
            view = self.flat[: rows * columns].view(rows, columns)
            self.views[rows, columns] = view
        return view
