"""DPO straight from hidden rows: log-probs, loss and gradients, without a logits matrix.

    logp[c] = sum of the log-probs of the targets of completion c       (linear_logprob.py)
    loss    = sum over pairs of dpo(logp, ref_logp) / num_items         (dpo_loss.py)

A frozen head composes the two: 2 products of matrices for the policy, 1 for a reference given as
hidden rows. A trained head would need 4, because a token's upstream gradient is not known before
its whole completion and the other side of its pairs were seen. Here completions that are linked by
pairs go through the head together, and their weights exp(z - offset) are kept in the storage type:
the pairs then say what each row's gradient is, and it takes 3 products:

    draw = cap'(raw) (onehot g - (sum_t g_t) softmax(z)) / T,  g_t = d loss / d logp[c]
    dh   = draw W,   dW = draw^T h

Gradients of the sum over pairs are made in the forward pass and only scaled by the loss's own
upstream scalar over num_items, so that a narrow type rounds none of them to 0. Groups of linked
completions are joined until their weights fill KEPT bytes; a single larger one makes its logits
again instead (4 products).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import checks, softmax_rows
from .dpo_loss import dpo_loss
from .linear_logprob import (
    Buffer,
    Settings,
    add_at,
    add_product,
    check_operands,
    linear_logprob,
    make_head,
    make_plan,
    multiply,
    operands,
    own_coefficients,
    product_dtype,
    recomputed,
    slices,
    tile_shape,
)
from .softmax_rows import running, sums_dtype, temperature_of_rows

# Weights kept at once. More of them mean fewer additions to dW, 8 V H bytes of traffic each.
KEPT = {"cpu": 1 << 28, "cuda": 5 << 28}


class LinearDPO(NamedTuple):
    loss: Tensor  # scalar, the only one with a gradient
    losses: Tensor  # [P]
    chosen_rewards: Tensor  # [P]
    rejected_rewards: Tensor  # [P]
    logp: Tensor  # [C]; a trained head leaves completions in no pair out: NaN
    ref_logp: Tensor  # [C]


def linear_dpo(
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    owner: Tensor,
    pairs: Tensor,
    *,
    beta: float,
    ref_logp: Tensor | None = None,
    ref_hidden: Tensor | None = None,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    logit_softcap: float | None = None,
    loss_type: str = "sigmoid",
    label_smoothing: float = 0.0,
    rpo_alpha: float | None = None,
    mean_chosen_length: Tensor | float | None = None,
    num_items: float | None = None,
    check: bool = True,
) -> LinearDPO:
    """The DPO loss of completions whose tokens hidden rows predict.

    hidden, weight, rows, targets, bias, temperature, logit_softcap, check: as in linear_logprob;
    owner [M]: the completion each target belongs to; pairs [P, 2]: (chosen, rejected) completions;
    ref_logp [C]: log-probs of completions under the reference, or ref_hidden [T, H]: its hidden
    rows, which go through the same head; the rest as in dpo_loss. num_items: what the sum over
    pairs is divided by, default P; accumulating over micro-batches, the pairs of all of them.

    loss is differentiable once in hidden, weight and bias. Raises ValueError for what does not fit.
    """
    _check(hidden, rows, owner, pairs, ref_logp, ref_hidden)
    owner, pairs = owner.long(), pairs.long()
    head: Settings = {
        "bias": bias,
        "temperature": temperature,
        "logit_softcap": logit_softcap,
        "check": check,
    }
    completions = _count(owner, pairs) if ref_logp is None else len(ref_logp)
    if check:
        checks.in_range(("owner", owner, completions), ("pairs", pairs, completions))
    if ref_logp is None:
        assert ref_hidden is not None
        with torch.no_grad():
            token_logp = linear_logprob(ref_hidden, weight, rows, targets, **head)
        ref_logp = per_completion(token_logp, owner, completions)
    dtype = sums_dtype(torch.promote_types(hidden.dtype, weight.dtype))
    ref_logp = ref_logp.detach().to(dtype)
    lengths = owner.new_zeros(completions).index_add(0, owner, torch.ones_like(owner))
    if mean_chosen_length is None:
        mean_chosen_length = lengths[pairs[:, 0]].to(dtype).mean()
    preference: dict[str, Any] = {
        "beta": beta,
        "loss_type": loss_type,
        "label_smoothing": label_smoothing,
        "rpo_alpha": rpo_alpha,
        "mean_chosen_length": mean_chosen_length,
        "check": check,
    }
    items = float(max(1, len(pairs))) if num_items is None else float(num_items)
    trains_head = weight.requires_grad or (bias is not None and bias.requires_grad)
    if torch.is_grad_enabled() and trains_head:
        check_operands(hidden, weight, rows, targets, bias, temperature, logit_softcap)
        if check:
            checks.in_range(("rows", rows, len(hidden)), ("targets", targets, len(weight)))
            checks.positive("temperature", temperature)
        job = _Job(rows, targets, owner, pairs, ref_logp, lengths, head, preference, items)
        loss, losses, chosen, rejected, logp = _trained_head(hidden, weight, bias, job)
        return LinearDPO(loss, losses, chosen, rejected, logp, ref_logp)
    token_logp = linear_logprob(hidden, weight, rows, targets, **head)
    logp = per_completion(token_logp, owner, completions)
    out = dpo_loss(logp, ref_logp, pairs, lengths, **preference)
    loss = out.losses.sum() / items
    rewards = (out.chosen_rewards, out.rejected_rewards)
    return LinearDPO(loss, out.losses.detach(), *rewards, logp.detach(), ref_logp)


def per_completion(token_logp: Tensor, owner: Tensor, completions: int) -> Tensor:
    """[C]: token log-probs [M] summed over the targets of each completion, in a fixed order."""
    zeros = token_logp.new_zeros(completions)
    if token_logp.is_cuda:  # index_add adds in no fixed order there
        return zeros.index_put((owner,), token_logp, accumulate=True)
    return zeros.index_add(0, owner, token_logp)


def _count(owner: Tensor, pairs: Tensor) -> int:
    ends = [int(tensor.max()) + 1 for tensor in (owner, pairs) if tensor.numel()]
    return max(ends, default=0)


# ---- a trained head ----


class _Job(NamedTuple):
    """What the gradients of a trained head are made for."""

    rows: Tensor
    targets: Tensor
    owner: Tensor
    pairs: Tensor
    ref_logp: Tensor
    lengths: Tensor
    head: Settings
    preference: dict[str, Any]
    items: float


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _trained_head(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, job: _Job
) -> tuple[Tensor, ...]:
    return _TrainedHead.apply(hidden, weight, bias, job)


class _TrainedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, job: _Job
    ) -> tuple[Tensor, ...]:
        x, w, b = operands(hidden, weight, bias)
        result, dx, dw, db = _all_groups(x, w, b, job)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*result[1:])
        ctx.dtypes = [None if t is None else t.dtype for t in (hidden, weight, bias)]
        ctx.items = job.items
        ctx.save_for_backward(dx, dw, db)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return None, None, None, None
        saved = zip(ctx.saved_tensors, ctx.dtypes, ctx.needs_input_grad, strict=False)
        return *(
            (d * (grad / ctx.items)).to(dtype) if needed else None for d, dtype, needed in saved
        ), None


def _all_groups(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, job: _Job
) -> tuple[tuple[Tensor, ...], Tensor, Tensor, Tensor | None]:
    """(loss, losses, rewards, logp) and the gradients of hidden, weight and bias."""
    logp = job.ref_logp.new_zeros(len(job.lengths))
    per_pair = logp.new_zeros(3, len(job.pairs))
    dx = logp.new_zeros(hidden.shape)
    room = KEPT.get(hidden.device.type, KEPT["cpu"])
    itemsize = product_dtype(hidden).itemsize
    groups = list(_groups(job, room // max(1, len(weight) * itemsize)))
    # One rounding at the end; bfloat16 has the range to be rounded to before the scaling too.
    rounded = len(groups) == 1 and weight.dtype == torch.bfloat16
    dw = weight.new_zeros(weight.shape, dtype=weight.dtype if rounded else logp.dtype)
    db = None if bias is None else logp.new_zeros(len(bias))
    for targets, pairs in groups:
        group = _Group(hidden, weight, bias, job, targets)
        keeps = len(group.plan) * len(weight) * itemsize <= room
        blocks = group.fold(keep=keeps)
        token_logp = group.token_logp()
        add_at(logp, job.owner[targets], token_logp)
        grad_logp, per_pair[:, pairs] = _preference(logp, pairs, job)
        group.receive(grad_logp[job.owner[targets]])
        group_dx = group.spend(blocks, dw, db) if keeps else group.recompute(dw, db)
        dx[group.plan.rows] += group_dx  # distinct rows
    paired = torch.zeros_like(logp, dtype=torch.bool)
    paired[job.pairs.flatten()] = True
    logp = logp.masked_fill(~paired, torch.nan)
    loss = per_pair[0].sum() / job.items
    return (loss, *per_pair, logp), dx, dw, db


def _preference(logp: Tensor, pairs: Tensor, job: _Job) -> tuple[Tensor, Tensor]:
    """d (sum of losses) / d logp [C] of some pairs, and their losses and rewards [3, pairs]."""
    with torch.enable_grad():
        leaf = logp.clone().requires_grad_()
        out = dpo_loss(leaf, job.ref_logp, job.pairs[pairs], job.lengths, **job.preference)
        (grad,) = torch.autograd.grad(out.losses.sum(), leaf)
    return grad, torch.stack([out.losses.detach(), out.chosen_rewards, out.rejected_rewards])


def _groups(job: _Job, room: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices of targets and of pairs, completions linked by pairs together, `room` targets or
    as many as one set of linked completions has. Completions without a pair are in no group."""
    set_of = _linked(job.pairs.tolist(), len(job.lengths))
    sizes: dict[int, int] = {}
    for completion, length in enumerate(job.lengths.tolist()):
        if set_of[completion] >= 0:
            sizes[set_of[completion]] = sizes.get(set_of[completion], 0) + length
    group_of_set, group, filled = {}, 0, 0
    for name, size in sizes.items():
        if filled and filled + size > room:
            group, filled = group + 1, 0
        group_of_set[name] = group
        filled += size
    group_of = torch.tensor([group_of_set.get(name, -1) for name in set_of], dtype=torch.long)
    group_of = group_of.to(job.owner.device)
    for index in range(group + 1 if sizes else 0):
        of_target = torch.nonzero(group_of[job.owner] == index).squeeze(1)
        yield of_target, torch.nonzero(group_of[job.pairs[:, 0]] == index).squeeze(1)


