"""Preference losses of dpo_loss.py on a GPU in float32: one lane per pair in the forward pass.

In the backward pass a program owns COMPLETIONS completions and reads all pairs, PAIRS at a time.
Each lane of its [COMPLETIONS, PAIRS] sums adds up its own pairs, and the lanes are added at the
end, always in the same order. Memory traffic: each program reads pairs, slopes and upstream
gradient once, from L2.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs

from collections.abc import Callable, Iterator
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128  # pairs of a forward program
COMPLETIONS, PAIRS = 16, 128  # of a backward program; 16 sums per thread
WARPS = 4


def forward(
    logp: Tensor,
    ref_logp: Tensor,
    pairs: Tensor,
    lengths: Tensor | None,
    nll: Tensor | None,
    loss_type: str,
    beta: float,
    label_smoothing: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """losses [P]; rewards and slopes [2, P], of the chosen and of the rejected."""
    count = len(pairs)
    losses = logp.new_empty(count)
    rewards, slopes = logp.new_empty(2, count), logp.new_empty(2, count)
    if count:
        with torch.cuda.device_of(logp):
            _forward[(triton.cdiv(count, BLOCK),)](
                logp,
                ref_logp,
                pairs,
                lengths,
                nll,
                beta,
                label_smoothing or None,
                losses,
                rewards,
                slopes,
                count,
                LOSS=loss_type,
                BLOCK=BLOCK,
                num_warps=WARPS,
            )
    return losses, rewards, slopes


def backward(grad: Tensor, slopes: Tensor, pairs: Tensor, completions: int) -> Tensor:
    """d(sum grad losses) / d logp [C]; grad [P]."""
    out = slopes.new_empty(completions)
    if completions:
        with torch.cuda.device_of(slopes):
            _backward[(triton.cdiv(completions, COMPLETIONS),)](
                grad,
                slopes,
                pairs,
                out,
                len(pairs),
                completions,
                COMPLETIONS=COMPLETIONS,
                PAIRS=PAIRS,
                num_warps=WARPS,
            )
    return out


def variants() -> Iterator[tuple[str, Callable[[], object]]]:
    """Every launch that the operation asks for, with a name, on meta tensors: for compile.py."""

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    logp, slopes, one = empty(2048), empty(2, 1024), empty()
    lengths, pairs = empty(2048, dtype=torch.int64), empty(1024, 2, dtype=torch.int64)
    for loss_type, of, smoothing in (
        ("sigmoid", None, 0.0),
        ("sigmoid", None, 0.1),
        ("hinge", None, 0.0),
        ("ipo", lengths, 0.0),
    ):
        for nll in (None, one):
            name = loss_type + ", smoothed" * (smoothing > 0) + ", NLL" * (nll is not None)
            yield name, partial(forward, logp, logp, pairs, of, nll, loss_type, 0.1, smoothing)
    yield "", partial(backward, slopes[0], slopes, pairs, len(logp))


# ---- kernels ----


@triton.jit
def _forward(
    logp: tl.tensor,  # [C]
    ref_logp: tl.tensor,  # [C]
    pairs: tl.tensor,  # [P, 2]
    lengths: tl.tensor,  # [C] for ipo, else None
    nll: tl.tensor,  # one number, or None
    beta: tl.tensor,
    label_smoothing: tl.tensor,  # None: 0
    losses: tl.tensor,  # [P]
    rewards: tl.tensor,  # [2, P]
    slopes: tl.tensor,  # [2, P]
    count: tl.tensor,  # P
    LOSS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pair = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = pair < count
    chosen = tl.load(pairs + 2 * pair, mask=inside, other=0)
    rejected = tl.load(pairs + 2 * pair + 1, mask=inside, other=0)
    chosen_logp = tl.load(logp + chosen, mask=inside, other=0.0)
    chosen_ratio = chosen_logp - tl.load(ref_logp + chosen, mask=inside, other=0.0)
    rejected_ratio = tl.load(logp + rejected, mask=inside, other=0.0)
    rejected_ratio -= tl.load(ref_logp + rejected, mask=inside, other=0.0)
    chosen_scale = beta
    rejected_scale = beta
    if LOSS == "ipo":
        chosen_scale = 1.0 / tl.load(lengths + chosen, mask=inside, other=1).to(tl.float32)
        rejected_scale = 1.0 / tl.load(lengths + rejected, mask=inside, other=1).to(tl.float32)
    margin = chosen_scale * chosen_ratio - rejected_scale * rejected_ratio
    if LOSS == "ipo":
        error = margin - 0.5 / beta
        loss = error * error
        slope = 2.0 * error
    elif LOSS == "hinge":
        far = margin >= 1.0
        loss = tl.where(far, 0.0, 1.0 - margin)
        slope = tl.where(far, 0.0, -1.0)
    else:
        loss = _softplus(-margin)
        slope = -_sigma(-margin)
        if label_smoothing is not None:
            loss = (1.0 - label_smoothing) * loss + label_smoothing * _softplus(margin)
            slope = (1.0 - label_smoothing) * slope + label_smoothing * _sigma(margin)
    chosen_slope = slope * chosen_scale
    if nll is not None:
        weight = tl.load(nll)
        loss -= weight * chosen_logp
        chosen_slope -= weight
    tl.store(losses + pair, loss, mask=inside)
    tl.store(rewards + pair, beta * chosen_ratio, mask=inside)
    tl.store(rewards + count + pair, beta * rejected_ratio, mask=inside)
    tl.store(slopes + pair, chosen_slope, mask=inside)
    tl.store(slopes + count + pair, -slope * rejected_scale, mask=inside)


@triton.jit
def _backward(
    grad: tl.tensor,  # [P]
    slopes: tl.tensor,  # [2, P]
    pairs: tl.tensor,  # [P, 2]
    out: tl.tensor,  # [C]
    count: tl.tensor,  # P
    completions: tl.tensor,  # C
    COMPLETIONS: tl.constexpr,
    PAIRS: tl.constexpr,
):
    mine = tl.program_id(0).to(tl.int64) * COMPLETIONS + tl.arange(0, COMPLETIONS)
    sums = tl.zeros([COMPLETIONS, PAIRS], tl.float32)
    for begin in range(0, count, PAIRS):
        pair = begin + tl.arange(0, PAIRS).to(tl.int64)
        inside = pair < count
        upstream = tl.load(grad + pair, mask=inside, other=0.0)
        for side in tl.static_range(2):
            completion = tl.load(pairs + 2 * pair + side, mask=inside, other=-1)
            pull = upstream * tl.load(slopes + side * count + pair, mask=inside, other=0.0)
            sums += tl.where(mine[:, None] == completion[None, :], pull[None, :], 0.0)
    tl.store(out + mine, tl.sum(sums, 1), mask=mine < completions)


@triton.jit
def _softplus(x):
    """log(1 + exp(x)) = -log sigma(-x), for x of any size."""
    return tl.maximum(x, 0.0) + _log1p(tl.exp(-tl.abs(x)))


@triton.jit
def _log1p(y):
    """log(1 + y) for 0 <= y <= 1, as 2 artanh(y / (2 + y)) = 2 (t + t^3 / 3 + t^5 / 5 + ...)."""
    t = y / (2.0 + y)
    series = 1.0 / 15
    for n in tl.static_range(7):
        series = series * t * t + 1.0 / (13 - 2 * n)
    return 2.0 * t * series


@triton.jit
def _sigma(x):
    small = tl.exp(-tl.abs(x))
    return tl.where(x < 0, small, 1.0) / (1.0 + small)
