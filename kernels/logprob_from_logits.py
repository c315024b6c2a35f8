"""Log-probs of target tokens from logits that exist already.

    z    = cap(logits) / T,  cap(x) = c tanh(x / c)      [M, V]
    logp = z[t] - log sum exp z                          [M]
    d(g logp)/d logits = g cap'(logits) (onehot(t) - softmax(z)) / T

The row operations of softmax_rows.py pass over the logits once forward and once backward; only
log sum exp z, [M] float32, is kept in between. The backward pass may overwrite the logits and then
allocates nothing.
"""

from typing import Any

import torch
from torch import Tensor

from . import checks, softmax_rows
from .linear_logprob import LogProb
from .running_softmax import (
    RunningSoftmax,
    Targets,
    Transform,
    Upstream,
    sums_dtype,
    temperature_of_rows,
)


def logprob_from_logits(
    logits: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    logit_softcap: float | None = None,
    return_entropy: bool = False,
    inplace_backward: bool = False,
    check: bool = True,
) -> Tensor | LogProb:
    """Log-prob of `targets[m]` under softmax(cap(logits[m]) / temperature).

    logits [M, V]: float32, bfloat16, float16 or float64. targets [M]: integers. temperature: a
    number, or [M]. inplace_backward: the gradient overwrites the logits; for logits that nothing
    else needs, such as a linear layer's output. check: verify that targets and temperatures are in
    range, which waits for a GPU. Nothing is verified under torch.compile; a target out of range
    then gives NaN.

    Returns float32 [M] (float64 for float64 input), differentiable once in logits; with
    return_entropy a LogProb. Raises ValueError for shapes, dtypes, devices, values that do not fit.
    """
    _check(logits, targets, temperature, logit_softcap)
    if check:
        checks.in_range(("targets", targets, logits.shape[1]))
        checks.all_positive(temperature=temperature)
    if inplace_backward and not _may_overwrite(logits):
        raise ValueError(
            "inplace_backward needs rows that are contiguous and do not overlap: leave it out"
        )
    logp, entropy, _ = _forward(
        logits,
        targets.long(),
        temperature_of_rows(temperature, logits),
        logit_softcap or 0.0,
        return_entropy,
        inplace_backward,
    )
    return LogProb(logp, entropy) if return_entropy else logp


@torch.library.custom_op("malt_fast::logprob_from_logits", mutates_args=())
def _forward(
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor | None,
    softcap: float,
    entropy: bool,
    inplace: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """logp [M]; entropy [M] or [0]; log sum exp z [M]."""
    ops = softmax_rows.choose(logits.device, logits.dtype)
    target_logit = logits.new_full((len(logits),), torch.nan, dtype=sums_dtype(logits.dtype))
    state = RunningSoftmax.start(len(logits), target_logit, entropy=entropy)
    transform = _transform(temperature, softcap, target_logit.dtype)
    ops.fold(_rows(logits), 0, transform, _one_each(targets), state, None)
    log_total = state.log_total()
    return (
        (target_logit - state.offset) - state.total.log(),
        state.entropy() if entropy else target_logit.new_empty(0),
        log_total,
    )


@_forward.register_fake
def _(logits: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    *_, entropy, _ = rest
    rows = logits.new_empty(logits.shape[0], dtype=sums_dtype(logits.dtype))
    return rows, rows.new_empty(rows.shape[0] if entropy else 0), torch.empty_like(rows)


def _write_gradient(
    logits: Tensor,
    out: Tensor,
    targets: Tensor,
    temperature: Tensor | None,
    softcap: float,
    log_total: Tensor,
    grad: Tensor,
) -> None:
    """Write the gradient of logits, for an upstream `grad` [M], to `out`."""
    ops = softmax_rows.choose(logits.device, logits.dtype)
    transform = _transform(temperature, softcap, log_total.dtype)
    grad = grad.to(log_total.dtype).contiguous()
    upstream = Upstream(log_total, grad, grad)
    ops.gradient(logits, out, 0, transform, _one_each(targets), upstream)


@torch.library.custom_op("malt_fast::logprob_from_logits_backward", mutates_args=())
def _new_gradient(
    grad: Tensor,
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor | None,
    softcap: float,
    log_total: Tensor,
) -> Tensor:
    out = torch.empty_like(logits, memory_format=torch.contiguous_format)
    _write_gradient(_rows(logits), out, targets, temperature, softcap, log_total, grad)
    return out


@_new_gradient.register_fake
def _(grad: Tensor, logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


@torch.library.custom_op("malt_fast::logprob_from_logits_backward_", mutates_args={"logits"})
def _gradient_in_place(
    grad: Tensor,
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor | None,
    softcap: float,
    log_total: Tensor,
) -> None:
    _write_gradient(logits, logits, targets, temperature, softcap, log_total, grad)


@_gradient_in_place.register_fake
def _(*_: Any) -> None:
    return None


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, targets, temperature, ctx.softcap, _, ctx.inplace = inputs
    _, entropy, log_total = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(entropy, log_total)
    ctx.save_for_backward(logits, targets, temperature, log_total)


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    logits, targets, temperature, log_total = ctx.saved_tensors
    if ctx.inplace:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            _twice(ctx)  # create_graph=True: the gradient written in place would have no graph
        out = logits.detach()
        _gradient_in_place(grad, out, targets, temperature, ctx.softcap, log_total)
    else:
        out = _new_gradient(grad, logits, targets, temperature, ctx.softcap, log_total)
    return out, None, None, None, None, None


def _twice(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError(
        "logprob_from_logits is differentiable once: its gradient has no gradient, so leave out "
        "create_graph=True"
    )


torch.library.register_autograd("malt_fast::logprob_from_logits", _backward, setup_context=_save)
torch.library.register_autograd("malt_fast::logprob_from_logits_backward", _twice)


def _columns_contiguous(logits: Tensor) -> bool:
    return logits.stride(1) == 1 or logits.shape[1] <= 1


def _may_overwrite(logits: Tensor) -> bool:
    return _columns_contiguous(logits) and (len(logits) <= 1 or logits.stride(0) >= logits.shape[1])


def _rows(logits: Tensor) -> Tensor:
    """Rows may be strided, columns may not."""
    return logits if _columns_contiguous(logits) else logits.contiguous()


def _one_each(targets: Tensor) -> Targets:
    return Targets(torch.arange(len(targets) + 1, device=targets.device), targets.contiguous())


def _transform(temperature: Tensor | None, softcap: float, dtype: torch.dtype) -> Transform:
    temperature = None if temperature is None else temperature.to(dtype).contiguous()
    return Transform(None, temperature, softcap)


def _check(
    logits: Tensor, targets: Tensor, temperature: float | Tensor, softcap: float | None
) -> None:
    checks.floating(logits=logits)
    checks.integers(targets=targets)
    if logits.ndim != 2:
        raise ValueError(f"logits must be [M, V], got {list(logits.shape)}: flatten the rest")
    checks.shape("targets", targets, (len(logits),), "one per row of logits")
    checks.temperature(temperature, len(logits), logits.device)
    checks.softcap(softcap)
    checks.same_device(logits.device, targets=targets)
