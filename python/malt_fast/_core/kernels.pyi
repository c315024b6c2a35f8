"""
CPU kernels for log-probs, DPO and decoding; call those for training through
malt_fast.kernels.
"""

from __future__ import annotations

import typing

import numpy
import numpy.typing

__all__: list[str] = [
    "add_adapters",
    "bf16_levels",
    "bf16_product",
    "cached_attention",
    "dpo_gradient",
    "dpo_losses",
    "draw_rows",
    "fold_rows",
    "gradient_rows",
    "simd_levels",
]

def add_adapters(
    out: numpy.typing.NDArray[numpy.float32] | numpy.typing.NDArray[numpy.uint16],
    x: numpy.typing.NDArray[numpy.float32] | numpy.typing.NDArray[numpy.uint16],
    a: numpy.typing.NDArray[numpy.float32] | numpy.typing.NDArray[numpy.uint16],
    b: numpy.typing.NDArray[numpy.float32] | numpy.typing.NDArray[numpy.uint16],
    adapter: numpy.typing.ArrayLike,
    type: typing.Literal["float32", "bfloat16", "float16"],
    simd: str = "",
) -> None:
    """
    Add x[i] a[k] b[k] to out[i] where k = adapter[i], or nothing where that is below 0.

    x [n, in], a [adapters, in, rank], b [adapters, rank, outputs], out [n, outputs]; 16-bit
    floats are given as their bits, uint16. Arithmetic is float32.
    """

def bf16_levels() -> list[str]:
    """
    Instruction sets that multiply bfloat16 on this machine, best first, of "amx" and
    "avx512bf16"; none on most machines.
    """

def bf16_product(
    out: numpy.typing.NDArray[numpy.float32],
    a: numpy.typing.NDArray[numpy.uint16],
    b: numpy.typing.NDArray[numpy.uint16],
    *,
    add: bool,
    simd: str = "",
) -> None:
    """
    out = a b, or out += a b: a [m, k] and b [k, n] are the bits of bfloat16, with any
    strides, and out [m, n] is float32, in which products are summed.
    simd: one of bf16_levels(), by default the best.
    """

def cached_attention(
    q: numpy.typing.NDArray[numpy.float32],
    keys: numpy.typing.NDArray[numpy.float32] | numpy.typing.NDArray[numpy.uint16],
    values: numpy.typing.NDArray[numpy.float32] | numpy.typing.NDArray[numpy.uint16],
    type: typing.Literal["float32", "bfloat16", "float16"],
    slot: numpy.typing.ArrayLike,
    end: numpy.typing.ArrayLike,
    lead: numpy.typing.ArrayLike,
    shared: numpy.typing.ArrayLike,
    *,
    scale: typing.SupportsFloat | typing.SupportsIndex,
    softcap: typing.SupportsFloat | typing.SupportsIndex = 0.0,
    window: typing.SupportsInt | typing.SupportsIndex = 0,
    out: numpy.typing.NDArray[numpy.float32],
    simd: str = "",
) -> None:
    """
    Fill out [n, H, E]: one query token per row, q [n, H, D], over cached keys [S, G, C,
    D] and values [S, G, C, E], H a multiple of G.

    Row i sees the columns below end[i] of slot[i], or the last `window` of them. Its
    first shared[i] are read from lead[i] instead, once for all rows with the same two.
    16-bit floats are given as their bits, uint16. softcap and window: 0 means none.
    Formulas: csrc/kernels/cached_attention.hpp.
    """

def dpo_gradient(
    grad: numpy.typing.ArrayLike,
    slopes: numpy.typing.ArrayLike,
    pairs: numpy.typing.ArrayLike,
    completions: typing.SupportsInt | typing.SupportsIndex,
) -> numpy.typing.NDArray[numpy.float32]:
    """
    d loss / d logp [completions]: slopes times the upstream grad [P], added in order.
    """

