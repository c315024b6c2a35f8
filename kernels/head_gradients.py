"""Gradients of a trained head: from weights that the forward pass kept, or from logits made again.

Shapes: as in head_rows.py; K of the U rows kept their weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from . import softmax_rows, tiles
from .head_rows import HeadRows
from .kept_weights import KeptWeights
from .running_softmax import Upstream


@dataclass(frozen=True)
class KeptGradients:
    """The part in dW and db of rows whose weights the forward pass kept."""

    weights: KeptWeights
    parts: list[slice]  # of the K rows
    hidden: Tensor  # [K, H], in the dtype of the sums
    factor: Tensor  # [slices, K]
    one_factor: bool  # whether it is the same in all slices
    at_target: Tensor  # [D of these rows], in order of their tokens
    token: Tensor  # likewise
    row_of: Tensor
    ends: list[int]  # of each slice's targets

    @classmethod
    def of(cls, x: HeadRows, weights: KeptWeights, at_target: Tensor, row: Tensor) -> Self:
        """at_target, row: as of target_coefficients. Waits for a GPU."""
        plan, k, scale = x.plan, weights.rows, weights.scale[:, : weights.rows]
        height = tiles.block_rows(len(plan), len(x.weight), x.hidden, tiles.TRAINED_ROWS)
        _, width = tiles.tile_shape(len(plan), len(x.weight), x.hidden)
        of_rows = slice(len(plan.row_of)) if k == len(plan) else plan.row_of < k
        token, order = torch.sort(plan.targets.token[of_rows], stable=True)
        stops = [column.stop for column in tiles.slices(len(x.weight), width)]
        ends = torch.searchsorted(token, token.new_tensor([0, *stops]))
        same = (scale[1:] == scale[:-1]).all()
        *last, one_factor = torch.cat([ends, same.long()[None]]).tolist()
        return cls(
            weights,
            weights.parts(height),
            x.hidden[plan.rows[:k]].to(row.dtype),
            scale.exp() * -row[:k],
            bool(one_factor),
            at_target[order],
            token,
            plan.row_of[order],
            last,
        )

    def scaled(self, index: int) -> Tensor:
        """[K, H]: hidden times the factors of slice `index`, in the dtype of products."""
        return (self.hidden * self.factor[index, :, None]).to(self.weights.weights.dtype)

    def add_to(
        self, index: int, column: slice, scaled: Tensor, dw: Tensor | None, db: Tensor | None
    ) -> None:
        """Add to slice `index` of the vocabulary: dw [columns, H], db [V]."""
        own = slice(*self.ends[index : index + 2])
        token, row_of, at_target = self.token[own], self.row_of[own], self.at_target[own]
        for part in self.parts:
            block = self.weights.block(part, column)
            if dw is not None:
                _add_rows(dw, block, scaled[part], part)
            if db is not None:
                factor = self.factor[index, part].to(block.dtype)
                tiles.add_product(db[None, column], factor[None], block)
        if dw is not None:
            _add_targets(dw, token - column.start, row_of, at_target, self.hidden)
        if db is not None:
            tiles.add_at(db, token, at_target)


def _add_targets(dw: Tensor, token: Tensor, row: Tensor, at_target: Tensor, hidden: Tensor) -> None:
    """dw[token[k]] += at_target[k] hidden[row[k]]; token ascending."""
    if dw.is_cuda and hidden.dtype == torch.float32:
        on_gpu = softmax_rows.triton_module("target_rows_triton").add_target_rows
        on_gpu(dw, token, row, at_target, hidden)
    elif dw.dtype == hidden.dtype:
        tiles.add_at(dw, token, hidden[row] * at_target[:, None])
    else:
        distinct, index = torch.unique_consecutive(token, return_inverse=True)
        sums = dw[distinct].to(hidden.dtype)
        dw[distinct] = tiles.add_at(sums, index, hidden[row] * at_target[:, None]).to(dw.dtype)


def trained_gradients(
    x: HeadRows,
    upstream: Upstream,
    needs: tuple[bool, bool, bool],
    kept: KeptGradients,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """dh [U - K, H], dW [V, H] and db [V]; None for what is not needed.

    Rows that kept no weights make their logits again. dh and db have the dtype of the sums. A slice
    of dW is summed in it and rounded once, or if it is one product, by that product; then targets
    round it a second time.
    """
    new_zeros, first = upstream.row.new_zeros, kept.weights.rows
    dx = new_zeros(len(x.plan) - first, x.hidden.shape[1]) if needs[0] else None
    dw = x.weight.new_empty(x.weight.shape) if needs[1] else None
    if dw is not None and len(x.plan) == 0:
        dw.zero_()
    db = new_zeros(len(x.weight)) if needs[2] else None
    logits = _Recomputed.of(x, len(x.plan) - first)
    products = len(kept.parts) + len(tiles.slices(len(x.plan), logits.tall, first))
    direct = x.weight.dtype == (x.sums if products > 1 else tiles.product_dtype(x.hidden))
    scaled = kept.hidden
    for index, column in enumerate(tiles.slices(len(x.weight), logits.width)):
        dw_slice = None if dw is None else dw[column]
        if dw_slice is not None and not direct:
            dw_slice = new_zeros(dw_slice.shape)
        if dw is not None and (index == 0 or not kept.one_factor):
            scaled = kept.scaled(index)
        kept.add_to(index, column, scaled, dw_slice, db)
        for block, w, hidden, grad_logits in logits.gradients(upstream, column, first):
            if dx is not None:
                tiles.add_product(dx[block.start - first : block.stop - first], grad_logits, w)
            if dw_slice is not None:
                _add_rows(dw_slice, grad_logits, hidden, block)
            if db is not None:
                db[column] += grad_logits.sum(0, dtype=db.dtype)
        if dw is not None and dw_slice is not None and not direct:
            dw[column] = dw_slice.to(dw.dtype)
    return dx, dw, db


def _add_rows(dw: Tensor, matrix: Tensor, hidden: Tensor, rows: slice) -> None:
    """dw += matrix^T hidden; the first rows begin the sum."""
    if rows.start == 0:
        tiles.multiply(matrix.T, hidden, dw)
    else:
        tiles.add_product(dw, matrix.T, hidden)


@dataclass(frozen=True)
class _Recomputed:
    """grad_logits from logits made again, all in one memory."""

    x: HeadRows
    made: tiles.Buffer  # grad_logits of `tall` rows
    logits: tiles.Buffer | None  # a tile in the dtype of the sums, if grad_logits are narrower
    tall: int
    height: int  # of a tile
    width: int

    @classmethod
    def of(cls, x: HeadRows, rows: int) -> Self:
        """For at most `rows` rows."""
        dtype, device, vocabulary = tiles.product_dtype(x.hidden), x.hidden.device, len(x.weight)
        height, width = tiles.tile_shape(rows, vocabulary, x.hidden)
        tall = tiles.block_rows(rows, vocabulary, x.hidden, tiles.TRAINED_ROWS)
        apart = tiles.weights_apart(x.hidden)
        logits = tiles.Buffer(x.sums, device, height, width) if apart else None
        return cls(x, tiles.Buffer(dtype, device, tall, width), logits, tall, height, width)

    def gradients(
        self, upstream: Upstream, column: slice, first: int
    ) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """(rows, W of the columns, hidden of the rows, their grad_logits), from row `first` on.

        grad_logits are valid until the next are asked for.
        """
        x, plan, dtype = self.x, self.x.plan, self.made.dtype
        if first == len(plan):
            return
        ops = softmax_rows.choose(x.hidden.device, x.hidden.dtype)
        w = x.weight[column].to(dtype)
        for block in tiles.slices(len(plan), self.tall, first):
            hidden = x.hidden[plan.rows[block]].to(dtype)
            grad_logits = self.made(len(hidden), len(w))
            for part in tiles.slices(len(hidden), self.height):
                out = grad_logits[part]
                memory = out if self.logits is None else self.logits(*out.shape)
                tile = tiles.multiply(hidden[part], w.T, memory)
                rows = slice(block.start + part.start, block.start + part.stop)
                described = x.transform.rows(rows), plan.targets.rows(rows), upstream.rows(rows)
                ops.gradient(tile, out, column.start, *described)
            yield block, w, hidden, grad_logits
