"""What targets add to gradients, on a GPU: sums of few rows of W or of hidden, without a product.

    row_gradients     dh = sum_t at_target_t W_t - row R        a program per row and block of H
    add_target_rows   dW_v += sum_k at_target_k h_k             one per distinct v and block of H

Sums are float32 and have a fixed order. Each value is read and written once.
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

from .running_softmax import Targets

BLOCK = 1024  # channels of a program
WARPS = 4


def row_gradients(
    residual: Tensor,
    row: Tensor,
    targets: Targets,
    at_target: Tensor,
    weight: Tensor,
    rows: Tensor,
    out: Tensor,
) -> None:
    """Write the gradients of residual's N rows to out [T, H], at `rows` [U].

    residual [N, H]; row [U]; targets of the U rows; at_target [D]; weight [V, H]. Both row-major.
    """
    given = residual, row, targets.start, targets.token, at_target
    _launch(_row_gradients, len(residual), *given, *_rows_of(weight), rows, *_rows_of(out))


def add_target_rows(
    dw: Tensor, token: Tensor, row: Tensor, at_target: Tensor, hidden: Tensor
) -> None:
    """Add at_target[k] hidden[row[k]] to dw[token[k]]; token [D] ascending.

    dw [V, H] and hidden [T, H] are row-major.
    """
    given = token, row, at_target, len(token), *_rows_of(hidden), *_rows_of(dw)
    _launch(_add_target_rows, len(token), *given)


def variants() -> Iterator[tuple[str, Callable[[], object]]]:
    """Every launch that the operations ask for, with a name, on meta tensors: for compile.py."""
    empty = partial(torch.empty, device="meta")
    index, one = empty(513, dtype=torch.int64), empty(512)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        wide = empty(512, 4096, dtype=dtype)
        for sums in dict.fromkeys((dtype, torch.float32)):
            name = f"{str(dtype)[6:]}, R {str(sums)[6:]}"
            given = one, Targets(index, index), one, wide, index, wide
            yield name, partial(row_gradients, wide.to(sums), *given)
        yield str(dtype)[6:], partial(add_target_rows, wide, index, index, one, wide)


def _rows_of(matrix: Tensor) -> tuple[Tensor, int, int]:
    """(matrix, distance of its rows, their width)."""
    return matrix, matrix.stride(0), matrix.shape[1]


def _launch(kernel: Any, programs: int, *args: Any) -> None:
    out, width = args[-3], args[-1]
    if programs == 0 or width == 0:
        return
    here = not out.is_cuda or out.get_device() == torch.cuda.current_device()
    with nullcontext() if here else torch.cuda.device_of(out):
        grid = (programs, triton.cdiv(width, BLOCK))
        kernel[grid](*args, BLOCK=BLOCK, num_warps=WARPS)


@triton.jit
def _row_gradients(
    residual,  # [N, width], contiguous
    row,  # [U]
    start,  # [U + 1]
    token,  # [D]
    at_target,  # [D]
    weight,  # [V, width], rows weight_stride apart
    weight_stride,
    _width,
    rows,  # [U]
    out,  # [T, width], rows out_stride apart
    out_stride,
    width,
    BLOCK: tl.constexpr,
):
    u = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    sums = tl.load(residual + u * width + column, inside, other=0.0).to(tl.float32)
    sums *= -tl.load(row + u)
    for k in range(tl.load(start + u), tl.load(start + u + 1)):
        own = tl.load(weight + tl.load(token + k) * weight_stride + column, inside, other=0.0)
        sums += tl.load(at_target + k) * own.to(tl.float32)
    tl.store(out + tl.load(rows + u) * out_stride + column, sums, inside)


@triton.jit
def _add_target_rows(
    token,  # [D] ascending
    row,  # [D]
    at_target,  # [D]
    count,  # D
    hidden,  # [T, width], rows hidden_stride apart
    hidden_stride,
    _width,
    dw,  # [V, width], rows dw_stride apart
    dw_stride,
    width,
    BLOCK: tl.constexpr,
):
    k = tl.program_id(0).to(tl.int64)
    own = tl.load(token + k)
    if tl.load(token + k - 1, k > 0, other=-1) != own:  # the first of its token adds all of them
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = column < width
        at = dw + own * dw_stride + column
        sums = tl.load(at, inside, other=0.0).to(tl.float32)
        while tl.load(token + k, k < count, other=-1) == own:
            add = tl.load(hidden + tl.load(row + k) * hidden_stride + column, inside, other=0.0)
            sums += tl.load(at_target + k) * add.to(tl.float32)
            k += 1
        tl.store(at, sums, inside)
