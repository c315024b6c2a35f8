"""The row operations of softmax_rows.py in plain torch: the reference, for any dtype and device."""

import torch
from torch import Tensor

from .running_softmax import MARGIN, RunningSoftmax, Targets, Transform, Upstream


def fold(
    tile: Tensor,
    first: int,
    transform: Transform,
    targets: Targets,
    state: RunningSoftmax,
    weights: Tensor | None,
) -> None:
    """Take a tile [R, n] of raw logits into `state`, in place.

    weights: None, or [R, n], maybe the tile itself: becomes exp(z - offset) cap'(raw), 0 at
    targets.
    """
    z, slope = _logits(tile.to(state.total.dtype), first, transform)
    index, row, column = _targets_within(targets, first, tile.shape[1])
    state.target_logit[index] = z[row, column]
    top = z.amax(1)
    offset = torch.where(top > state.offset + MARGIN, top, state.offset)
    shift = torch.where(state.total > 0, state.offset - offset, 0)
    state.offset.copy_(offset)
    if state.weighted is not None:
        state.weighted.add_(state.total * shift).mul_(shift.exp())
    state.total.mul_(shift.exp())
    if state.residual is not None:
        state.residual.mul_(shift.exp()[:, None])
    above = z - offset.nan_to_num(neginf=0)[:, None]
    weight = above.exp()
    state.total.add_(weight.sum(1))
    if state.weighted is not None:
        state.weighted.add_(torch.where(weight == 0, 0, weight * above).sum(1))
    if weights is not None:
        weight = weight if slope is None else weight * slope
        weight[row, column] = 0
        weights.copy_(weight)


def gradient(
    tile: Tensor,
    out: Tensor,
    first: int,
    transform: Transform,
    targets: Targets,
    upstream: Upstream,
) -> None:
    """Write d(sum g logp) / d raw of a tile [R, n] to `out` [R, n], which may be the tile."""
    z, slope = _logits(tile.to(upstream.log_total.dtype), first, transform)
    index, row, column = _targets_within(targets, first, tile.shape[1])
    grad_logits = (z - upstream.log_total[:, None]).exp() * -upstream.row[:, None]
    grad_logits[row, column] += upstream.target[index]
    if slope is not None:
        grad_logits = grad_logits * slope
    if transform.temperature is not None:
        grad_logits = grad_logits / transform.temperature[:, None]
    out.copy_(grad_logits)


def _logits(tile: Tensor, first: int, transform: Transform) -> tuple[Tensor, Tensor | None]:
    """z of a tile of raw logits, and cap'(raw), None if that is 1 everywhere."""
    z, slope = tile, None
    if transform.bias is not None:
        z = z + transform.bias[first : first + tile.shape[1]]
    if transform.softcap:
        bent = torch.tanh(z / transform.softcap)
        z, slope = transform.softcap * bent, 1 - bent * bent
    if transform.temperature is not None:
        z = z / transform.temperature[:, None]
    return z, slope


def _targets_within(targets: Targets, first: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Targets whose column lies in a tile: (index into token, row of the tile, column of it)."""
    begin = targets.start[0]
    token = targets.token[begin : targets.start[-1]]
    row = torch.repeat_interleave(targets.start.diff())
    found = torch.nonzero((token >= first) & (token < first + width)).squeeze(1)
    return found + begin, row[found], token[found] - first
