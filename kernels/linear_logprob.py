"""Log-probs of target tokens straight from hidden rows, without a logits matrix.

For a row u of hidden with h = hidden[u], and its distinct targets t:

    raw  = h W^T + b                                  [V]
    z    = cap(raw) / T,  cap(x) = c tanh(x / c)      [V]
    logp = z[t] - log sum exp z
    d(sum_t g_t logp_t)/d raw = cap'(raw) (onehot g - (sum_t g_t) softmax(z)) / T
    dh   = draw W,   dW = draw^T h,   db = sum draw

Rows that several targets share are multiplied once. Logits exist as one float32 tile at a time,
some rows by some of the vocabulary: a product of matrices by torch, then `fold` (softmax_rows.py).
Statistics, target logits and sums are float32 whatever the storage type.

A frozen head (LoRA's usual case) costs 2 products in all. The forward pass also sums

    R = sum over v that are no target of softmax(z)_v cap'(raw_v) W_v    [H]

which is all of dh that needs the vocabulary; upstream gradients only scale it:

    dh = sum_t (g_t - (sum g) softmax(z)_t) cap'(raw_t) W_t / T - (sum g) R / T

Targets are left out of R so that it keeps its relative accuracy in bfloat16 where a target takes
nearly all of the mass. A trained head costs 4: backward makes the logits again.

Beside inputs and outputs this holds: a tile and what it is made of (TILE: 8 MB on a CPU, 52 MB on a
GPU, up to four times that for H below 4096) and R, [min(T, M), H] in hidden's dtype; with a trained
head instead of R, for U distinct rows, dh [U, H] and a slice of dW in float32, on a GPU also the
draw of TALL rows (138 MB in bfloat16).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypedDict, Unpack, overload

import torch
from torch import Tensor

from . import checks, softmax_rows
from .softmax_rows import Head, Running, running, sums_dtype, temperature_of_rows

# Most logits of a tile, and most columns. A CPU wants it in its caches; a GPU in L2 (1024 x 8448
# float32 are 35 MB of an H100's 50), with enough rows that W is not what is waited for, and in 264
# parts of 256 x 128, two for each of its 132 multiprocessors.
TILE = {"cpu": (1 << 21, 2048), "cuda": (1024 * 8448, 8448)}

# Rows whose draw is kept for one product each with W and with hidden, if more than a tile's: with R
# of them, dW's sum in float32 moves 8 bytes for every 2 R operations.
TALL = {"cuda": 8192}


class LogProb(NamedTuple):
    """logp [M], float32, and the entropy [M] of each target's row, without a gradient."""

    logp: Tensor
    entropy: Tensor


class Settings(TypedDict, total=False):
    """Keywords of linear_logprob."""

    bias: Tensor | None
    temperature: float | Tensor
    logit_softcap: float | None
    check: bool


@overload
def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    *,
    return_entropy: Literal[False] = False,
    **settings: Unpack[Settings],
) -> Tensor: ...


@overload
def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    *,
    return_entropy: Literal[True],
    **settings: Unpack[Settings],
) -> LogProb: ...


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    logit_softcap: float | None = None,
    return_entropy: bool = False,
    check: bool = True,
) -> Tensor | LogProb:
    """Log-prob of `targets[m]` under softmax(cap(hidden[rows[m]] @ weight.T + bias) / temperature).

    hidden [T, H], weight [V, H], bias [V]: float32, bfloat16, float16 or float64, strided at will;
    rows, targets [M]: integers, rows may repeat; temperature: a number or [T], one a row of hidden.
    check: look whether rows, targets and temperatures are in range; nothing is looked at under
    torch.compile. One out of range that was not looked at has no meaning, -100 neither. Finding
    rows that repeat waits for a GPU in any case.

    Returns float32 [M] (float64 for float64 input), differentiable once in hidden, weight and bias;
    with return_entropy a LogProb. A NaN in a hidden row makes that row's results NaN, no others.
    Products of float32 are torch's: TF32 where torch.set_float32_matmul_precision allows it.
    Raises ValueError for shapes, dtypes, devices and values that do not fit.
    """
    check_operands(hidden, weight, rows, targets, bias, temperature, logit_softcap)
    hidden, weight, bias = operands(hidden, weight, bias)
    if check:
        checks.in_range(("rows", rows, len(hidden)), ("targets", targets, len(weight)))
        checks.positive("temperature", temperature)
    grad = torch.is_grad_enabled()
    trains_head = weight.requires_grad or (bias is not None and bias.requires_grad)
    keep = grad and hidden.requires_grad and not trains_head
    logp, entropy, _, _ = _forward(
        hidden,
        weight,
        rows.long(),
        targets.long(),
        bias,
        temperature_of_rows(temperature, hidden),
        logit_softcap or 0.0,
        return_entropy,
        keep,
    )
    return LogProb(logp, entropy) if return_entropy else logp


