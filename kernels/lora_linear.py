"""A linear layer with a low-rank update, computed as one product with the merged weight.

    W' = W + s B A            [O, I]   made anew in every call, B and A change at every step
    y  = x W'^T + b           [N, O]
    dx = dy W'                [N, I]
    dA = s B^T (dy^T x)       [R, I]
    dB = s (dy^T x) A^T       [O, R]

PEFT computes x W^T + s (x A^T) B^T: 2 IO + 3 R (I + O) multiplications a row of x, forward and
backward, and several more passes over activations. Merging costs 3 IO whatever the rank, and none
of those passes: it wins where IO <= 3 R (I + O), a layer small against the rank. float32 only:
bfloat16 would round the update away.
"""

from typing import Any

import torch
from torch import Tensor


def lora_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
) -> Tensor:
    """x [..., I], frozen weight [O, I] and bias [O], a [R, I], b [O, R] -> [..., O].

    Differentiable once in x, a and b.
    """
    return _LoraLinear.apply(x, weight, bias, a, b, scaling)


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scaling: float,
    ) -> Tensor:
        merged = torch.addmm(weight, b, a, alpha=scaling)
        ctx.save_for_backward(x, merged, a, b)
        ctx.scaling = scaling
        return torch.nn.functional.linear(x, merged, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, merged, a, b = ctx.saved_tensors
        grad_x = grad @ merged if ctx.needs_input_grad[0] else None
        outer = grad.flatten(0, -2).T @ x.flatten(0, -2)
        return grad_x, None, None, ctx.scaling * (b.T @ outer), ctx.scaling * (outer @ a.T), None
