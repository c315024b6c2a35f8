"""Softmax over rows of logits that never exist as a whole: row operations on tiles.

A logit is z = cap(raw + bias) / T, where cap(x) = c tanh(x / c) if there is a soft cap c. A tile is
[R, n], the columns [first, first + n) of the vocabulary of R rows; row r has the distinct targets
token[start[r] : start[r + 1]].

`fold` takes the next tile into each row's running softmax:

    total = sum exp(z - offset)      weighted = sum exp(z - offset) (z - offset)

where offset, near the row's largest logit so far, moves only when a logit is so far above it (here
MARGIN) that weights would grow too large; the sums and the row's `residual`, a sum of the caller's
over the same weights, are scaled then. `gradient` turns a tile into d(sum_k g_k logp_k) / d raw
once log sum exp z is known:

    draw = cap'(raw) (onehot g - (sum_k g_k) softmax(z)) / T

and `spend` makes the same of weights that were kept.

They are written three times: here in plain torch, the reference, any dtype; in C++ for float32,
bfloat16 and float16 on a CPU (csrc/kernels/logprob.hpp; `spend` is torch there too); in Triton for
a GPU (softmax_rows_triton.py).
"""

import importlib.util
from dataclasses import dataclass
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

MARGIN = 8.0  # exp(MARGIN) = 2981 leaves room in float16, the narrowest type of a weight

LOW_PRECISION = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Head:
    """What turns raw logits of some rows into z."""

    bias: Tensor | None = None  # [V], in the dtype of the sums
    temperature: Tensor | None = None  # [R], likewise
    softcap: float = 0.0  # 0: none

    def rows(self, part: slice) -> "Head":
        if self.temperature is None:
            return self
        return Head(self.bias, self.temperature[part], self.softcap)


@dataclass(frozen=True)
class Running:
    """The running softmax of R rows and what its targets' logits turned out to be."""

    offset: Tensor  # [R]
    total: Tensor  # [R]
    weighted: Tensor | None  # [R], if the entropy is wanted
    target_logit: Tensor  # [D], shared by all rows: `start` indexes it
    residual: Tensor | None  # [R, H]

    def rows(self, part: slice) -> "Running":
        weighted = None if self.weighted is None else self.weighted[part]
        residual = None if self.residual is None else self.residual[part]
        return Running(self.offset[part], self.total[part], weighted, self.target_logit, residual)

    def log_total(self) -> Tensor:
        return self.offset + self.total.log()

    def entropy(self) -> Tensor:
        assert self.weighted is not None
        return self.total.log() - self.weighted / self.total


def running(
    rows: int, target_logit: Tensor, *, entropy: bool = False, residual: Tensor | None = None
) -> Running:
    """Before the first tile."""
    offset = target_logit.new_full((rows,), -torch.inf)
    weighted = target_logit.new_zeros(rows) if entropy else None
    return Running(offset, target_logit.new_zeros(rows), weighted, target_logit, residual)


def sums_dtype(dtype: torch.dtype) -> torch.dtype:
    """In which statistics and sums over values of `dtype` are kept."""
    return torch.promote_types(dtype, torch.float32)


def temperature_of_rows(temperature: float | Tensor, rows: Tensor) -> Tensor | None:
    """[R], one a row of `rows` [R, ...]; None where it is 1 everywhere."""
    if isinstance(temperature, Tensor):
        return temperature
    if temperature == 1.0:
        return None
    return rows.new_full(rows.shape[:1], temperature, dtype=sums_dtype(rows.dtype))


# ---- which of the three ----


def choose(device: torch.device, dtype: torch.dtype) -> Any:
    """The implementation, an object with `fold`, `gradient` and `spend`, for tiles on `device`.

    dtype: of the operands the tiles are made from. Raises RuntimeError on a GPU without Triton.
    """
    if dtype == torch.float64:
        return TORCH
    if device.type == "cpu":
        return CPP
    if device.type == "cuda":
        return _triton()
    return TORCH


def which(device: torch.device | str, dtype: torch.dtype) -> str:
    """What would run for tensors of `dtype` on `device`, and why: `NAME: reason`.

    >>> which("cpu", torch.float64)
    'torch: float64 is the reference'
    """
    device = torch.device(device)
    if dtype == torch.float64:
        return "torch: float64 is the reference"
    if dtype not in (torch.float32, *LOW_PRECISION):
        return f"nothing: {dtype} is not float32, bfloat16, float16 or float64"
    if device.type == "cpu":
        return f"cpp: C++ with {_core().simd_levels()[0]}, the best this machine runs"
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return f"nothing: {NO_TRITON}"
        return "triton: a GPU, with tiles multiplied by cuBLAS"
    return f"torch: no kernel is written for {device.type}"


NO_TRITON = (
    "kernels on a GPU need Triton: pip install triton, or move the tensors to the CPU, "
    "whose kernels are C++"
)


@cache  # looking for a package takes longer than a launch
def _triton() -> ModuleType:
    if importlib.util.find_spec("triton") is None:
        raise RuntimeError(NO_TRITON)
    from . import softmax_rows_triton

    return softmax_rows_triton


# ---- plain torch ----


