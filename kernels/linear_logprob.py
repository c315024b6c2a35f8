"""Log-probs of target tokens straight from hidden rows, without a logits matrix.

For a row u of hidden with h = hidden[u], and its distinct targets t:

    raw  = h W^T + b                                  [V]
    z    = cap(raw) / T,  cap(x) = c tanh(x / c)      [V]
    logp = z[t] - log sum exp z
    grad_logits = d(sum_t g_t logp_t)/d raw = cap'(raw) (onehot g - (sum_t g_t) softmax(z)) / T
    dh   = grad_logits W,   dW = grad_logits^T h,   db = sum grad_logits

A row that several targets share is multiplied once. Logits exist as one float32 tile at a time,
some rows by some of the vocabulary: a matrix product by torch, then `fold` (softmax_rows.py).
Statistics, target logits and sums are float32 whatever the storage type.

A frozen head (the usual case with LoRA) costs 2 products in all. The forward pass also sums

    R = sum over v that are no target of softmax(z)_v cap'(raw_v) W_v    [H]

which is the only part of dh that needs the whole vocabulary; upstream gradients only scale it:

    dh = sum_t (g_t - (sum g) softmax(z)_t) cap'(raw_t) W_t / T - (sum g) R / T

Targets are left out of R to keep its relative accuracy in bfloat16 when a target takes nearly all
of the mass. A trained head costs 3 products: dW is one product with the weights exp(z - offset)
that the forward pass keeps (kept_weights.py), V numbers a row in the dtype of products. It costs 4
for rows beyond kept_weights.KEPT bytes: there the backward pass makes the logits again.

Memory beside inputs and outputs: a tile of logits (tiles.py: 8 MB on a CPU; 69 MB on a GPU, twice
that for H below 2048), on a GPU with low precision the weights of FROZEN_ROWS rows (69 MB) and
their R in float32 (16 KB a row for H = 4096); and R, [U, H] in hidden's dtype. A trained head keeps
weights of up to 268 MB on a CPU and 5.4 GB on a GPU, with R in float32 for their rows; for other
rows it takes dh, a slice of dW in float32, and on a GPU the grad_logits of TRAINED_ROWS rows.
"""

from typing import Any, Literal, NamedTuple, TypedDict, Unpack, overload

import torch
from torch import Tensor

from . import checks
from .head_passes import Saved, Wanted, forward, fused_config, gradients, new_outputs
from .head_rows import head_rows
from .row_plan import Plan, make_plan, survey
from .running_softmax import temperature_of_rows


class LogProb(NamedTuple):
    """logp [M], float32, and the entropy [M] of each target's row, without a gradient."""

    logp: Tensor
    entropy: Tensor


class HeadOptions(TypedDict, total=False):
    """How products with the head become logits: keywords of linear_logprob and linear_dpo."""

    bias: Tensor | None
    temperature: float | Tensor
    logit_softcap: float | None


class Head(NamedTuple):
    """The head as the caller gave it."""

    weight: Tensor  # [V, H]
    bias: Tensor | None = None  # [V]
    temperature: float | Tensor = 1.0  # a number, or [T]
    logit_softcap: float | None = None

    def is_trained(self) -> bool:
        return self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)

    def transform(self, hidden: Tensor) -> tuple[Tensor | None, Tensor | None, float]:
        """Bias, temperatures [T] and soft cap as the operators take them."""
        return self.bias, temperature_of_rows(self.temperature, hidden), self.logit_softcap or 0.0


@overload
def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    *,
    return_entropy: Literal[False] = False,
    check: bool = True,
    plan: Plan | None = None,
    **options: Unpack[HeadOptions],
) -> Tensor: ...


