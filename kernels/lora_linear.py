"""A linear layer with a low-rank update, in few passes over activations.

    y = x W^T + b + s (x A^T) B^T          x [N, I], W [O, I], A [R, I], B [O, R]

There are two ways, and the cheaper one is taken. A side branch accumulates into the products of W,
forward and backward, where PEFT makes and adds separate tensors: 2 IO + 3 R (I + O) multiplications
per row. Merging makes W' = W + s B A again in every call, as B and A change at every step:

    y  = x W'^T + b
    dx = dy W'
    dA = s B^T (dy^T x)
    dB = s (dy^T x) A^T

which is 3 IO for any rank, without narrow products: for layers that are small against the rank.
float32 only: bfloat16 would round the update away.
"""

from typing import Any

import torch
from torch import Tensor


def lora_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
) -> Tensor:
    """x [..., I], frozen weight [O, I] and bias [O], a [R, I], b [O, R] -> [..., O].

    Differentiable once in x, a and b. Raises ValueError for dtypes other than float32 and under
    autocast.
    """
    given = {t.dtype for t in (x, weight, a, b)}
    if given != {torch.float32} or torch.is_autocast_enabled(x.device.type):
        raise ValueError("lora_linear is for float32 without autocast: use PEFT's own layer")
    (rank, inputs), outputs = a.shape, len(b)
    merge = inputs * outputs <= 3 * rank * (inputs + outputs)
    rows = x.reshape(-1, inputs)
    y = (_Merged if merge else _SideBranch).apply(rows, weight, bias, a, b, scaling)
    return y.view(*x.shape[:-1], outputs)


class _Merged(torch.autograd.Function):
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
        outer = grad.T @ x
        return grad_x, None, None, ctx.scaling * (b.T @ outer), ctx.scaling * (outer @ a.T), None


def _side_branch(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, scaled: Tensor
) -> tuple[Tensor, Tensor]:
    """(y, x A^T)."""
    narrow = x @ a.T
    return torch.nn.functional.linear(x, weight, bias).addmm_(narrow, scaled.T), narrow


# One operator, so that selective checkpointing can keep y: what it kept of the first product would
# be changed in place by the second. torch.library.custom_op takes four times as long per call.
_library = torch.library.Library("malt_fast", "FRAGMENT")
_library.define(
    "lora_side_branch(Tensor x, Tensor weight, Tensor? bias, Tensor a, Tensor scaled)"
    " -> (Tensor, Tensor)"
)
_library.impl("lora_side_branch", _side_branch, "CompositeExplicitAutograd")


class _SideBranch(torch.autograd.Function):
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
        scaled = scaling * b
        y, narrow = torch.ops.malt_fast.lora_side_branch.default(x, weight, bias, a, scaled)
        ctx.save_for_backward(x, weight, a, scaled, narrow)
        ctx.scaling = scaling
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, scaled, narrow = ctx.saved_tensors
        grad_narrow = grad @ scaled
        grad_x = (grad @ weight).addmm_(grad_narrow, a) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, grad_narrow.T @ x, ctx.scaling * (grad.T @ narrow), None
