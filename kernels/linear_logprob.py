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
of the mass. A trained head costs 4 products: the backward pass makes the logits again.

Memory beside inputs and outputs: a tile and its operands (tiles.py: 8 MB on a CPU, 52 MB on a GPU,
up to four times that for H below 4096) and R, [min(T, M), H] in hidden's dtype. A trained head
needs instead of R, for U distinct rows, dh [U, H] and a slice of dW in float32, and on a GPU the
grad_logits of TALL rows (138 MB in bfloat16).
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypedDict, Unpack, overload

import torch
from torch import Tensor

from . import checks, softmax_rows, tiles
from .head_rows import (
    HeadRows,
    head_rows,
    recompute_gradients,
    scale_residual,
    target_coefficients,
)
from .running_softmax import RunningSoftmax, sums_dtype, temperature_of_rows


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
    **options: Unpack[HeadOptions],
) -> Tensor | LogProb:
    """Log-prob of `targets[m]` under softmax(cap(hidden[rows[m]] @ weight.T + bias) / temperature).

    hidden [T, H], weight [V, H]: float32, bfloat16, float16 or float64, with any strides.
    rows, targets [M]: integers; rows may repeat.
    check: verify that rows, targets and temperatures are in range. Nothing is verified under
    torch.compile. The result for an unverified index out of range, including -100, is undefined.
    Finding repeated rows waits for a GPU in any case.
    Options: bias [V], default none; temperature, a number or [T], one per row of hidden, default 1;
    logit_softcap, c of cap(x) = c tanh(x / c), default none.

    Returns float32 [M] (float64 for float64 input), differentiable once in hidden, weight and bias;
    with return_entropy a LogProb. NaN in a hidden row makes only that row's results NaN. float32
    products are torch's: TF32 if torch.set_float32_matmul_precision allows it.
    Raises ValueError for shapes, dtypes, devices and values that do not fit.
    """
    head = Head(weight, **options)
    check_operands(hidden, head, rows, targets, check=check)
    hidden, head = operands(hidden, head)
    keep = torch.is_grad_enabled() and hidden.requires_grad and not head.is_trained()
    logp, entropy, _, _ = _forward(
        hidden, head.weight, rows.long(), targets.long(), *head.transform(hidden),
        return_entropy, keep,
    )  # fmt: skip
    return LogProb(logp, entropy) if return_entropy else logp


# ---- forward ----


# The operators wait for the GPU (make_plan), which a CUDA graph cannot record.
WAITS = (torch.Tag.cudagraph_unsafe,)