@overload
def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    *,
    return_entropy: Literal[True],
    check: bool = True,
    plan: Plan | None = None,
    **options: Unpack[HeadOptions],
) -> LogProb: ...


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    *,
    return_entropy: bool = False,
    check: bool = True,
    plan: Plan | None = None,
    **options: Unpack[HeadOptions],
) -> Tensor | LogProb:
    """Log-prob of `targets[m]` under softmax(cap(hidden[rows[m]] @ weight.T + bias) / temperature).

    hidden [T, H], weight [V, H]: float32, bfloat16, float16 or float64, with any strides.
    rows, targets [M]: integers; rows may repeat.
    check: verify that rows, targets and temperatures are in range. Nothing is verified under
    torch.compile. The result for an unverified index out of range, including -100, is undefined.
    plan: make_plan(rows, targets), maybe made on another device and moved. Without it the call
    waits for a GPU, once if (row, target) are in ascending order.
    Options: bias [V], default none; temperature, a number or [T], one per row of hidden, default 1;
    logit_softcap, c of cap(x) = c tanh(x / c), default none.

    Returns float32 [M] (float64 for float64 input), differentiable once in hidden, weight and bias;
    with return_entropy a LogProb. NaN in a hidden row makes only that row's results NaN. float32
    products are torch's: TF32 if torch.set_float32_matmul_precision allows it.
    Raises ValueError for shapes, dtypes, devices and values that do not fit.
    """
    head = Head(weight, **options)
    check_operands(hidden, head, rows, targets)
    rows, targets = rows.long(), targets.long()
    hidden, head = operands(hidden, head)
    learns = torch.is_grad_enabled()
    wanted = return_entropy, learns and hidden.requires_grad, learns and head.is_trained()
    if torch.compiler.is_compiling():
        logp, entropy, *_ = _operator(
            hidden, head.weight, rows, targets, *head.transform(hidden), *wanted
        )
    else:
        if plan is None:
            plan = checked_plan(rows, targets, hidden, head, check=check)
        logp, entropy = _Eager.apply(
            hidden, head.weight, *head.transform(hidden), plan, Wanted(*wanted)
        )
    return LogProb(logp, entropy) if return_entropy else logp


# ---- the operation ----


class _Eager(torch.autograd.Function):
    """The operation outside of torch.compile. `hidden` and `weight` have one dtype."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        temperature: Tensor | None,
        softcap: float,
        plan: Plan,
        wanted: Wanted,
    ) -> tuple[Tensor, Tensor]:
        x = head_rows(hidden, weight, plan, bias, temperature, softcap)
        entropy, saved = forward(x, wanted, fused_config(x, wanted))
        ctx.plan, ctx.softcap = plan, softcap
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(entropy)
        ctx.save_for_backward(hidden, weight, bias, temperature, *saved)
        return saved.logp, entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 7
        hidden, weight, bias, temperature, *saved = ctx.saved_tensors
        with torch.no_grad():
            x = head_rows(hidden, weight, ctx.plan, bias, temperature, ctx.softcap)
            dx, dw, db = gradients(x, grad.contiguous(), Saved(*saved), ctx.needs_input_grad[:3])
            db = db if db is None else db.to(bias.dtype)
        if torch.is_grad_enabled():  # for a second derivative
            dx, dw, db = (d if d is None else _Once.apply(d, grad, hidden) for d in (dx, dw, db))
        return dx, dw, db, None, None, None, None


class _Once(torch.autograd.Function):
    """A gradient that refuses to be differentiated, instead of passing for a constant."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *of: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(
            "linear_logprob is differentiable once: its gradient has no gradient, so leave out "
            "create_graph=True"
        )


# ---- the operators that torch.compile sees ----


# They wait for the GPU (make_plan), which a CUDA graph cannot record.
WAITS = (torch.Tag.cudagraph_unsafe,)


