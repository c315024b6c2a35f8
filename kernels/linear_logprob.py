"""Log-probs of target tokens straight from hidden rows, without a logits matrix.

For row m, with h = hidden[rows[m]], t = targets[m] and temperature T:

    z = (h W^T + b) / T                     [V]
    logp = z[t] - logsumexp(z)
    dlogp/dh = (W[t] - softmax(z) W) / T    [H]
    dlogp/dW = (onehot(t) - softmax(z)) h^T / T

Rows go in chunks, so that at most `CHUNK` logits exist at once, and all arithmetic is float32 at
least, whatever the storage type. dlogp/dh is made in the forward pass, while the chunk's logits are
at hand: with a frozen head (LoRA's usual case) the backward pass is one product with the incoming
gradient. Only a head that is trained pays for a second pass. This is the plain-torch twin that
faster kernels are tested against.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK = 1 << 22  # logits alive at once


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Log-prob of `targets[m]` under softmax((hidden[rows[m]] @ weight.T + bias) / temperature).

    hidden [T, H], weight [V, H], bias [V]: floating point; rows, targets [M]: int64, rows may
    repeat. Chunked: no [M, V] exists beyond a chunk.
    Returns float32 [M] (float64 for float64 input), differentiable once in hidden, weight and bias.
    """
    _check(hidden, weight, rows, targets, bias, temperature)
    picked = hidden.index_select(0, rows)
    with torch.autocast(hidden.device.type, enabled=False):
        return _LinearLogprob.apply(picked, weight, bias, targets, temperature)


class _LinearLogprob(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
    ) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        w = weight.to(dtype)
        logp = torch.empty(len(x), dtype=dtype, device=x.device)
        dx = torch.empty_like(x, dtype=dtype) if ctx.needs_input_grad[0] else None
        for part in _chunks(len(x), len(w)):
            z = _logits(x[part].to(dtype), w, bias, temperature)
            total = z.logsumexp(1)
            logp[part] = z.gather(1, targets[part, None]).squeeze(1) - total
            if dx is not None:
                p = z.sub_(total[:, None]).exp_()
                dx[part] = w[targets[part]].sub_(p @ w).div_(temperature)
        ctx.temperature = temperature
        trains_head = any(ctx.needs_input_grad[1:3])
        ctx.save_for_backward(dx, *((x, weight, bias, targets) if trains_head else ()))
        return logp

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dx, *head = ctx.saved_tensors
        grad_x = None if dx is None else dx * grad[:, None]
        if not head:
            return grad_x, None, None, None, None
        x, weight, bias, targets = head
        return grad_x, *_head_grads(grad, x, weight, bias, targets, ctx.temperature), None, None


def _head_grads(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of weight [V, H] and bias [V]: the logits are made again, chunk by chunk."""
    w = weight.to(grad.dtype)
    grad_w, grad_b = torch.zeros_like(w), w.new_zeros(len(w))
    for part in _chunks(len(x), len(w)):
        rows = x[part].to(grad.dtype)
        dz = _logits(rows, w, bias, temperature).softmax(1).mul_(-grad[part, None])
        dz.scatter_add_(1, targets[part, None], grad[part, None])
        grad_w.addmm_(dz.T, rows, alpha=1 / temperature)
        grad_b.add_(dz.sum(0), alpha=1 / temperature)
    return grad_w.to(weight.dtype), None if bias is None else grad_b.to(bias.dtype)


def _logits(x: Tensor, w: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    z = torch.nn.functional.linear(x, w, None if bias is None else bias.to(w.dtype))
    return z if temperature == 1.0 else z.div_(temperature)


def _chunks(n: int, vocabulary: int) -> list[slice]:
    step = max(1, CHUNK // max(1, vocabulary))
    return [slice(i, min(i + step, n)) for i in range(0, n, step)]


def _check(
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    temperature: float,
) -> None:
    """Shapes only: torch finds an index out of bounds; to look at values would stall a GPU."""
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            "hidden [T, H] and weight [V, H] must agree in H, "
            f"got {tuple(hidden.shape)} and {tuple(weight.shape)}"
        )
    if rows.ndim != 1 or rows.shape != targets.shape:
        raise ValueError(
            "rows and targets must be one [M] each, "
            f"got {tuple(rows.shape)} and {tuple(targets.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"bias must be [{weight.shape[0]}], one a row of weight, got {tuple(bias.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
