"""Log-sums and weights of a head in one kernel: a product by tensor cores whose tiles never leave.

A program takes tile after tile of the logits z = hidden W^T, block_rows by block_columns, and
writes of each row of a tile only

    total = sum of exp(z - base), without the column of the row's target

and, if wanted, the weights exp(z - base) themselves, 0 at the target. `base` is the row's offset,
so that weights of all tiles of a row share one factor, however few tiles are done. The offset is
the logit of the row's target, found before by `target_logits`. Where a logit exceeds it by more
than LIMIT, the weights could overflow: there `base` is the largest logit of the row in that tile.
Then `settle` takes the tiles into a running softmax, exact either way.

There is no bias, soft cap or temperature. Blocks of hidden and W come through tensor descriptors,
which read zeros outside of a matrix: nothing is padded, but rows must be 16 bytes aligned. Made
for bfloat16 and float16; float32 is multiplied without tensor cores, for tests.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from .running_softmax import RunningSoftmax, Targets
from .tuned import CANDIDATES, EXPERIMENTAL, Config

# Largest z - offset of a weight: exp(60) leaves room for sums in float32 and bfloat16.
LIMIT, LIMIT_FLOAT16 = 60.0, 10.0

BLOCK = 1024  # channels of a target that are multiplied at a time
INTERPRETED_PROGRAMS = 3  # of the fused kernel where there are no multiprocessors to fill

INF = tl.constexpr(float("inf"))
LOG2E = tl.constexpr(1.4426950408889634)


def readable(matrix: Tensor) -> bool:
    """Whether a tensor descriptor can read the matrix: rows without gaps between elements, each
    of which starts at a multiple of 16 bytes."""
    row = matrix.stride(0) * matrix.element_size()
    return matrix.stride(1) == 1 and row % 16 == 0 and matrix.data_ptr() % 16 == 0


def new_statistics(rows: int, columns: int, config: Config, device: torch.device) -> Tensor:
    """[2, tiles, R]: room for total and base of a head, or of a part of its columns."""
    return torch.empty(2, triton.cdiv(columns, config.block_columns), rows, device=device)


def fused_head(
    hidden: Tensor,
    weight: Tensor,
    first: int,
    target: Tensor,
    offset: Tensor,
    statistics: Tensor,
    weights: Tensor | None,
    config: Config,
) -> None:
    """Statistics and weights of the logits hidden weight^T, whose first column is token `first`.

    hidden [R, H]; weight [n, H], the whole head or some rows of it; both `readable`.
    target [R], int64: the token that a row leaves out; one outside of the n columns leaves out
    none. offset [R], float32. statistics [2, tiles of the n columns, R], float32, of a tensor by
    `new_statistics`: receives total and base. weights [R, n], `readable`, or None: receives
    exp(z - base), in its own dtype.
    """
    (rows, depth), columns = hidden.shape, len(weight)
    if not rows or not columns:
        return
    narrow = weights is not None and weights.dtype == torch.float16
    row_blocks = triton.cdiv(rows, config.block_rows)
    column_blocks = triton.cdiv(columns, config.block_columns)
    with torch.cuda.device_of(hidden):
        _fused_head[(min(row_blocks * column_blocks, _programs(hidden.device)),)](
            *_matrix(hidden, [config.block_rows, config.block_depth], config),
            *_matrix(weight, [config.block_columns, config.block_depth], config),
            *_matrix(weights, [config.block_rows, config.block_columns >> config.halves], config),
            target,
            offset,
            *statistics,
            statistics.stride(1),
            rows,
            columns,
            depth,
            row_blocks,
            column_blocks,
            first,
            config.group,
            LIMIT=LIMIT_FLOAT16 if narrow else LIMIT,
            ROWS=config.block_rows,
            COLUMNS=config.block_columns,
            DEPTH=config.block_depth,
            FLATTEN=config.flatten,
            HALVES=config.halves,
            WARP_SPECIALIZE=config.warp_specialize,
            num_warps=config.warps,
            num_stages=config.stages,
        )


def _matrix(
    matrix: Tensor | None, block: list[int], config: Config
) -> tuple[TensorDescriptor | Tensor | None, int]:
    """What the kernel reads or writes blocks through, and a stride. Where warps are specialized,
    Triton 3.7 splits descriptors only if the kernel makes them, and stores only through pointers.
    """
    if matrix is None:
        return None, 0
    if config.warp_specialize:
        triton.set_allocator(partial(_scratch, matrix.device))
        return matrix, matrix.stride(0)
    return TensorDescriptor.from_tensor(matrix, block), 0


def _scratch(device: torch.device, size: int, alignment: int, stream: int | None) -> Tensor:
    """Room for the descriptors that a kernel makes."""
    return torch.empty(size, dtype=torch.int8, device=device)


def _programs(device: torch.device) -> int:
    if device.type != "cuda":
        return INTERPRETED_PROGRAMS
    return torch.cuda.get_device_properties(device).multi_processor_count


def target_logits(hidden: Tensor, weight: Tensor, row_of: Tensor, token: Tensor) -> Tensor:
    """[D], float32: logit of token [D] in row row_of [D]; NaN if the head has no such token."""
    out = torch.empty(len(token), device=hidden.device)
    if len(token):
        given = hidden, hidden.stride(0), weight, weight.stride(0), *weight.shape
        with torch.cuda.device_of(hidden):
            _target_logits[(len(token),)](*given, row_of, token, out, BLOCK=BLOCK, num_warps=4)
    return out


def settle(
    statistics: Tensor,
    columns: slice,
    targets: Targets,
    state: RunningSoftmax,
    weights: Tensor | None,
    config: Config,
) -> None:
    """Take statistics of some columns into `state`, whose offset and target logits they had.

    Afterwards weights are exp(z - offset), 0 at all targets of a row: of several targets the fused
    kernel leaves out one. Where a tile has another base than the offset, the largest base becomes
    the offset, and what was relative to others is rescaled: sums, residual and weights.
    """
    hidden = 0 if state.residual is None else state.residual.shape[1]
    if state.total.numel():
        with torch.cuda.device_of(state.total):
            _settle[(len(state.total),)](
                *statistics,
                statistics.stride(1),
                statistics.shape[1],
                columns.start,
                columns.stop - columns.start,
                targets.start,
                targets.token,
                state.target_logit,
                state.offset,
                state.total,
                state.residual,
                hidden,
                weights,
                0 if weights is None else weights.stride(0),
                COLUMNS=config.block_columns,
                BLOCK=BLOCK,
                num_warps=4,
            )


# ---- what is compiled ahead ----


def variants() -> Iterator[tuple[Any, ...]]:
    """Every launch that is measured, with a name, on meta tensors, and the architecture that it is
    for: for compile.py."""
    rows, columns, empty = 8192, 8448, partial(torch.empty, device="meta")
    index, offset = empty(rows, dtype=torch.int64), empty(rows)
    for dtype in (torch.bfloat16, torch.float16):
        hidden, weight = empty(rows, 4096, dtype=dtype), empty(columns, 4096, dtype=dtype)
        yield str(dtype)[6:], partial(target_logits, hidden, weight, index, index)
        for (major, keep), configs in [*CANDIDATES.items(), *EXPERIMENTAL.items()]:
            out = empty(rows, columns, dtype=dtype) if keep else None
            for config in configs if dtype == torch.bfloat16 else configs[:1]:
                statistics = new_statistics(rows, columns, config, hidden.device)
                args = hidden, weight, 0, index, offset, statistics, out, config
                name = f"{config}{' to ' + str(dtype)[6:] if keep else ''}"
                yield name, partial(fused_head, *args), (10 * major,)
        state = RunningSoftmax(offset, offset, None, offset, None)
        targets = Targets(empty(rows + 1, dtype=torch.int64), index)
        config, whole = Config(), slice(0, columns)
        statistics = new_statistics(rows, columns, config, hidden.device)
        yield "", partial(settle, statistics, whole, targets, state, None, config)
        state, out = replace(state, residual=empty(rows, 4096)), empty(rows, columns, dtype=dtype)
        yield str(dtype)[6:], partial(settle, statistics, whole, targets, state, out, config)


# ---- kernels ----


# Nothing is gained by knowing that 16 divides these; it would be compiled again for other sizes.
SIZES = [
    *("target", "offset", "total", "base", "statistics_stride", "rows", "columns", "depth"),
    *("row_blocks", "column_blocks", "first", "group"),
]


@triton.jit(do_not_specialize=SIZES)
def _fused_head(
    hidden,  # [R, H], in blocks [ROWS, DEPTH]
    hidden_stride,
    weight,  # [n, H], in blocks [COLUMNS, DEPTH]
    weight_stride,
    weights,  # [R, n] or None
    weights_stride,
    target,  # [R]
    offset,  # [R]
    total,  # [column_blocks, R], rows statistics_stride apart
    base,  # likewise
    statistics_stride,
    rows,
    columns,
    depth,
    row_blocks,
    column_blocks,
    first,
    group,
    LIMIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    FLATTEN: tl.constexpr,
    HALVES: tl.constexpr,
    WARP_SPECIALIZE: tl.constexpr,
):
    # Matrices are descriptors, or pointers to rows so far apart.
    if WARP_SPECIALIZE:
        hidden = tl.make_tensor_descriptor(hidden, [rows, depth], [hidden_stride, 1], [ROWS, DEPTH])
        weight = tl.make_tensor_descriptor(
            weight, [columns, depth], [weight_stride, 1], [COLUMNS, DEPTH]
        )
    for tile in tl.range(
        tl.program_id(0),
        row_blocks * column_blocks,
        tl.num_programs(0),
        flatten=FLATTEN,
        warp_specialize=WARP_SPECIALIZE,
    ):
        row_block, column_block = _block(tile, group, row_blocks, column_blocks)
        top, left = row_block * ROWS, column_block * COLUMNS
        z = tl.zeros([ROWS, COLUMNS], tl.float32)
        for k in range(0, depth, DEPTH):
            z = tl.dot(hidden.load([top, k]), weight.load([left, k]).T, z, input_precision="ieee")
        row, column = top + tl.arange(0, ROWS), left + tl.arange(0, COLUMNS)
        inside = row < rows
        at = (tl.load(target + row, inside, other=0) - first).to(tl.int32)
        z = tl.where((column[None, :] < columns) & (column[None, :] != at[:, None]), z, -INF)
        shift, most = tl.load(offset + row, inside, other=0.0), tl.max(z, 1)
        shift = tl.where(most - shift > LIMIT, most, shift)
        # Rounded before it is scaled, so that logits of 1e4 lose no accuracy.
        z = tl.exp2((z - shift[:, None]) * LOG2E)
        here = column_block.to(tl.int64) * statistics_stride + row
        tl.store(total + here, tl.sum(z, 1), inside)
        tl.store(base + here, shift, inside)
        if weights is not None:
            if WARP_SPECIALIZE:
                to = weights + row.to(tl.int64)[:, None] * weights_stride + column[None, :]
                z = z.to(weights.dtype.element_ty)
                tl.store(to, z, inside[:, None] & (column[None, :] < columns))
            else:
                _store_block(weights, top, left, z.to(weights.dtype), ROWS, COLUMNS, HALVES)


@triton.jit
def _block(tile, group, row_blocks, column_blocks):
    """Row and column block of a tile: programs that run at a time share `group` row blocks and few
    column blocks, in L2."""
    begin = tile // (group * column_blocks) * group
    height = tl.minimum(group, row_blocks - begin)
    within = tile % (group * column_blocks)
    return begin + within % height, within // height


@triton.jit
def _store_block(to, top, left, z, ROWS: tl.constexpr, COLUMNS: tl.constexpr, HALVES: tl.constexpr):
    if HALVES:
        one, other = tl.split(tl.permute(tl.reshape(z, [ROWS, 2, COLUMNS // 2]), [0, 2, 1]))
        to.store([top, left], one)
        to.store([top, left + COLUMNS // 2], other)
    else:
        to.store([top, left], z)


@triton.jit
def _settle(
    total,  # [tiles, R], rows stride apart
    base,  # likewise
    stride,
    tiles,
    first,
    width,
    start,  # [R + 1]
    token,  # [D]
    target_logit,  # [D]
    offset,  # [R]
    sums,  # [R]
    residual,  # [R, hidden] or None
    hidden,
    weights,  # [R, width], rows weights_stride apart, or None
    weights_stride,
    COLUMNS: tl.constexpr,  # of a tile
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    before = tl.load(offset + row)
    now, lane = before, tl.arange(0, 64)
    for begin in range(0, tiles, 64):
        tile = begin + lane
        of_tile = tl.load(base + tile * stride + row, tile < tiles, other=-INF)
        now = tl.maximum(now, tl.max(of_tile, 0))
    more = tl.zeros([64], tl.float32)
    for begin in range(0, tiles, 64):
        tile = begin + lane
        of_tile = tl.load(base + tile * stride + row, tile < tiles, other=-INF)
        share = tl.load(total + tile * stride + row, tile < tiles, other=0.0)
        more += share * tl.exp2((of_tile - now) * LOG2E)
    shrink = tl.exp2((before - now) * LOG2E)
    after, own = tl.load(sums + row) * shrink + tl.sum(more, 0), tl.load(start + row)
    at = tl.load(token + own) - first
    if (at >= 0) & (at < width):  # the target that the fused kernel left out
        after += tl.exp2((tl.load(target_logit + own) - now) * LOG2E)
    tl.store(sums + row, after)
    if weights is not None:
        weights += row * weights_stride
        for k in range(tl.load(start + row), tl.load(start + row + 1)):
            at = tl.load(token + k) - first
            if (at >= 0) & (at < width):
                tl.store(weights + at, 0.0)
    if now > before:
        tl.store(offset + row, now)
        if residual is not None:
            for begin in range(0, hidden, BLOCK):
                channel = begin + tl.arange(0, BLOCK)
                value = tl.load(residual + row * hidden + channel, channel < hidden)
                tl.store(residual + row * hidden + channel, value * shrink, channel < hidden)
        if weights is not None:
            tl.debug_barrier()  # targets are cleared by one thread and read by another
            _rescale(weights, width, base + row, stride, now, COLUMNS, BLOCK)


@triton.jit
def _rescale(weights, width, base, stride, now, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    """A row's weights, of tiles with bases `stride` apart, become relative to `now`."""
    for begin in range(0, width, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        of_tile = tl.load(base + (column // COLUMNS) * stride, column < width, other=0.0)
        value = tl.load(weights + column, column < width).to(tl.float32)
        tl.store(weights + column, value * tl.exp2((of_tile - now) * LOG2E), column < width)


@triton.jit(do_not_specialize=["tokens"])
def _target_logits(
    hidden,  # [R, depth], rows hidden_stride apart
    hidden_stride,
    weight,  # [tokens, depth], rows weight_stride apart
    weight_stride,
    tokens,
    depth,
    row_of,  # [D]
    token,  # [D]
    out,  # [D]
    BLOCK: tl.constexpr,
):
    one = tl.program_id(0)
    row, column = tl.load(row_of + one), tl.load(token + one)
    known = (column >= 0) & (column < tokens)
    sums = tl.zeros([BLOCK], tl.float32)
    for begin in range(0, depth, BLOCK):
        k = begin + tl.arange(0, BLOCK)
        x = tl.load(hidden + row * hidden_stride + k, k < depth, other=0.0).to(tl.float32)
        y = tl.load(weight + column * weight_stride + k, known & (k < depth), other=0.0)
        sums += x * y.to(tl.float32)
    tl.store(out + one, tl.where(known, tl.sum(sums, 0), float("nan")))
