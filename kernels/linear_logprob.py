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
of the mass. A trained head costs 3 products on a CPU: dW is one product with the weights
exp(z - offset) that the forward pass keeps, 4 V bytes a row (kept_weights.py). It costs 4 for rows
beyond KEPT bytes, and on a GPU: there the backward pass makes the logits again.

Memory beside inputs and outputs: a tile and its operands (tiles.py: 8 MB on a CPU, 52 MB on a GPU,
up to four times that for H below 4096) and R, [min(T, M), H] in hidden's dtype. A trained head
keeps weights of up to 268 MB on a CPU, with R in float32 for their rows; for others dh; a slice of
dW in float32; and on a GPU the grad_logits of TALL rows (138 MB in bfloat16).
"""

from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypedDict, Unpack, overload

import torch
from torch import Tensor

from . import checks, kept_weights, softmax_rows, tiles
from .head_gradients import KeptGradients, recompute_gradients
from .head_rows import HeadRows, head_rows, scale_residual, target_coefficients
from .kept_weights import KeptWeights
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
    needs_hidden = torch.is_grad_enabled() and hidden.requires_grad
    logp, entropy, *_ = _forward(
        hidden, head.weight, rows.long(), targets.long(), *head.transform(hidden),
        return_entropy, needs_hidden, torch.is_grad_enabled() and head.is_trained(),
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
    needs_hidden: bool,
    trained: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """logp [M]; entropy [M] or [0]; log sum exp z [min(T, M)]; R; weights and scale to keep.

    Of log sum exp z, R and scale the first U rows are used: the number of distinct rows is not
    known before.
    """
    x = head_rows(hidden, weight, rows, targets, bias, temperature, softcap)
    _, _, log_total, residual, weights, scale = _new_outputs(
        hidden, weight, rows, entropy, needs_hidden, trained
    )
    kept = _kept(x, weights, scale)
    state = RunningSoftmax.start(len(x.plan), x.new_target_logit(), entropy=entropy)
    _fold_rows(x, state, residual, kept)
    log_total[: len(x.plan)] = state.log_total()
    logp, row_entropy = state.logp(x.plan.row_of)[x.plan.index], log_total.new_empty(0)
    if entropy:
        row_entropy = state.entropy()[x.plan.row_of[x.plan.index]]
    return logp, row_entropy, log_total, residual, weights, scale


def _new_outputs(
    hidden: Tensor, weight: Tensor, rows: Tensor, entropy: bool, needs_hidden: bool, trained: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What `_forward` returns, without values; also for torch.compile, with symbols for sizes."""
    sums, m = sums_dtype(hidden.dtype), rows.shape[0]
    size = torch.sym_min(hidden.shape[0], m)
    kept, scale = kept_weights.shapes(size if trained else 0, hidden, weight)
    with_residual = (scale[1] if trained else size) if needs_hidden else 0
    return (
        hidden.new_empty(m, dtype=sums),
        hidden.new_empty(m if entropy else 0, dtype=sums),
        hidden.new_empty(size, dtype=sums),
        # A frozen head's R is scaled and rounded once more; dh of a trained one is rounded once.
        hidden.new_empty(with_residual, hidden.shape[1], dtype=sums if trained else None),
        hidden.new_empty(kept, dtype=sums),
        hidden.new_empty(scale, dtype=sums),
    )


def _kept(x: HeadRows, weights: Tensor, scale: Tensor) -> KeptWeights:
    return KeptWeights(weights, scale, min(len(x.plan), scale.shape[1]), len(x.weight))


def _fold_rows(x: HeadRows, state: RunningSoftmax, residual: Tensor, kept: KeptWeights) -> None:
    """Take all rows through the head: fills `state`, R of the first rows, weights to keep."""
    ops = softmax_rows.choose(x.hidden.device, x.hidden.dtype)
    dtype, device, vocabulary = tiles.product_dtype(x.hidden), x.hidden.device, len(x.weight)
    height, width = tiles.tile_shape(len(x.plan), vocabulary, x.hidden)
    logits = memory = tiles.Buffer(x.sums, device, height, width)
    if dtype != x.sums:
        memory = tiles.Buffer(dtype, device, height if len(residual) else 0, width)
    columns = [(column, x.weight[column]) for column in tiles.slices(vocabulary, width)]
    for part in [*kept.parts(height), *tiles.slices(len(x.plan), height, kept.rows)]:
        hidden, offsets = x.hidden[x.plan.rows[part]].to(dtype), []
        chunk, keeps = state.rows(part), part.start < kept.rows
        if part.start < len(residual):
            chunk = replace(chunk, residual=hidden.new_zeros(hidden.shape, dtype=x.sums))
        transform, targets = x.transform.rows(part), x.plan.targets.rows(part)
        for column, weight in columns:
            w = weight.to(dtype)
            tile = kept.block(part, column) if keeps else logits(len(hidden), len(w))
            tile = tiles.multiply(hidden, w.T, tile)
            weights = None
            if keeps or chunk.residual is not None:
                weights = tile if memory is logits else memory(*tile.shape)
            ops.fold(tile, column.start, transform, targets, chunk, weights)
            if chunk.residual is not None and weights is not None:
                tiles.add_product(chunk.residual, weights, w)
            offsets.append(chunk.offset.clone())
        if keeps:
            kept.write_scale(part, offsets, chunk)
        if chunk.residual is not None:
            residual[part] = chunk.residual / chunk.total[:, None]


@_forward.register_fake
def _(
    hidden: Tensor, weight: Tensor, rows: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _new_outputs(hidden, weight, rows, *rest[-3:])


# ---- backward ----


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.softcap, _, _, ctx.trained = inputs
    logp, *rest = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*rest)
    ctx.save_for_backward(*tensors, logp, *rest[1:])


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 10
    needs = [bool(ctx.needs_input_grad[i]) for i in (0, 1, 4)]
    gradients = _gradients(grad.contiguous(), *ctx.saved_tensors, ctx.softcap, ctx.trained, *needs)
    dx, dw, db = (d if need else None for d, need in zip(gradients, needs, strict=True))
    return dx, dw, None, None, db, None, None, None, None, None


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
    weights: Tensor,
    scale: Tensor,
    softcap: float,
    trained: bool,
    needs_hidden: bool,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden [T, H], weight [V, H], bias [V]; [0] for one that is not needed."""
    x = head_rows(hidden, weight, rows, targets, bias, temperature, softcap)
    upstream = x.upstream(grad, log_total[: len(x.plan)])
    dx = hidden.new_zeros(hidden.shape if needs_hidden else 0)
    target_logp = logp.new_empty(len(x.plan.row_of)).index_copy_(0, x.plan.index, logp)
    at_target, row = target_coefficients(x, target_logp, upstream)
    if needs_hidden:
        scale_residual(x, residual, at_target, row, dx)
    no_dw, no_db = weight.new_empty(0), (weight if bias is None else bias).new_empty(0)
    if not trained:
        return dx, no_dw, no_db
    needs, kept = (needs_hidden, needs_weight, needs_bias), _kept(x, weights, scale)
    from_kept = KeptGradients.of(x, kept, at_target, row)
    row_dx, dw, db = recompute_gradients(x, upstream, needs, from_kept)
    if row_dx is not None:
        dx[x.plan.rows[kept.rows :]] = row_dx.to(dx.dtype)
    return dx, no_dw if dw is None else dw, no_db if db is None else db.to(no_db.dtype)


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
