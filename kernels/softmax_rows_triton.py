"""The row operations of softmax_rows.py on a GPU, in Triton: one program a row of the tile.

A program goes through its row in blocks of columns and keeps one sum a lane. The offset need not be
the largest logit, only near enough that no sum passes LARGE: a new row takes that of its first
block, and should a sum pass LARGE after all, or not be a number, the row is gone through once more,
with its largest logit. So in the usual case nothing is looked for, and no lane waits for another
before the end. Weights that go over the tile leave nothing to go through again: there the largest
logit is looked for first.

Memory moved, a tile of R n elements: `fold` reads each once and writes one weight, if wanted;
`gradient` and `spend` read and write each once. Kept: nothing but the Running that `fold` is given.

All arithmetic is float32. An exp is the hardware's exp2, of z - offset rounded before it is scaled,
so that logits of 1e4 lose nothing; below 2^-126 it is 0.

Compiled in are block sizes, dtypes and which arguments are None; of sizes and strides no more than
whether 16 divides them, which is what makes loads wide.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import softmax_rows
from .softmax_rows import Head, Running, running

# Columns that a program holds at a time; no fewer than it has threads, or two would share a column
# and race where a tile is overwritten.
BLOCK = 4096
WARPS = 8

# What a sum of weights may come to: far from float32's end, and, in float16, from a weight's.
LARGE, LARGE_FLOAT16 = 2.0**40, 3e4

MARGIN = tl.constexpr(softmax_rows.MARGIN)
INF = tl.constexpr(float("inf"))
LOG2E = tl.constexpr(1.4426950408889634)


def fold(
    tile: Tensor,
    first: int,
    head: Head,
    start: Tensor,
    token: Tensor,
    state: Running,
    weights: Tensor | None,
) -> None:
    """As softmax_rows._fold."""
    narrow = weights is not None and weights.dtype == torch.float16
    _launch(
        _fold,
        tile,
        *_common(tile, first, head, start, token),
        state.offset,
        state.total,
        state.weighted,
        state.target_logit,
        state.residual,
        0 if state.residual is None else state.residual.shape[1],
        weights,
        0 if weights is None else weights.stride(0),
        OVER=weights is not None and weights.dtype == tile.dtype,
        MOST=LARGE_FLOAT16 if narrow else LARGE,
    )


def gradient(
    tile: Tensor,
    out: Tensor,
    first: int,
    head: Head,
    start: Tensor,
    token: Tensor,
    log_total: Tensor,
    grad_target: Tensor,
    grad_row: Tensor,
) -> None:
    """As softmax_rows._gradient."""
    common = _common(tile, first, head, start, token)
    _launch(_gradient, tile, *common, log_total, grad_target, grad_row, out, out.stride(0))


def spend(
    weights: Tensor, first: int, start: Tensor, token: Tensor, factor: Tensor, own: Tensor
) -> None:
    """As softmax_rows._spend."""
    size = weights.stride(0), weights.shape[1]
    _launch(_spend, weights, weights, *size, first, start, token, factor, own)


def _launch(kernel: Any, tile: Tensor, *args: Any, **constants: Any) -> None:
    """A program a row of the tile, on its GPU."""
    if tile.numel() == 0:
        return
    here = not tile.is_cuda or tile.get_device() == torch.cuda.current_device()
    with nullcontext() if here else torch.cuda.device_of(tile):
        kernel[(len(tile),)](*args, **constants, BLOCK=BLOCK, num_warps=WARPS)


def _common(tile: Tensor, first: int, head: Head, start: Tensor, token: Tensor) -> tuple[Any, ...]:
    """The arguments with which both kernels begin."""
    size = tile.stride(0), tile.shape[1]
    return tile, *size, first, head.bias, head.temperature, head.softcap or None, start, token


def variants() -> Iterator[tuple[str, Callable[[], object]]]:
    """What drivers launch, each with a name, on tensors without memory: for compile.py."""
    empty = partial(torch.empty, device="meta")
    rows = 1024
    one, tile, odd = empty(rows), empty(rows, 8192), empty(rows, 8193, dtype=torch.bfloat16)
    targets = empty(rows + 1, dtype=torch.int64), empty(rows, dtype=torch.int64)
    low = [tile.to(dtype) for dtype in (torch.bfloat16, torch.float16)]
    for how, bias, rest in (("", None, (None, 0.0)), (", options", one, (one, 30.0))):
        state = running(rows, one, entropy=how != "")
        sums = running(rows, one, entropy=how != "", residual=empty(rows, 4096))
        for raw, out in ((tile, tile), *((tile, x) for x in low), *((x, x) for x in (*low, odd))):
            head = Head(bias if raw is tile else None, *rest)
            name = f"{str(raw.dtype)[6:]} [R, {raw.shape[1]}]"
            to = f"{name} to {str(out.dtype)[6:]}{how}"
            if raw is tile:
                yield to, partial(fold, raw, 0, head, *targets, sums, out)
            if raw is out:
                yield f"{name}{how}", partial(fold, raw, 0, head, *targets, state, None)
            yield to, partial(gradient, raw, out, 0, head, *targets, one, one, one)
    for kept in (tile, *low, odd):
        name = f"{str(kept.dtype)[6:]} [R, {kept.shape[1]}]"
        yield name, partial(spend, kept, 0, *targets, one, one)


# ---- kernels ----


@triton.jit
def _fold(
    tile,  # [R, width], rows tile_stride apart
    tile_stride,
    width,
    first,
    bias,  # [V] or None
    temperature,  # [R] or None
    softcap,  # a number or None
    start,  # [R + 1]
    token,  # [D]
    offset,  # [R]
    total,  # [R]
    weighted,  # [R] or None
    target_logit,  # [D]
    residual,  # [R, hidden] or None
    hidden,
    weights,  # [R, width], rows weights_stride apart, or None
    weights_stride,
    OVER: tl.constexpr,  # whether weights may be the tile
    MOST: tl.constexpr,  # what a sum may come to
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    tile += row * tile_stride
    scale = 1.0 / tl.load(temperature + row) if temperature is not None else 1.0
    for k in range(tl.load(start + row), tl.load(start + row + 1)):
        at = tl.load(token + k) - first
        if (at >= 0) & (at < width):
            z, _ = _logits(tile, bias, first, at, width, scale, softcap)
            tl.store(target_logit + k, z)
    before = tl.load(offset + row)
    now = before
    if weights is not None:
        weights += row * weights_stride
    if OVER:
        top = _largest(tile, bias, first, width, scale, softcap, BLOCK)
        now = tl.where(top > before + MARGIN, top, before)
        tl.debug_barrier()  # no weight may go over a target that another thread has yet to read
    elif before == -INF:
        now = tl.max(_logits(tile, bias, first, tl.arange(0, BLOCK), width, scale, softcap)[0], 0)
    sums = _sums(tile, bias, first, width, scale, softcap, now, weights, BLOCK)
    more, more_weighted = sums
    if not OVER:  # noqa: SIM102, known when it is compiled
        if not ((more < MOST) & (now > -INF)):
            now = tl.maximum(now, _largest(tile, bias, first, width, scale, softcap, BLOCK))
            sums = _sums(tile, bias, first, width, scale, softcap, now, weights, BLOCK)
            more, more_weighted = sums
    _move(before, now, row, offset, total, weighted, residual, hidden, BLOCK)
    if weights is not None:
        _clear_targets(weights, width, first, start + row, token)
    tl.store(total + row, tl.load(total + row) + more)
    if weighted is not None:
        tl.store(weighted + row, tl.load(weighted + row) + more_weighted)


@triton.jit
def _gradient(
    tile,  # [R, width], rows tile_stride apart
    tile_stride,
    width,
    first,
    bias,  # [V] or None
    temperature,  # [R] or None
    softcap,  # a number or None
    start,  # [R + 1]
    token,  # [D]
    log_total,  # [R]
    grad_target,  # [D]
    grad_row,  # [R]
    out,  # [R, width], rows out_stride apart
    out_stride,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    tile += row * tile_stride
    out += row * out_stride
    scale = 1.0 / tl.load(temperature + row) if temperature is not None else 1.0
    log_of_total, grad = tl.load(log_total + row), tl.load(grad_row + row)
    for begin in range(0, width, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        z, slope = _logits(tile, bias, first, column, width, scale, softcap)
        draw = -grad * _exp(z - log_of_total)  # - (sum g) softmax(z)
        # Compared with every lane's column: then no thread writes what another one has to mend.
        for k in range(tl.load(start + row), tl.load(start + row + 1)):
            at = (tl.load(token + k) - first).to(tl.int32)
            if (at >= begin) & (at < begin + BLOCK):
                draw += tl.where(column == at, tl.load(grad_target + k), 0.0)  # + onehot g
        tl.store(out + column, draw * slope * scale, column < width)  # cap' / T


@triton.jit
def _spend(
    weights,  # [R, width], rows stride apart
    stride,
    width,
    first,
    start,  # [R + 1]
    token,  # [D]
    factor,  # [R]
    own,  # [D]
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    weights += row * stride
    scale = tl.load(factor + row)
    for begin in range(0, width, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        draw = tl.load(weights + column, column < width, other=0.0).to(tl.float32) * scale
        for k in range(tl.load(start + row), tl.load(start + row + 1)):
            at = (tl.load(token + k) - first).to(tl.int32)
            if (at >= begin) & (at < begin + BLOCK):
                draw = tl.where(column == at, tl.load(own + k), draw)
        tl.store(weights + column, draw, column < width)


# ---- their parts ----


@triton.jit
def _logits(tile, bias, first, column, width, scale, softcap):
    """z = cap(raw + bias) / T at columns of a row, -inf beyond its width; cap' = 1 - tanh^2."""
    z = tl.load(tile + column, column < width, other=-INF).to(tl.float32)
    if bias is not None:
        z += tl.load(bias + first + column, column < width, other=0.0)
    slope = 1.0
    if softcap is not None:
        cap = tl.cast(softcap, tl.float32)  # a Python number comes as float64 now and then
        bent = _tanh(z * (1.0 / cap))
        z = tl.where(column < width, cap * bent, -INF)
        slope = 1.0 - bent * bent
    return z * scale, slope