@torch.library.custom_op("malt_fast::linear_logprob", mutates_args=(), tags=WAITS)
def _forward(
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    temperature: Tensor | None,
    softcap: float,
    entropy: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """logp [M]; entropy [M] or [0]; log sum exp z [min(T, M)] and R [min(T, M), H] (or [0, H]),
    of which the first U are used: the number of distinct rows is not known before."""
    x = head_rows(hidden, weight, rows, targets, bias, temperature, softcap)
    size, row_of = min(len(hidden), len(rows)), x.plan.row_of
    log_total = hidden.new_empty(size, dtype=x.sums)
    row_entropy = hidden.new_empty(size if entropy else 0, dtype=x.sums)
    residual = hidden.new_empty(size if keep else 0, hidden.shape[1])
    target_logit = x.new_target_logit()
    for part, state in _fold_rows(x, target_logit, entropy=entropy, keep=keep):
        log_total[part] = state.log_total()
        if entropy:
            row_entropy[part] = state.entropy()
        if state.residual is not None:
            residual[part] = state.residual / state.total[:, None]
    logp = (target_logit - log_total[row_of])[x.plan.index]
    if entropy:
        row_entropy = row_entropy[row_of[x.plan.index]]
    return logp, row_entropy, log_total, residual


def _fold_rows(
    x: HeadRows, target_logit: Tensor, *, entropy: bool, keep: bool
) -> Iterator[tuple[slice, RunningSoftmax]]:
    """The finished softmax of each chunk of rows; keep: with R times its total."""
    ops = softmax_rows.choose(x.hidden.device, x.hidden.dtype)
    dtype, device, vocabulary = tiles.product_dtype(x.hidden), x.hidden.device, len(x.weight)
    height, width = tiles.tile_shape(len(x.plan), vocabulary, x.hidden)
    logits = kept = tiles.Buffer(x.sums, device, height, width)
    if dtype != x.sums:
        kept = tiles.Buffer(dtype, device, height if keep else 0, width)
    columns = [(column.start, x.weight[column]) for column in tiles.slices(vocabulary, width)]
    for part in tiles.slices(len(x.plan), height):
        hidden = x.hidden[x.plan.rows[part]].to(dtype)
        residual = hidden.new_zeros(hidden.shape, dtype=x.sums) if keep else None
        state = RunningSoftmax.start(len(hidden), target_logit, entropy=entropy, residual=residual)
        transform, targets = x.transform.rows(part), x.plan.targets.rows(part)
        for first, weight in columns:
            w = weight.to(dtype)
            tile = tiles.multiply(hidden, w.T, logits(len(hidden), len(w)))
            weights = None
            if keep:
                weights = tile if kept is logits else kept(*tile.shape)
            ops.fold(tile, first, transform, targets, state, weights)
            if residual is not None and weights is not None:
                tiles.add_product(residual, weights, w)
        yield part, state


@_forward.register_fake
def _(
    hidden: Tensor, weight: Tensor, rows: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *_, entropy, keep = rest
    dtype, m = sums_dtype(hidden.dtype), rows.shape[0]
    size = torch.sym_min(hidden.shape[0], m)
    return (
        hidden.new_empty(m, dtype=dtype),
        hidden.new_empty(m if entropy else 0, dtype=dtype),
        hidden.new_empty(size, dtype=dtype),
        hidden.new_empty(size if keep else 0, hidden.shape[1]),
    )


# ---- backward ----


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.softcap, _, ctx.keep = inputs
    logp, entropy, log_total, residual = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(entropy, log_total, residual)
    ctx.save_for_backward(*tensors, logp, log_total, residual)


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 9
    needs = [bool(ctx.needs_input_grad[i]) for i in (0, 1, 4)]
    gradients = _gradients(grad.contiguous(), *ctx.saved_tensors, ctx.softcap, ctx.keep, *needs)
    dx, dw, db = (d if need else None for d, need in zip(gradients, needs, strict=True))
    return dx, dw, None, None, db, None, None, None, None


@torch.library.custom_op("malt_fast::linear_logprob_backward", mutates_args=(), tags=WAITS)
def _gradients(
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
    softcap: float,
    keep: bool,
    needs_hidden: bool,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden [T, H], weight [V, H], bias [V]; [0] for one that is not needed."""
    x = head_rows(hidden, weight, rows, targets, bias, temperature, softcap)
    upstream = x.upstream(grad, log_total[: len(x.plan)])
    dx = hidden.new_zeros(hidden.shape if needs_hidden else 0)
    dw, db = weight.new_empty(0), (weight if bias is None else bias).new_empty(0)
    if keep:
        target_logp = logp.new_empty(len(x.plan.row_of)).index_copy_(0, x.plan.index, logp)
        scale_residual(x, residual, *target_coefficients(x, target_logp, upstream), dx)
        return dx, dw, db
    needs = (needs_hidden, needs_weight, needs_bias)
    row_dx, whole_dw, whole_db = recompute_gradients(x, upstream, needs)
    if row_dx is not None:
        dx[x.plan.rows] = row_dx.to(dx.dtype)
    return (
        dx,
        dw if whole_dw is None else whole_dw,
        db if whole_db is None else whole_db.to(db.dtype),
    )


@_gradients.register_fake
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


def _twice(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError(
        "linear_logprob is differentiable once: its gradient has no gradient, so leave out "
        "create_graph=True"
    )


torch.library.register_autograd("malt_fast::linear_logprob", _backward, setup_context=_save)
torch.library.register_autograd("malt_fast::linear_logprob_backward", _twice)


# ---- inputs ----


def operands(hidden: Tensor, head: Head) -> tuple[Tensor, Head]:
    """One dtype for hidden and weight: autocast's on a GPU, else the wider one."""
    kind = hidden.device.type
    if kind == "cuda" and torch.is_autocast_enabled(kind) and hidden.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
    else:
        dtype = torch.promote_types(hidden.dtype, head.weight.dtype)
    return hidden.to(dtype), head._replace(weight=head.weight.to(dtype))


def check_operands(
    hidden: Tensor, head: Head, rows: Tensor, targets: Tensor, *, check: bool
) -> None:
    """Raise ValueError for shapes, dtypes and devices, and with `check` values, that do not fit."""
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
    if check:
        checks.in_range(("rows", rows, len(hidden)), ("targets", targets, len(weight)))
        checks.positive("temperature", temperature)
