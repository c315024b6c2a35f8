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

# Rows whose grad_logits are made for one product each with W and with hidden, if more than a
# tile's: with R rows, summing dW in float32 moves 8 bytes for every 2 R operations.
TALL = {"cuda": 8192}


@dataclass(frozen=True)
class KeptGradients:
    """The part in dW and db of rows whose weights the forward pass kept."""

    weights: KeptWeights
    hidden: Tensor  # [K, H]
    factor: Tensor  # [slices, K]
    at_target: Tensor  # [D of these rows], in order of their tokens
    token: Tensor  # likewise
    row_of: Tensor
    height: int

    @classmethod
    def of(cls, x: HeadRows, weights: KeptWeights, at_target: Tensor, row: Tensor) -> Self:
        """at_target, row: as of target_coefficients."""
        plan, k = x.plan, weights.rows
        token, order = torch.sort(plan.targets.token[: plan.targets.start[k]], stable=True)
        height, _ = tiles.tile_shape(len(plan), len(x.weight), x.hidden)
        return cls(
            weights,
            x.hidden[plan.rows[:k]].to(row.dtype),
            weights.scale[:, :k].exp() * -row[:k],
            at_target[order],
            token,
            plan.row_of[order],
            height,
        )

    def add_to(self, index: int, column: slice, dw: Tensor | None, db: Tensor | None) -> None:
        """Add to slice `index` of the vocabulary: dw [columns, H], db [V]."""
        ends = self.token.new_tensor([column.start, column.stop])
        first, last = torch.searchsorted(self.token, ends).tolist()
        at, row_of = self.token[first:last], self.row_of[first:last]
        at_target = self.at_target[first:last]
        for part in self.weights.parts(self.height):
            block, factor = self.weights.block(part, column), self.factor[index, part]
            if dw is not None:
                _add_rows(dw, block, self.hidden[part] * factor[:, None], part)
            if db is not None:
                db[column].addmv_(block.T, factor)
        if dw is not None:
            tiles.add_at(dw, at - column.start, self.hidden[row_of] * at_target[:, None])
        if db is not None:
            tiles.add_at(db, at, at_target)


def recompute_gradients(
    x: HeadRows,
    upstream: Upstream,
    needs: tuple[bool, bool, bool],
    kept: KeptGradients | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """dh, dW [V, H] and db [V] by making the logits again; None for what is not needed.

    kept: the part of the first K rows in dW and db. They need no logits, and dh is [U - K, H].
    dh and db have the dtype of the sums; each slice of dW is summed in it and rounded once.
    """
    new_zeros, first = upstream.row.new_zeros, 0 if kept is None else kept.weights.rows
    dx = new_zeros(len(x.plan) - first, x.hidden.shape[1]) if needs[0] else None
    dw = x.weight.new_empty(x.weight.shape) if needs[1] else None
    if dw is not None and len(x.plan) == 0:
        dw.zero_()
    db = new_zeros(len(x.weight)) if needs[2] else None
    logits = _Recomputed.of(x, len(x.plan) - first)
    for index, column in enumerate(tiles.slices(len(x.weight), logits.width)):
        dw_slice = None if dw is None else dw[column]
        if dw_slice is not None and dw_slice.dtype != x.sums:
            dw_slice = new_zeros(dw_slice.shape)
        if kept is not None:
            kept.add_to(index, column, dw_slice, db)
        for block, w, hidden, grad_logits in logits.gradients(upstream, column, first):
            if dx is not None:
                tiles.add_product(dx[block.start - first : block.stop - first], grad_logits, w)
            if dw_slice is not None:
                _add_rows(dw_slice, grad_logits, hidden, block)
            if db is not None:
                db[column] += grad_logits.sum(0, dtype=db.dtype)
        if dw is not None and dw_slice is not None and dw.dtype != x.sums:
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
        dtype, device = tiles.product_dtype(x.hidden), x.hidden.device
        height, width = tiles.tile_shape(rows, len(x.weight), x.hidden)
        tall = min(rows, max(height, TALL.get(device.type, 0)))
        logits = None if dtype == x.sums else tiles.Buffer(x.sums, device, height, width)
        return cls(x, tiles.Buffer(dtype, device, tall, width), logits, tall, height, width)

    def gradients(
        self, upstream: Upstream, column: slice, first: int
    ) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """(rows, W of the columns, hidden of the rows, their grad_logits), from row `first` on.

        grad_logits are valid until the next are asked for.
        """
        x, plan, dtype = self.x, self.x.plan, self.made.flat.dtype
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
