"""The forward and backward pass of hidden rows through the head (formulas: linear_logprob.py).

Rows go through in blocks, a block in tiles: a matrix product by torch, then `fold`
(softmax_rows.py). A head without bias, soft cap and temperature may take a fused kernel for both
where that was measured to be faster (tuned.py). Shapes: as in head_rows.py.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from . import kept_weights, softmax_rows, tiles, tuned
from .head_gradients import KeptGradients, trained_gradients
from .head_rows import HeadRows, row_gradients, target_coefficients
from .kept_weights import KeptWeights
from .running_softmax import RunningSoftmax, sums_dtype


class Wanted(NamedTuple):
    """What a call is to give beside log-probs."""

    entropy: bool
    hidden: bool  # a gradient
    trained: bool  # gradients of the head


class Saved(NamedTuple):
    """What the backward pass needs beside the inputs."""

    logp: Tensor  # [M]
    log_total: Tensor  # [U]: log sum exp z
    residual: Tensor  # [U, H]: R; of a trained head that of the rows with kept weights
    weights: Tensor  # kept_weights.py
    scale: Tensor


def forward(
    x: HeadRows, wanted: Wanted, config: tuned.Config | None = None
) -> tuple[Tensor, Saved]:
    """The entropy [M], or [0]; and what to save. config: of the fused kernel, None for tiles."""
    entropy, saved = new_outputs(x.hidden, x.weight, len(x.plan.index), len(x.plan), wanted)
    state = RunningSoftmax.start(len(x.plan), x.new_target_logit(), entropy=wanted.entropy)
    if config is not None:
        _start_at_targets(x, state)
    _fold_rows(x, state, saved.residual, _kept(x, saved), config)
    saved.log_total.copy_(state.log_total())
    torch.index_select(state.logp(x.plan.row_of), 0, x.plan.index, out=saved.logp)
    if wanted.entropy:
        entropy = state.entropy()[x.plan.row_of[x.plan.index]]
    return entropy, saved


def new_outputs(
    hidden: Tensor, weight: Tensor, m: int, size: int, wanted: Wanted
) -> tuple[Tensor, Saved]:
    """What `forward` returns for M targets and U = size rows, without values."""
    sums = sums_dtype(hidden.dtype)
    kept, scale = kept_weights.shapes(size if wanted.trained else 0, hidden, weight)
    with_residual = (scale[1] if wanted.trained else size) if wanted.hidden else 0
    saved = Saved(
        hidden.new_empty(m, dtype=sums),
        hidden.new_empty(size, dtype=sums),
        # A frozen head's R is scaled and rounded once more; dh of a trained one is rounded once.
        hidden.new_empty(with_residual, hidden.shape[1], dtype=sums if wanted.trained else None),
        hidden.new_empty(kept, dtype=tiles.product_dtype(hidden)),
        hidden.new_empty(scale, dtype=sums),
    )
    return hidden.new_empty(m if wanted.entropy else 0, dtype=sums), saved


def _kept(x: HeadRows, saved: Saved) -> KeptWeights:
    rows = min(len(x.plan), saved.scale.shape[1])
    return KeptWeights(saved.weights, saved.scale, rows, len(x.weight))


def _fold_rows(
    x: HeadRows,
    state: RunningSoftmax,
    residual: Tensor,
    kept: KeptWeights,
    config: tuned.Config | None,
) -> None:
    """Take all rows through the head: fills `state`, R of the first rows, weights to keep.

    config: of the fused kernel, or None for tiles.
    """
    vocabulary, rows = len(x.weight), len(x.plan)
    memory = _Memory.of(x, max(0, len(residual) - kept.rows))
    whole = config is not None and not kept.rows and not len(residual)
    width = vocabulary if whole else memory.width
    columns = [(column, x.weight[column]) for column in tiles.slices(vocabulary, width)]
    kept_rows = tiles.block_rows(rows, vocabulary, x.hidden, tiles.TRAINED_ROWS)
    for part in [*kept.parts(kept_rows), *tiles.slices(rows, memory.block, kept.rows)]:
        hidden, offsets = x.hidden[x.plan.rows[part]].to(memory.dtype), []
        chunk, keeps = state.rows(part), part.start < kept.rows
        if part.start < len(residual):
            chunk = replace(chunk, residual=hidden.new_zeros(hidden.shape, dtype=x.sums))
        for column, weight in columns:
            w, weights = weight.to(memory.dtype), None
            if keeps:
                weights = kept.block(part, column)
            elif chunk.residual is not None:
                weights = memory.weights(len(hidden), len(w))
            given = x, part, column, (hidden, w), chunk, weights
            if config is None or not _fuse_block(*given, config):
                _fold_block(*given, memory)
            if chunk.residual is not None and weights is not None:
                tiles.add_product(chunk.residual, weights, w)
            offsets.append(chunk.offset.clone() if keeps else chunk.offset)
        if keeps:
            kept.write_scale(part, offsets, chunk)
        if chunk.residual is not None:
            residual[part] = chunk.residual / chunk.total[:, None]


@dataclass(frozen=True)
class _Memory:
    """Memory for a tile of logits and for the weights of a block of rows."""

    dtype: torch.dtype  # of products
    height: int  # of a tile
    width: int
    block: int  # rows of a block
    logits: tiles.Buffer
    weights: tiles.Buffer  # the logits, if these are overwritten

    @classmethod
    def of(cls, x: HeadRows, rows_apart: int) -> "_Memory":
        """rows_apart: how many rows need weights that are not kept."""
        dtype, device = tiles.product_dtype(x.hidden), x.hidden.device
        shape = len(x.plan), len(x.weight), x.hidden
        height, width = tiles.tile_shape(*shape)
        block = tiles.block_rows(*shape, tiles.FROZEN_ROWS)
        logits = weights = tiles.Buffer(x.sums, device, height, width)
        if tiles.weights_apart(x.hidden):
            weights = tiles.Buffer(dtype, device, block if rows_apart else 0, width)
        return cls(dtype, height, width, block, logits, weights)


def _fold_block(
    x: HeadRows,
    part: slice,
    column: slice,
    product: tuple[Tensor, Tensor],
    chunk: RunningSoftmax,
    weights: Tensor | None,
    memory: _Memory,
) -> None:
    """Fold a block of rows of a slice of the vocabulary, tile by tile.

    product: (hidden, W) of the block; chunk: of its rows; weights: None, or what becomes weights.
    """
    ops = softmax_rows.choose(x.hidden.device, x.hidden.dtype)
    hidden, w = product
    for some in tiles.slices(len(hidden), memory.height):
        rows = slice(part.start + some.start, part.start + some.stop)
        own = None if weights is None else weights[some]
        over = own is not None and memory.weights is memory.logits
        tile = own if own is not None and over else memory.logits(some.stop - some.start, len(w))
        tile = tiles.multiply(hidden[some], w.T, tile)
        given = x.transform.rows(rows), x.plan.targets.rows(rows), chunk.rows(some)
        ops.fold(tile, column.start, *given, tile if over else own)


# ---- the fused kernel ----


def fused_config(x: HeadRows, wanted: Wanted) -> tuned.Config | None:
    """How the fused kernel should take all rows; None if it cannot, or tiles are faster."""
    if wanted.entropy or not x.transform.is_identity():
        return None
    width = x.hidden.shape[1]
    if width * x.hidden.element_size() % 16:  # the kernel reads rows that start at 16 bytes
        return None
    shape, weights = (len(x.plan), width, len(x.weight)), wanted.hidden or wanted.trained
    config = tuned.chosen(x.hidden.device, x.hidden.dtype, shape, weights=weights)
    if config is None or not softmax_rows.triton_module("fused_head_triton").readable(x.weight):
        return None
    return config


def _start_at_targets(x: HeadRows, state: RunningSoftmax) -> None:
    """The logit of a row's first target is its offset."""
    fused, plan = softmax_rows.triton_module("fused_head_triton"), x.plan
    logits = fused.target_logits(x.hidden, x.weight, plan.rows[plan.row_of], plan.targets.token)
    state.target_logit.copy_(logits)
    state.offset.copy_(logits[plan.targets.start[:-1]])