def _linked(pairs: list[list[int]], completions: int) -> list[int]:
    """The set each completion is in, named by one of its members; -1: in no pair."""
    parent = list(range(completions))

    def root(c: int) -> int:
        while parent[c] != c:
            parent[c] = c = parent[parent[c]]
        return c

    for a, b in pairs:
        parent[root(a)] = root(b)
    used = {c for pair in pairs for c in pair}
    return [root(c) if c in used else -1 for c in range(completions)]


class _Group:
    """The rows of some linked completions on their way through the head and back."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, job: _Job, targets: Tensor
    ) -> None:
        self.hidden, self.weight = hidden, weight
        self.ops = softmax_rows.choose(hidden.device, hidden.dtype)
        self.plan = make_plan(job.rows[targets].long(), job.targets[targets].long(), len(weight))
        temperature = temperature_of_rows(job.head["temperature"], hidden)
        softcap = job.head["logit_softcap"] or 0.0
        self.head = make_head(bias, temperature, softcap, self.plan, sums_dtype(hidden.dtype))
        self.dtype = product_dtype(hidden)
        self.x = hidden[self.plan.rows].to(self.dtype)
        target_logit = job.ref_logp.new_empty(len(self.plan.token), dtype=sums_dtype(hidden.dtype))
        self.state = running(len(self.plan), target_logit)
        self.tile = tile_shape(len(self.plan), len(weight), hidden)
        self.columns = slices(len(weight), self.tile[1])
        self.parts = slices(len(self.plan), self.tile[0])

    def fold(self, *, keep: bool) -> list[tuple[Tensor, Tensor]]:
        """The finished softmax in `state`. Kept: weights [U, n] and their offset [U] of each slice
        of the vocabulary."""
        sums = self.state.total.dtype
        tile_of = Buffer(sums, self.x.device, *self.tile)
        blocks = []
        for column in self.columns:
            w = self.weight[column].to(self.dtype)
            block = self.x.new_empty(len(self.x) if keep else 0, len(w))
            for part in self.parts:
                x = self.x[part]
                kept = block[part]
                over = keep and kept.dtype == sums  # weights take the logits' place
                tile = multiply(x, w.T, kept if over else tile_of(len(x), len(w)))
                self.ops.fold(
                    tile,
                    column.start,
                    self.head.rows(part),
                    self.plan.start[part.start : part.stop + 1],
                    self.plan.token,
                    self.state.rows(part),
                    tile if over else kept if keep else None,
                )
            blocks.append((block, self.state.offset.nan_to_num(neginf=0)))
        return blocks

    def token_logp(self) -> Tensor:
        """[targets of the group]."""
        self.log_total = self.state.log_total()
        self.logp = self.state.target_logit - self.log_total[self.plan.row_of]
        return self.logp[self.plan.index]

    def receive(self, grad: Tensor) -> None:
        """Take the upstream gradient of every target."""
        zeros = torch.zeros_like(self.logp)
        self.grad_target = add_at(zeros, self.plan.index, grad.to(zeros.dtype))
        self.grad_row = add_at(torch.zeros_like(self.log_total), self.plan.row_of, self.grad_target)

    def spend(self, blocks: list[tuple[Tensor, Tensor]], dw: Tensor, db: Tensor | None) -> Tensor:
        """Turn kept weights into draw, add to dW and db, and return dh [U, H]."""
        own, row = own_coefficients(
            self.plan, self.head, self.logp, self.log_total, self.grad_target, self.grad_row
        )
        dx = self.log_total.new_zeros(self.x.shape)
        for column, (draw, offset) in zip(self.columns, blocks, strict=True):
            factor = -row * (offset - self.log_total).exp()
            plan = self.plan
            self.ops.spend(draw, column.start, plan.start, plan.token, factor, own)
            add_product(dx, draw, self.weight[column].to(self.dtype))
            self._add_head(column, draw, dw, db)
        return dx

    def recompute(self, dw: Tensor, db: Tensor | None) -> Tensor:
        dx, more_dw, more_db = recomputed(
            self.hidden, self.weight, self.plan, self.head, self.log_total,
            self.grad_target, self.grad_row, True, True, db is not None,
        )  # fmt: skip
        assert dx is not None and more_dw is not None
        dw += more_dw
        if db is not None and more_db is not None:
            db += more_db
        return dx

    def _add_head(self, column: slice, draw: Tensor, dw: Tensor, db: Tensor | None) -> None:
        if dw.dtype == self.log_total.dtype:
            add_product(dw[column], draw.T, self.x)
        else:  # the only group: one rounding
            total = self.log_total.new_zeros(draw.shape[1], self.x.shape[1])
            add_product(total, draw.T, self.x)
            dw[column] += total
        if db is not None:
            db[column] += draw.sum(0, dtype=db.dtype)


# ---- what goes in ----


def _check(
    hidden: Tensor,
    rows: Tensor,
    owner: Tensor,
    pairs: Tensor,
    ref_logp: Tensor | None,
    ref_hidden: Tensor | None,
) -> None:
    checks.integers(owner=owner, pairs=pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"pairs must be [P, 2], (chosen, rejected), got {list(pairs.shape)}")
    checks.shape("owner", owner, tuple(rows.shape), "one a target")
    given = {"owner": owner, "pairs": pairs, "ref_logp": ref_logp, "ref_hidden": ref_hidden}
    checks.same_device(hidden.device, **given)
    if (ref_logp is None) == (ref_hidden is None):
        raise ValueError("give ref_logp [C] or ref_hidden [T, H], one of them")
    if ref_logp is not None and ref_logp.ndim != 1:
        raise ValueError(f"ref_logp must be [C], one a completion, got {list(ref_logp.shape)}")
    if ref_hidden is not None:
        checks.shape("ref_hidden", ref_hidden, tuple(hidden.shape), "as hidden")
