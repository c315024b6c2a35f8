"""The row operations of softmax_rows.py on a GPU, in Triton: one program per row of the tile.

A program walks through its row in blocks of columns and keeps one sum per lane. The offset need not
be the largest logit, only near enough that no sum exceeds LARGE. A new row takes the largest logit
of its first block; if a sum then exceeds LARGE or is not a number, the row is read once more with
its largest logit as offset. Usually no search for a maximum is needed and no lane waits for another
before the end. Weights that overwrite the tile leave nothing to read again: in that case the
largest logit is found first.

Memory traffic for a tile of R n elements: `fold` reads each once and writes one weight if wanted;
`gradient` reads and writes each once. Nothing is allocated.

All arithmetic is float32. exp is the hardware's exp2 of z - offset, rounded before it is scaled, so
that logits of 1e4 lose no accuracy; below 2^-126 it is 0.

Block sizes, dtypes and which arguments are None are compiled in; of sizes and strides only whether
16 divides them, which allows wide loads.
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

from . import running_softmax
from .running_softmax import RunningSoftmax, Targets, Transform, Upstream

# Columns that a program holds at a time; at least as many as it has threads, otherwise two threads
# would share a column and race when a tile is overwritten.
BLOCK = 4096
WARPS = 8

# The largest sum of weights: far from float32's largest number, and from float16's for weights.
LARGE, LARGE_FLOAT16 = 2.0**40, 3e4

MARGIN = tl.constexpr(running_softmax.MARGIN)
INF = tl.constexpr(float("inf"))
LOG2E = tl.constexpr(1.4426950408889634)


def fold(
    tile: Tensor,
    first: int,
    transform: Transform,
    targets: Targets,
    state: RunningSoftmax,
    weights: Tensor | None,
) -> None:
    """As in softmax_rows_torch.py."""
    narrow = weights is not None and weights.dtype == torch.float16
    _launch(
        _fold,
        *_common(tile, first, transform, targets),
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
    transform: Transform,
    targets: Targets,
    upstream: Upstream,
) -> None:
    """As in softmax_rows_torch.py."""
    common = _common(tile, first, transform, targets)
    given = upstream.log_total, upstream.target, upstream.row
    _launch(_gradient, *common, *given, out, out.stride(0))


def _launch(kernel: Any, tile: Tensor, *args: Any, **constants: Any) -> None:
    """One program per row of the tile, on the tile's GPU."""
    if tile.numel() == 0:
        return
    here = not tile.is_cuda or tile.get_device() == torch.cuda.current_device()
    with nullcontext() if here else torch.cuda.device_of(tile):
        kernel[(len(tile),)](tile, *args, **constants, BLOCK=BLOCK, num_warps=WARPS)


def _common(tile: Tensor, first: int, transform: Transform, targets: Targets) -> tuple[Any, ...]:
    """The first arguments of both `_fold` and `_gradient`."""
    given = transform.bias, transform.temperature, transform.softcap or None
    return tile, tile.stride(0), tile.shape[1], first, *given, targets.start, targets.token


def variants() -> Iterator[tuple[str, Callable[[], object]]]:
    """Every launch that the operations ask for, with a name, on meta tensors: for compile.py."""
    empty = partial(torch.empty, device="meta")
    rows = 1024
    one, tile, odd = empty(rows), empty(rows, 8192), empty(rows, 8193, dtype=torch.bfloat16)
    targets = Targets(empty(rows + 1, dtype=torch.int64), empty(rows, dtype=torch.int64))
    upstream = Upstream(one, one, one)
    low = [tile.to(dtype) for dtype in (torch.bfloat16, torch.float16)]
    for how, bias, rest in (("", None, (None, 0.0)), (", options", one, (one, 30.0))):
        state = RunningSoftmax.start(rows, one, entropy=how != "")
        residual = empty(rows, 4096)
        sums = RunningSoftmax.start(rows, one, entropy=how != "", residual=residual)
        for raw, out in ((tile, tile), *((tile, x) for x in low), *((x, x) for x in (*low, odd))):
            transform = Transform(bias if raw is tile else None, *rest)
            name = f"{str(raw.dtype)[6:]} [R, {raw.shape[1]}]"
            to = f"{name} to {str(out.dtype)[6:]}{how}"
            if raw is tile:
                yield to, partial(fold, raw, 0, transform, targets, sums, out)
            if raw is out:
                yield f"{name}{how}", partial(fold, raw, 0, transform, targets, state, None)
            yield to, partial(gradient, raw, out, 0, transform, targets, upstream)


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
    OVER: tl.constexpr,  # whether weights may overwrite the tile
    MOST: tl.constexpr,  # the largest sum allowed
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
        tl.debug_barrier()  # before weights overwrite targets that other threads have yet to read
    elif before == -INF:
        now = tl.max(_logits(tile, bias, first, tl.arange(0, BLOCK), width, scale, softcap)[0], 0)
    sums = _sums(tile, bias, first, width, scale, softcap, now, weights, BLOCK)
    more, more_weighted = sums
    if not OVER:  # noqa: SIM102, known at compile time
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
        grad_logits = -grad * _exp(z - log_of_total)  # - (sum g) softmax(z)
        # Every lane compares its own column, so no thread writes what another must correct.
        for k in range(tl.load(start + row), tl.load(start + row + 1)):
            at = (tl.load(token + k) - first).to(tl.int32)
            if (at >= begin) & (at < begin + BLOCK):
                grad_logits += tl.where(column == at, tl.load(grad_target + k), 0.0)  # + onehot g
        tl.store(out + column, grad_logits * slope * scale, column < width)  # cap' / T


# ---- parts of kernels ----


@triton.jit
def _logits(tile, bias, first, column, width, scale, softcap):
    """z = cap(raw + bias) / T at columns of a row, -inf beyond its width; cap' = 1 - tanh^2."""
    z = tl.load(tile + column, column < width, other=-INF).to(tl.float32)
    if bias is not None:
        z += tl.load(bias + first + column, column < width, other=0.0)
    slope = 1.0
    if softcap is not None:
        cap = tl.cast(softcap, tl.float32)  # a Python number may arrive as float64
        bent = _tanh(z * (1.0 / cap))
        z = tl.where(column < width, cap * bent, -INF)
        slope = 1.0 - bent * bent
    return z * scale, slope


@triton.jit
def _tanh(x):
    """Below 0.6 the continued fraction of tanh, cut after 11; above by exp. One division."""
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
    """exp(shift) rescales sums from the offset `before` to `now`; 0 if there are no sums yet."""
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
    """Sums over a row of exp(z - offset) and of that times z - offset; stores weights if wanted."""
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
    """Rescale a row's sums from the offset `before` to `now`."""
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
    """Set a row's targets to 0, after a barrier: other threads stored their weights."""
    tl.debug_barrier()
    for k in range(tl.load(start), tl.load(start + 1)):
        at = tl.load(token + k) - first
        if (at >= 0) & (at < width):
            tl.store(weights + at, 0.0)
