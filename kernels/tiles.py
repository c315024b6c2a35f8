"""Tiles of the logits hidden W^T: their size, their memory and the products they are made with."""

import torch
from torch import Tensor

from .running_softmax import sums_dtype

# Most logits of a tile, and most columns. On a CPU a tile should fit its caches; rows that are a
# power of two apart share few cache sets, and products took 4 % longer. On a GPU it should fit L2
# (1024 x 8448 float32 are 35 MB of an H100's 50), have enough rows that reading W is not the
# bottleneck, and split into 264 parts of 256 x 128, two for each of its 132 multiprocessors.
TILE = {"cpu": (1 << 21, 1920), "cuda": (1024 * 8448, 8448)}


def tile_shape(rows: int, vocabulary: int, hidden: Tensor) -> tuple[int, int]:
    """Rows and columns of the largest tile of hidden [..., H] W^T."""
    size, width = TILE.get(hidden.device.type, TILE["cpu"])
    if hidden.is_cuda:  # Python takes longer to start a small product than the GPU to compute it
        size *= min(4, max(1, 4096 // max(1, hidden.shape[-1])))
    width = min(width, vocabulary)
    return min(rows, max(1, size // max(1, width))), width


def slices(n: int, step: int, start: int = 0) -> list[slice]:
    return [slice(i, min(i + step, n)) for i in range(start, n, max(1, step))]


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which tiles are multiplied: a CPU has no fast low-precision products."""
    return x.dtype if x.is_cuda else sums_dtype(x.dtype)


def multiply(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """out = a b, in float32 if the operands are low precision."""
    if a.dtype == out.dtype:
        return torch.mm(a, b, out=out)
    return torch.mm(a, b, out_dtype=out.dtype, out=out)


def add_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """out += a b, in float32 if the operands are low precision."""
    if a.dtype == out.dtype:
        out.addmm_(a, b)
    else:
        torch.addmm(out, a, b, out_dtype=out.dtype, out=out)


def add_at(out: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """out[index] += values in a fixed order, which index_add_ guarantees on a CPU only."""
    if out.is_cuda:
        return out.index_put_((index,), values, accumulate=True)
    return out.index_add_(0, index, values)


class Buffer:
    """Memory of one tile, viewed in each tile's shape; views are cached, as making one is slow."""

    def __init__(self, dtype: torch.dtype, device: torch.device, rows: int, columns: int) -> None:
        self.flat = torch.empty(rows * columns, dtype=dtype, device=device)
        self.views: dict[tuple[int, int], Tensor] = {}

    def __call__(self, rows: int, columns: int) -> Tensor:
        view = self.views.get((rows, columns))
        if view is None:
            view = self.flat[: rows * columns].view(rows, columns)
            self.views[rows, columns] = view
        return view