def logits(tile: Tensor, first: int, head: Head) -> tuple[Tensor, Tensor | None]:
    """z of a tile of raw logits, and cap'(raw), None where that is 1 everywhere."""
    z, slope = tile, None
    if head.bias is not None:
        z = z + head.bias[first : first + tile.shape[1]]
    if head.softcap:
        bent = torch.tanh(z / head.softcap)
        z, slope = head.softcap * bent, 1 - bent * bent
    if head.temperature is not None:
        z = z / head.temperature[:, None]
    return z, slope


def targets_within(
    start: Tensor, token: Tensor, first: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Targets whose column lies in a tile: (index into token, row of the tile, column of it)."""
    begin = start[0]
    token = token[begin : start[-1]]
    row = torch.repeat_interleave(start.diff())
    found = torch.nonzero((token >= first) & (token < first + width)).squeeze(1)
    return found + begin, row[found], token[found] - first


def _fold(
    tile: Tensor,
    first: int,
    head: Head,
    start: Tensor,
    token: Tensor,
    state: Running,
    weights: Tensor | None,
) -> None:
    """Take a tile [R, n] of raw logits into `state`, in place.

    weights: None, or [R, n], maybe the tile: becomes exp(z - offset) cap'(raw), 0 at targets.
    """
    z, slope = logits(tile.to(state.total.dtype), first, head)
    index, row, column = targets_within(start, token, first, tile.shape[1])
    state.target_logit[index] = z[row, column]
    top = z.amax(1)
    moved = torch.where(top > state.offset + MARGIN, top, state.offset)
    shift = torch.where(state.total > 0, state.offset - moved, 0)
    state.offset.copy_(moved)
    if state.weighted is not None:
        state.weighted.add_(state.total * shift).mul_(shift.exp())
    state.total.mul_(shift.exp())
    if state.residual is not None:
        state.residual.mul_(shift.exp()[:, None])
    above = z - moved.nan_to_num(neginf=0)[:, None]
    weight = above.exp()
    state.total.add_(weight.sum(1))
    if state.weighted is not None:
        state.weighted.add_(torch.where(weight == 0, 0, weight * above).sum(1))
    if weights is not None:
        weight = weight if slope is None else weight * slope
        weight[row, column] = 0
        weights.copy_(weight)


def _gradient(
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
    """Write d(sum g logp)/d raw of a tile [R, n] to `out` [R, n], which may be the tile.

    grad_target [D]: g of each target; grad_row [R]: their sum in each row.
    """
    z, slope = logits(tile.to(log_total.dtype), first, head)
    index, row, column = targets_within(start, token, first, tile.shape[1])
    draw = (z - log_total[:, None]).exp() * -grad_row[:, None]
    draw[row, column] += grad_target[index]
    if slope is not None:
        draw = draw * slope
    if head.temperature is not None:
        draw = draw / head.temperature[:, None]
    out.copy_(draw)


def _spend(
    weights: Tensor, first: int, start: Tensor, token: Tensor, factor: Tensor, own: Tensor
) -> None:
    """Turn weights [R, n] into draw, in place: row r times factor[r] [R], own [D] at targets."""
    index, row, column = targets_within(start, token, first, weights.shape[1])
    weights.mul_(factor[:, None])
    weights[row, column] = own[index].to(weights.dtype)


# ---- C++ ----


def _fold_cpp(
    tile: Tensor,
    first: int,
    head: Head,
    start: Tensor,
    token: Tensor,
    state: Running,
    weights: Tensor | None,
) -> None:
    """As `_fold`; weights go where the tile was."""
    assert weights is None or weights is tile
    _core().fold_rows(
        *_bits(tile),
        first,
        **_arrays(head),
        start=start.numpy(),
        token=token.numpy(),
        offset=state.offset.numpy(),
        total=state.total.numpy(),
        weighted=_array(state.weighted),
        target_logit=state.target_logit.numpy(),
        residual=_array(state.residual),
        weights=weights is not None,
    )


def _gradient_cpp(
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
    bits, dtype = _bits(tile)
    _core().gradient_rows(
        bits,
        _bits(out)[0],
        dtype,
        first,
        **_arrays(head),
        start=start.numpy(),
        token=token.numpy(),
        log_total=log_total.numpy(),
        grad_target=grad_target.numpy(),
        grad_row=grad_row.numpy(),
    )


def _arrays(head: Head) -> dict[str, Any]:
    return {
        "bias": _array(head.bias),
        "temperature": _array(head.temperature),
        "softcap": head.softcap,
    }


def _array(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.numpy()


def _bits(tensor: Tensor) -> tuple[Any, str]:
    """Memory as NumPy holds it, which knows no bfloat16, and the type it really is."""
    name = str(tensor.dtype).removeprefix("torch.")
    bits = tensor.view(torch.uint16) if tensor.dtype in LOW_PRECISION else tensor
    return bits.numpy(), name


def _core() -> Any:
    from malt_fast import _core

    return _core


TORCH = SimpleNamespace(fold=_fold, gradient=_gradient, spend=_spend)
CPP = SimpleNamespace(fold=_fold_cpp, gradient=_gradient_cpp, spend=_spend)