def _fuse_block(
    x: HeadRows,
    part: slice,
    column: slice,
    product: tuple[Tensor, Tensor],
    chunk: RunningSoftmax,
    weights: Tensor | None,
    config: tuned.Config,
) -> bool:
    """As _fold_block, by one kernel; False if it cannot write these weights."""
    fused, (hidden, w) = softmax_rows.triton_module("fused_head_triton"), product
    if weights is not None and not fused.readable(weights):
        return False
    targets = x.plan.targets.rows(part)
    statistics = fused.new_statistics(len(hidden), len(w), config, hidden.device)
    first = targets.token[targets.start[:-1]]
    fused.fused_head(hidden, w, column.start, first, chunk.offset, statistics, weights, config)
    fused.settle(statistics, column, targets, chunk, weights, config)
    return True


# ---- backward ----


def gradients(
    x: HeadRows, grad: Tensor, saved: Saved, needs: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of hidden [T, H], weight [V, H], bias [V], or None for one that is not needed.

    grad [M]. That of the bias is in the dtype of the sums.
    """
    upstream = x.upstream(grad, saved.log_total)
    target_logp = saved.logp.new_empty(len(x.plan.row_of)).index_copy_(0, x.plan.index, saved.logp)
    at_target, row = target_coefficients(x, target_logp, upstream)
    dx = x.hidden.new_zeros(x.hidden.shape) if needs[0] else None
    if dx is not None:
        row_gradients(x, saved.residual, at_target, row, dx)
    if not (needs[1] or needs[2]):
        return dx, None, None
    kept = KeptGradients.of(x, _kept(x, saved), at_target, row)
    row_dx, dw, db = trained_gradients(x, upstream, needs, kept)
    if row_dx is not None and dx is not None:
        dx[x.plan.rows[kept.weights.rows :]] = row_dx.to(dx.dtype)
    return dx, dw, db
