"""Weights that a trained head keeps from its forward to its backward pass, in place of the logits.

    weight = exp(z - offset) cap'(raw), 0 at targets        [K, V], in the dtype of products

for the first K of the rows. Each row has one offset per slice of the vocabulary: that of its
running softmax when the slice was folded. A factor per row and slice makes gradients of weights,
and multiplies hidden rather than the weights, so that the matrix product is all that reads them:

    factor = -(sum_t g_t) exp(scale) / T,   scale = log(softmax(z) cap'(raw) / weight)
    dW     = weight^T (factor h), and at_target_t h to row t for each target
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import tiles
from .running_softmax import RunningSoftmax

# Most bytes of weights; more rows make their logits again, which costs a product.
KEPT = {"cpu": 1 << 28, "cuda": 5 << 30}


@dataclass(frozen=True)
class KeptWeights:
    weights: Tensor  # [K V]: a block per chunk of rows and slice of the vocabulary
    scale: Tensor  # [slices, K]
    rows: int  # U, if fewer than K
    vocabulary: int

    def block(self, part: slice, column: slice) -> Tensor:
        """[rows, columns], contiguous; `part` is one of `parts`."""
        rows, columns = part.stop - part.start, column.stop - column.start
        begin = part.start * self.vocabulary + rows * column.start
        return self.weights[begin : begin + rows * columns].view(rows, columns)

    def parts(self, height: int) -> list[slice]:
        """Chunks of the rows whose weights are kept."""
        return tiles.slices(self.rows, height)

    def write_scale(self, part: slice, offsets: list[Tensor], state: RunningSoftmax) -> None:
        """offsets: of the rows `part` at each slice; state: at the end."""
        log_sum = state.total.log()
        for row, offset in zip(self.scale, offsets, strict=True):
            row[part] = torch.where(offset == state.offset, 0, offset - state.offset) - log_sum


def shapes(size: int, hidden: Tensor, weight: Tensor) -> tuple[int, tuple[int, int]]:
    """Shapes of `weights` and `scale` for `size` rows; sizes may be symbols of torch.compile."""
    vocabulary, device = weight.shape[0], hidden.device.type
    bytes_per_row = vocabulary * tiles.product_dtype(hidden).itemsize
    rows = torch.sym_min(size, KEPT.get(device, 0) // torch.sym_max(1, bytes_per_row))
    width = tiles.TILE.get(device, tiles.TILE["cpu"])[1]
    return rows * vocabulary, ((vocabulary + width - 1) // width, rows)