@triton.jit
def _tanh(x):
    """Below 0.6 the continued fraction of tanh, cut after 11; above, by exp. One division."""
    s, e = x * x, _exp(-2.0 * tl.abs(x))
    near = tl.abs(x) < 0.6
    far = tl.where(x < 0.0, e - 1.0, 1.0 - e)
    over = tl.where(near, x * ((21.0 * s + 1260.0) * s + 10395.0), far)
    return over / tl.where(near, ((s + 210.0) * s + 4725.0) * s + 10395.0, 1.0 + e)


@triton.jit
def _exp(x):
    return tl.exp2(x * LOG2E)


@triton.jit
def _shift(before, now):
    """Sums relative to `before` times exp(shift) are relative to `now`; 0 if there are none yet."""
    return tl.where(before > -INF, before - now, 0.0)


@triton.jit
def _largest(tile, bias, first, width, scale, softcap, BLOCK: tl.constexpr):
    """The largest z of a whole row."""
    best = tl.full([BLOCK], -INF, tl.float32)
    for begin in range(0, width, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        best = tl.maximum(best, _logits(tile, bias, first, column, width, scale, softcap)[0])
    return tl.max(best, 0)


@triton.jit
def _sums(tile, bias, first, width, scale, softcap, offset, weights, BLOCK: tl.constexpr):
    """Of exp(z - offset) over a row, and of that times z - offset; weights are stored if wanted."""
    sums, weighted_sums = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    offset = tl.where(offset > -INF, offset, 0.0)
    for begin in range(0, width, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        z, slope = _logits(tile, bias, first, column, width, scale, softcap)
        above = z - offset
        weight = _exp(above)
        sums += weight
        weighted_sums += weight * tl.maximum(above, -200.0)  # 0 log 0 = 0, and exp(-200) is 0
        if weights is not None:
            tl.store(weights + column, weight * slope, column < width)
    return tl.sum(sums, 0), tl.sum(weighted_sums, 0)


@triton.jit
def _move(before, now, row, offset, total, weighted, residual, hidden, BLOCK: tl.constexpr):
    """Make a row's sums, which are relative to the offset `before`, relative to `now`."""
    if now != before:
        shift = _shift(before, now)
        old = tl.load(total + row)
        tl.store(offset + row, now)
        tl.store(total + row, old * _exp(shift))
        if weighted is not None:
            tl.store(weighted + row, (tl.load(weighted + row) + old * shift) * _exp(shift))
        if residual is not None:
            for begin in range(0, hidden, BLOCK):
                at = begin + tl.arange(0, BLOCK)
                value = tl.load(residual + row * hidden + at, at < hidden)
                tl.store(residual + row * hidden + at, value * _exp(shift), at < hidden)


@triton.jit
def _clear_targets(weights, width, first, start, token):
    """0 for a row's targets, after the barrier: their weights are stored by other threads."""
    tl.debug_barrier()
    for k in range(tl.load(start), tl.load(start + 1)):
        at = tl.load(token + k) - first
        if (at >= 0) & (at < width):
            tl.store(weights + at, 0.0)
