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
In float32 only: bfloat16 would round the update away.

Under bfloat16 autocast A and s B are rounded once in every call: an optimiser may change its
parameters without telling (fused AdamW leaves their version as it was), so casts are not kept.
Accumulation then also saves roundings: PEFT rounds x A^T B^T, its multiple and the sum.
"""

from typing import Any

import torch
from torch import Tensor


def lora_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
) -> Tensor:
    """x [..., I], frozen weight [O, I] and bias [O], a [R, I], b [O, R] -> [..., O].

    Differentiable once in x, a and b. a and b are float32, and so are all others, or autocast to
    bfloat16 is on. Raises ValueError for other dtypes.
    """
    dtype = _dtype(x, weight, a, b)
    (rank, inputs), outputs = a.shape, len(b)
    merge = dtype == torch.float32 and inputs * outputs <= 3 * rank * (inputs + outputs)
    rows = x.reshape(-1, inputs).to(dtype)
    y = (_Merged if merge else _SideBranch).apply(rows, weight, bias, a, b, scaling)
    return y.view(*x.shape[:-1], outputs)


def _dtype(x: Tensor, weight: Tensor, a: Tensor, b: Tensor) -> torch.dtype:
    """That of the products."""
    device = x.device.type
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    whole = {t.dtype for t in ((a, b) if low else (x, weight, a, b))}
    if whole != {torch.float32} or low not in (None, torch.bfloat16):
        raise ValueError(
            "lora_linear is for float32, or bfloat16 autocast with a and b in float32: use PEFT's "
            "own layer"
        )
    return low or torch.float32


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
        a, scaled, weight = a.to(x.dtype), (scaling * b).to(x.dtype), weight.to(x.dtype)
        bias = None if bias is None else bias.to(x.dtype)
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
        grad_a, grad_b = _float32_product(grad_narrow.T, x), _float32_product(grad.T, narrow)
        return grad_x, None, None, grad_a, grad_b.mul_(ctx.scaling), None


def _float32_product(a: Tensor, b: Tensor) -> Tensor:
    """[M, K] [K, N] -> float32 [M, N]; on a CPU it is rounded to the dtype of a and b before."""
    if a.is_cuda and a.dtype != torch.float32:
        return torch.mm(a, b, out_dtype=torch.float32)
    return (a @ b).float()
