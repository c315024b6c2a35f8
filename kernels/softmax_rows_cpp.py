"""The row operations of softmax_rows.py on a CPU, in C++: float32, bfloat16 and float16.

They are csrc/kernels/logprob.hpp.
"""

from typing import Any

import torch
from torch import Tensor

from malt_fast import _core
from malt_fast.utils.tensors import bits

from .running_softmax import RunningSoftmax, Targets, Transform, Upstream


def fold(
    tile: Tensor,
    first: int,
    transform: Transform,
    targets: Targets,
    state: RunningSoftmax,
    weights: Tensor | None,
) -> None:
    """As in softmax_rows_torch.py; weights are float32 or bfloat16."""
    assert weights is None or weights.dtype != torch.float16
    _core.kernels.fold_rows(
        *bits(tile),
        first,
        **_arrays(transform, targets),
        offset=state.offset.numpy(),
        total=state.total.numpy(),
        weighted=_array(state.weighted),
        target_logit=state.target_logit.numpy(),
        residual=_array(state.residual),
        weights=None if weights is None else bits(weights)[0],
    )


def gradient(
    tile: Tensor,
    out: Tensor,
    first: int,
    transform: Transform,
    targets: Targets,
    upstream: Upstream,
) -> None:
    """As in softmax_rows_torch.py, but where `out` is narrower the tile holds gradients, too."""
    array, dtype = bits(tile)
    _core.kernels.gradient_rows(
        array,
        bits(out)[0] if out.dtype == tile.dtype else array,
        dtype,
        first,
        **_arrays(transform, targets),
        log_total=upstream.log_total.numpy(),
        grad_target=upstream.target.numpy(),
        grad_row=upstream.row.numpy(),
    )
    if out.dtype != tile.dtype:
        out.copy_(tile)


def simd_level() -> str:
    """The best instruction set that this machine runs."""
    return _core.kernels.simd_levels()[0]


def _arrays(transform: Transform, targets: Targets) -> dict[str, Any]:
    return {
        "bias": _array(transform.bias),
        "temperature": _array(transform.temperature),
        "softcap": transform.softcap,
        "start": targets.start.numpy(),
        "token": targets.token.numpy(),
    }


def _array(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.numpy()