@torch.library.custom_op("malt_fast::linear_logprob", mutates_args=(), tags=WAITS)
def _operator(
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    temperature: Tensor | None,
    softcap: float,
    entropy: bool,
    needs_hidden: bool,
    trained: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """logp [M], entropy [M] or [0], and the rest of Saved for min(T, M) rows, of which U are used:
    the number of distinct rows is not known before."""
    wanted = Wanted(entropy, needs_hidden, trained)
    x = head_rows(hidden, weight, make_plan(rows, targets), bias, temperature, softcap)
    _, padded = new_outputs(hidden, weight, len(rows), min(len(hidden), len(rows)), wanted)
    of_targets, saved = forward(x, wanted, fused_config(x, wanted))
    for whole, part in zip(padded[1:], saved[1:], strict=True):
        whole[tuple(slice(n) for n in part.shape)] = part
    return saved.logp, of_targets, *padded[1:]


@_operator.register_fake
def _(
    hidden: Tensor, weight: Tensor, rows: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    size = torch.sym_min(hidden.shape[0], rows.shape[0])
    entropy, saved = new_outputs(hidden, weight, rows.shape[0], size, Wanted(*rest[-3:]))
    return saved.logp, entropy, *saved[1:]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.softcap, _, _, _ = inputs
    logp, *rest = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*rest)
    ctx.save_for_backward(*tensors, logp, *rest[1:])


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 10
    needs = [bool(ctx.needs_input_grad[i]) for i in (0, 1, 4)]
    found = _gradient_operator(grad.contiguous(), *ctx.saved_tensors, ctx.softcap, *needs)
    dx, dw, db = (d if need else None for d, need in zip(found, needs, strict=True))
    return dx, dw, None, None, db, None, None, None, None, None


@torch.library.custom_op("malt_fast::linear_logprob_backward", mutates_args=(), tags=WAITS)
def _gradient_operator(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    temperature: Tensor | None,
    logp: Tensor,
    log_total: Tensor,
    residual: Tensor,
    weights: Tensor,
    scale: Tensor,
    softcap: float,
    needs_hidden: bool,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden [T, H], weight [V, H], bias [V]; [0] for one that is not needed."""
    x = head_rows(hidden, weight, make_plan(rows, targets), bias, temperature, softcap)
    saved = Saved(logp, log_total[: len(x.plan)], residual, weights, scale)
    dx, dw, db = gradients(x, grad, saved, (needs_hidden, needs_weight, needs_bias))
    like_bias = weight if bias is None else bias
    return (
        hidden.new_empty(0) if dx is None else dx,
        weight.new_empty(0) if dw is None else dw,
        like_bias.new_empty(0) if db is None else db.to(like_bias.dtype),
    )


@_gradient_operator.register_fake
def _(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    *_, needs_hidden, needs_weight, needs_bias = rest
    return (
        hidden.new_empty(hidden.shape if needs_hidden else 0),
        weight.new_empty(weight.shape if needs_weight else 0),
        (weight if bias is None else bias).new_empty(weight.shape[0] if needs_bias else 0),
    )


torch.library.register_autograd("malt_fast::linear_logprob", _backward, setup_context=_save)


# ---- inputs ----


def operands(hidden: Tensor, head: Head) -> tuple[Tensor, Head]:
    """One dtype for hidden and weight: autocast's on a GPU, else the wider one."""
    kind = hidden.device.type
    if kind == "cuda" and torch.is_autocast_enabled(kind) and hidden.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
    else:
        dtype = torch.promote_types(hidden.dtype, head.weight.dtype)
    return hidden.to(dtype), head._replace(weight=head.weight.to(dtype))


def check_operands(hidden: Tensor, head: Head, rows: Tensor, targets: Tensor) -> None:
    """Raise ValueError for shapes, dtypes and devices that do not fit."""
    weight, bias, temperature, softcap = head
    checks.floating(hidden=hidden, weight=weight, bias=bias)
    checks.integers(rows=rows, targets=targets)
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            "hidden [T, H] and weight [V, H] must agree in H, "
            f"got {list(hidden.shape)} and {list(weight.shape)}"
        )
    if rows.ndim != 1 or rows.shape != targets.shape:
        raise ValueError(
            f"rows and targets must both be [M], got {list(rows.shape)} and {list(targets.shape)}"
        )
    if bias is not None:
        checks.shape("bias", bias, (len(weight),), "one per row of weight")
    checks.temperature(temperature, len(hidden), hidden.device)
    checks.softcap(softcap)
    checks.same_device(hidden.device, weight=weight, rows=rows, targets=targets, bias=bias)


def checked_plan(rows: Tensor, targets: Tensor, hidden: Tensor, head: Head, *, check: bool) -> Plan:
    """The plan of rows and targets; with `check`, ValueError for values that do not fit."""
    temperature = head.temperature if isinstance(head.temperature, Tensor) else None
    if len(rows) == 0:
        return make_plan(rows, targets)
    known = survey(rows, targets, temperature)
    if check:
        checks.between("rows", known.rows, len(hidden))
        checks.between("targets", known.targets, len(head.weight))
        checks.positive("temperature", holds=known.positive)
    return make_plan(rows, targets, known)