# ---- rows and their targets ----


@dataclass(frozen=True)
class Plan:
    """Which rows are multiplied, and the distinct targets of each."""

    rows: Tensor  # [U] ascending
    start: Tensor  # [U + 1]: the targets of rows[u] are token[start[u] : start[u + 1]]
    token: Tensor  # [D]
    row_of: Tensor  # [D]: index into rows
    index: Tensor  # [M]: which of the D the caller's m-th is

    def __len__(self) -> int:
        return len(self.rows)


def make_plan(rows: Tensor, targets: Tensor, vocabulary: int) -> Plan:
    """Sort (row, target) and remove doubles; int64 holds 2^45 rows of 2^18 tokens."""
    if (rows[1:] > rows[:-1]).all():  # the usual layout: nothing to sort, a target a row
        each = torch.arange(len(rows) + 1, device=rows.device)
        return Plan(rows, each, targets.contiguous(), each[:-1], each[:-1])
    key, index = torch.unique(rows * vocabulary + targets, return_inverse=True)
    row, token = key // vocabulary, key % vocabulary
    distinct, row_of, counts = torch.unique_consecutive(
        row, return_inverse=True, return_counts=True
    )
    start = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return Plan(distinct, start, token, row_of, index)


# ---- tiles ----


def tile_shape(rows: int, vocabulary: int, hidden: Tensor) -> tuple[int, int]:
    """Rows and columns of the largest tile of hidden [..., H] W^T."""
    size, width = TILE.get(hidden.device.type, TILE["cpu"])
    if hidden.is_cuda:  # a small product takes less time than Python needs to start it
        size *= min(4, max(1, 4096 // max(1, hidden.shape[-1])))
    width = min(width, vocabulary)
    return min(rows, max(1, size // max(1, width))), width


def slices(n: int, step: int) -> list[slice]:
    return [slice(i, min(i + step, n)) for i in range(0, n, max(1, step))]


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which tiles are multiplied: a CPU has no fast low-precision products."""
    return x.dtype if x.is_cuda else sums_dtype(x.dtype)


def multiply(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """out = a b, in float32 where the operands are low precision."""
    if a.dtype == out.dtype:
        return torch.mm(a, b, out=out)
    return torch.mm(a, b, out_dtype=out.dtype, out=out)


def add_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """out += a b, likewise."""
    if a.dtype == out.dtype:
        out.addmm_(a, b)
    else:
        torch.addmm(out, a, b, out_dtype=out.dtype, out=out)


def add_at(out: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """out[index] += values, always in the same order, which index_add_ has on a CPU only."""
    if out.is_cuda:
        return out.index_put_((index,), values, accumulate=True)
    return out.index_add_(0, index, values)


class Buffer:
    """Memory of one tile, shaped anew for each; a shape's view is made once, as that takes time."""

    def __init__(self, dtype: torch.dtype, device: torch.device, rows: int, columns: int) -> None:
        self.flat = torch.empty(rows * columns, dtype=dtype, device=device)
        self.views: dict[tuple[int, int], Tensor] = {}

    def __call__(self, rows: int, columns: int) -> Tensor:
        view = self.views.get((rows, columns))
        if view is None:
            view = self.flat[: rows * columns].view(rows, columns)
            self.views[rows, columns] = view
        return view


# ---- forward ----


# They wait for the GPU (make_plan), which a CUDA graph cannot record.
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
    plan = make_plan(rows, targets, len(weight))
    dtype, size = sums_dtype(hidden.dtype), min(len(hidden), len(rows))
    log_total = hidden.new_empty(size, dtype=dtype)
    row_entropy = hidden.new_empty(size if entropy else 0, dtype=dtype)
    residual = hidden.new_empty(size if keep else 0, hidden.shape[1])
    target_logit = hidden.new_full((len(plan.token),), torch.nan, dtype=dtype)
    head = make_head(bias, temperature, softcap, plan, dtype)
    for part, state in _fold_rows(hidden, weight, plan, head, target_logit, entropy, keep):
        log_total[part] = state.log_total()
        if entropy:
            row_entropy[part] = state.entropy()
        if state.residual is not None:
            residual[part] = state.residual / state.total[:, None]
    logp = (target_logit - log_total[plan.row_of])[plan.index]
    if entropy:
        row_entropy = row_entropy[plan.row_of[plan.index]]
    return logp, row_entropy, log_total, residual


def make_head(
    bias: Tensor | None,
    temperature: Tensor | None,
    softcap: float,
    plan: Plan,
    dtype: torch.dtype,
) -> Head:
    return Head(
        None if bias is None else bias.to(dtype).contiguous(),
        None if temperature is None else temperature[plan.rows].to(dtype),
        softcap,
    )


def _fold_rows(
    hidden: Tensor,
    weight: Tensor,
    plan: Plan,
    head: Head,
    target_logit: Tensor,
    entropy: bool,
    keep: bool,
) -> Iterator[tuple[slice, Running]]:
    """The finished softmax of each chunk of rows."""
    ops = softmax_rows.choose(hidden.device, hidden.dtype)
    dtype, vocabulary = product_dtype(hidden), len(weight)
    height, width = tile_shape(len(plan), vocabulary, hidden)
    logits = spare = Buffer(target_logit.dtype, hidden.device, height, width)
    if dtype != target_logit.dtype:
        spare = Buffer(dtype, hidden.device, height if keep else 0, width)
    columns = [(column.start, weight[column]) for column in slices(vocabulary, width)]
    for part in slices(len(plan), height):
        x = hidden[plan.rows[part]].to(dtype)
        residual = x.new_zeros(x.shape, dtype=target_logit.dtype) if keep else None
        state = running(len(x), target_logit, entropy=entropy, residual=residual)
        start, own_head = plan.start[part.start : part.stop + 1], head.rows(part)
        for first, head_rows in columns:
            w = head_rows.to(dtype)
            tile = multiply(x, w.T, logits(len(x), len(w)))
            weights = spare(*tile.shape) if keep and spare is not logits else tile
            ops.fold(
                tile,
                first,
                own_head,
                start,
                plan.token,
                state,
                weights if keep else None,
            )
            if residual is not None:
                add_product(residual, weights, w)
        yield part, state


@_forward.register_fake
def _(
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
    hidden, weight, rows, targets, bias, temperature, ctx.softcap, _, ctx.keep = inputs
    logp, entropy, log_total, residual = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(entropy, log_total, residual)
    ctx.save_for_backward(
        hidden, weight, rows, targets, bias, temperature, logp, log_total, residual
    )


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 9
    needs = [bool(need) for need in ctx.needs_input_grad]
    dx, dw, db = _gradients(
        grad.contiguous(), *ctx.saved_tensors, ctx.softcap, ctx.keep, needs[0], needs[1], needs[4]
    )
    chosen = (dx if needs[0] else None, dw if needs[1] else None, db if needs[4] else None)
    return chosen[0], chosen[1], None, None, chosen[2], None, None, None, None


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
    """Gradients of hidden [T, H], weight [V, H], bias [V]; [0] for one that is not wanted."""
    plan = make_plan(rows, targets, len(weight))
    head = make_head(bias, temperature, softcap, plan, logp.dtype)
    grad_target = add_at(logp.new_zeros(len(plan.token)), plan.index, grad.to(logp.dtype))
    grad_row = add_at(logp.new_zeros(len(plan)), plan.row_of, grad_target)
    log_total = log_total[: len(plan)]
    grad_hidden = hidden.new_zeros(hidden.shape if needs_hidden else 0)
    unwanted = weight.new_empty(0), (weight if bias is None else bias).new_empty(0)
    if keep:
        target_logp = logp.new_empty(len(plan.token)).index_copy_(0, plan.index, logp)
        own, row = own_coefficients(plan, head, target_logp, log_total, grad_target, grad_row)
        _scale_rows(residual, weight, plan, own, row, grad_hidden)
        return grad_hidden, *unwanted
    wants = (needs_hidden, needs_weight, needs_bias)
    dx, dw, db = recomputed(hidden, weight, plan, head, log_total, grad_target, grad_row, *wants)
    if dx is not None:
        grad_hidden[plan.rows] = dx.to(hidden.dtype)
    return (
        grad_hidden,
        unwanted[0] if dw is None else dw,
        unwanted[1] if db is None else db.to(unwanted[1].dtype),
    )


def _scale_rows(
    residual: Tensor, weight: Tensor, plan: Plan, own: Tensor, row: Tensor, out: Tensor
) -> None:
    """dh = sum_t own_t W_t - row R into `out` [T, H]: the frozen head's backward pass, without a
    product of matrices. A thousand rows, and targets, at a time bound what float32 takes."""
    step, total = 1024, len(plan)
    firsts = [*range(0, total, step), total]
    one_each = len(plan.token) == total
    ends = firsts if one_each else plan.start[firsts].tolist()
    for part, first, last in zip(slices(total, step), ends, ends[1:], strict=False):
        dx = residual[part] * -row[part, None]
        for some in range(first, last, step):
            own_part = slice(some, min(some + step, last))
            rows = weight[plan.token[own_part]].to(dx.dtype)
            if one_each:
                dx.addcmul_(rows, own[own_part, None])
            else:
                mine = plan.row_of[own_part] - part.start
                add_at(dx, mine, rows.mul_(own[own_part, None]))
        out[plan.rows[part]] = dx.to(out.dtype)


def own_coefficients(
    plan: Plan, head: Head, logp: Tensor, log_total: Tensor, grad_target: Tensor, grad_row: Tensor
) -> tuple[Tensor, Tensor]:
    """draw at the targets [D], and (sum g) / T of each row [U]: what softmax(z) cap' is times."""
    own = grad_target - grad_row[plan.row_of] * logp.exp()
    if head.temperature is not None:
        own = own / head.temperature[plan.row_of]
        grad_row = grad_row / head.temperature
    if head.softcap:
        z = logp + log_total[plan.row_of]
        capped = z if head.temperature is None else z * head.temperature[plan.row_of]
        own = own * (1 - (capped / head.softcap) ** 2)
    return own, grad_row


def recomputed(
    hidden: Tensor,
    weight: Tensor,
    plan: Plan,
    head: Head,
    log_total: Tensor,
    grad_target: Tensor,
    grad_row: Tensor,
    needs_hidden: bool,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """dh [U, H], dW, db by making the logits again; slices of dW are summed in float32."""
    ops = softmax_rows.choose(hidden.device, hidden.dtype)
    dtype, sums, vocabulary = product_dtype(hidden), log_total.dtype, len(weight)
    height, width = tile_shape(len(plan), vocabulary, hidden)
    tall = min(len(plan), max(height, TALL.get(hidden.device.type, 0)))
    draws = hidden.new_empty(tall * width, dtype=dtype)
    logits = None if dtype == sums else Buffer(sums, hidden.device, height, width)
    dx = log_total.new_zeros(len(plan), hidden.shape[1]) if needs_hidden else None
    dw = weight.new_zeros(weight.shape) if needs_weight else None
    db = log_total.new_zeros(vocabulary) if needs_bias else None
    for column in slices(vocabulary, width):
        w = weight[column].to(dtype)
        dw_slice = log_total.new_zeros(w.shape) if needs_weight else None
        for block in slices(len(plan), tall):
            x = hidden[plan.rows[block]].to(dtype)
            draw = draws[: len(x) * len(w)].view(len(x), len(w))
            for part in slices(len(x), height):
                own = draw[part]
                tile = multiply(x[part], w.T, own if logits is None else logits(*own.shape))
                rows = slice(block.start + part.start, block.start + part.stop)
                ops.gradient(
                    tile,
                    own,
                    column.start,
                    head.rows(rows),
                    plan.start[rows.start : rows.stop + 1],
                    plan.token,
                    log_total[rows],
                    grad_target,
                    grad_row[rows],
                )
            if dx is not None:
                add_product(dx[block], draw, w)
            if dw_slice is not None:
                add_product(dw_slice, draw.T, x)
            if db is not None:
                db[column] += draw.sum(0, dtype=sums)
        if dw is not None and dw_slice is not None:
            dw[column] = dw_slice.to(dw.dtype)
    return dx, dw, db


@_gradients.register_fake
def _(
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


# ---- what goes in ----


def operands(
    hidden: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One dtype for hidden and weight: autocast's on a GPU, else the wider one."""
    kind = hidden.device.type
    if kind == "cuda" and torch.is_autocast_enabled(kind) and hidden.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
    else:
        dtype = torch.promote_types(hidden.dtype, weight.dtype)
    return hidden.to(dtype), weight.to(dtype), bias


def check_operands(
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    temperature: float | Tensor,
    softcap: float | None,
) -> None:
    checks.floating(hidden=hidden, weight=weight, bias=bias)
    checks.integers(rows=rows, targets=targets)
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            "hidden [T, H] and weight [V, H] must agree in H, "
            f"got {list(hidden.shape)} and {list(weight.shape)}"
        )
    if rows.ndim != 1 or rows.shape != targets.shape:
        raise ValueError(
            "rows and targets must be one [M] each, "
            f"got {list(rows.shape)} and {list(targets.shape)}"
        )
    if bias is not None:
        checks.shape("bias", bias, (len(weight),), "one a row of weight")
    checks.temperature(temperature, len(hidden), hidden.device)
    checks.softcap(softcap)
    checks.same_device(hidden.device, weight=weight, rows=rows, targets=targets, bias=bias)