def dpo_losses(
    logp: numpy.typing.ArrayLike,
    ref_logp: numpy.typing.ArrayLike,
    pairs: numpy.typing.ArrayLike,
    lengths: numpy.typing.ArrayLike | None,
    *,
    loss_type: typing.Literal["sigmoid", "hinge", "ipo"],
    beta: typing.SupportsFloat | typing.SupportsIndex,
    label_smoothing: typing.SupportsFloat | typing.SupportsIndex,
    nll: typing.SupportsFloat | typing.SupportsIndex,
    simd: str = "",
) -> tuple[
    numpy.typing.NDArray[numpy.float32],
    numpy.typing.NDArray[numpy.float32],
    numpy.typing.NDArray[numpy.float32],
]:
    """
    Losses [P], rewards [2, P] and slopes [2, P] of P pairs; row 0 chosen, row 1
    rejected.

    pairs [2 P]: chosen and rejected of each pair, as indices of completions; lengths:
    tokens of each completion, needed for "ipo". Formulas: csrc/kernels/dpo.hpp.
    simd: one of simd_levels(), by default the best.
    """

def draw_rows(
    tile: numpy.typing.NDArray[numpy.float32] | numpy.typing.NDArray[numpy.uint16],
    type: typing.Literal["float32", "bfloat16", "float16"],
    temperature: numpy.typing.NDArray[numpy.float32],
    uniform: numpy.typing.NDArray[numpy.float64],
    simd: str = "",
) -> tuple[numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.float32]]:
    """
    A token [rows] drawn from softmax(row / temperature) of each row of a tile of logits,
    and its log-prob [rows] under softmax(row).

    The draw inverts the distribution function at uniform, float64 [rows]; temperature,
    float32 [rows], may be 0: the first of the largest logits. Otherwise as fold_rows().
    """

def fold_rows(
    tile: numpy.typing.NDArray[numpy.float32] | numpy.typing.NDArray[numpy.uint16],
    type: typing.Literal["float32", "bfloat16", "float16"],
    first: typing.SupportsInt | typing.SupportsIndex,
    *,
    bias: numpy.typing.NDArray[numpy.float32] | None,
    temperature: numpy.typing.NDArray[numpy.float32] | None,
    softcap: typing.SupportsFloat | typing.SupportsIndex,
    start: numpy.typing.NDArray[numpy.int64],
    token: numpy.typing.NDArray[numpy.int64],
    offset: numpy.typing.NDArray[numpy.float32],
    total: numpy.typing.NDArray[numpy.float32],
    weighted: numpy.typing.NDArray[numpy.float32] | None,
    target_logit: numpy.typing.NDArray[numpy.float32],
    residual: numpy.typing.NDArray[numpy.float32] | None,
    weights: numpy.typing.NDArray[numpy.float32] | numpy.typing.NDArray[numpy.uint16] | None,
    simd: str = "",
) -> None:
    """
    Fold a tile [rows, n] of raw logits into the running softmax of its rows, in place.

    16-bit floats are given as their bits, uint16. Arrays are used where they lie:
    another dtype or a gap in one raises ValueError. simd: one of simd_levels(), by
    default the best. Formulas: csrc/kernels/logprob.hpp. weights [rows, n]: float32, maybe
    the tile itself, or bits of bfloat16.
    """

def gradient_rows(
    tile: numpy.typing.NDArray[numpy.float32] | numpy.typing.NDArray[numpy.uint16],
    out: numpy.typing.NDArray[numpy.float32] | numpy.typing.NDArray[numpy.uint16],
    type: typing.Literal["float32", "bfloat16", "float16"],
    first: typing.SupportsInt | typing.SupportsIndex,
    *,
    bias: numpy.typing.NDArray[numpy.float32] | None,
    temperature: numpy.typing.NDArray[numpy.float32] | None,
    softcap: typing.SupportsFloat | typing.SupportsIndex,
    start: numpy.typing.NDArray[numpy.int64],
    token: numpy.typing.NDArray[numpy.int64],
    log_total: numpy.typing.NDArray[numpy.float32],
    grad_target: numpy.typing.NDArray[numpy.float32],
    grad_row: numpy.typing.NDArray[numpy.float32],
    simd: str = "",
) -> None:
    """
    Turn a tile of raw logits into d(sum g logp) / d raw; `out` may be the tile itself.

    Otherwise as fold_rows().
    """

def simd_levels() -> list[str]:
    """
    Instruction sets that this machine runs, best first: "avx512", "avx2", "portable".
    """
