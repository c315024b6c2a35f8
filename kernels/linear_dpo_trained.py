"""DPO from hidden rows with a trained head, in three matrix products.

Four would be needed one token at a time: a token's upstream gradient is known only after the whole
completion and the other side of its pairs have been seen. Here completions linked by pairs go
through the head together, and their weights exp(z - offset) are kept in the storage type. The pairs
then give each row's gradient, and the weights become gradients without another product:

    grad_logits = cap'(raw) (onehot g - (sum_t g_t) softmax(z)) / T,  g_t = d loss / d logp[c]
    dh = grad_logits W,   dW = grad_logits^T h

The forward pass makes the gradients of the sum over pairs; the backward pass only multiplies them
by upstream gradient / num_items, so that no narrow type rounds them to 0. Sets of linked
completions are joined into groups until their weights fill KEPT bytes; a single set above that
makes its logits again (4 products).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import softmax_rows, tiles
from .dpo_loss import Preference, dpo_loss
from .head_gradients import recompute_gradients
from .head_rows import head_rows, target_coefficients
from .linear_logprob import Head, operands
from .running_softmax import RunningSoftmax

# Bytes of weights kept at once. More means fewer additions to dW, each 8 V H bytes of traffic.
KEPT = {"cpu": 1 << 28, "cuda": 5 << 28}


class Job(NamedTuple):
    """The completions, their pairs and the loss."""

    rows: Tensor  # [M]
    targets: Tensor  # [M]
    owner: Tensor  # [M]: the completion of each target
    pairs: Tensor  # [P, 2]: (chosen, rejected)
    ref_logp: Tensor  # [C]
    lengths: Tensor  # [C]: targets of each completion
    preference: Preference
    items: float  # divisor of the sum over pairs
    check: bool


@torch.compiler.disable  # type: ignore[untyped-decorator]
def trained_head(hidden: Tensor, head: Head, job: Job) -> tuple[Tensor, ...]:
    """loss, losses [P], chosen and rejected rewards [P], logp [C]; only loss has a gradient."""
    return _TrainedHead.apply(hidden, head.weight, head.bias, head, job)


class _TrainedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: Head, job: Job
    ) -> tuple[Tensor, ...]:
        x, head = operands(hidden, head._replace(weight=weight, bias=bias))
        result, *gradients = _all_groups(x, head, job)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*result[1:])
        ctx.dtypes = [None if t is None else t.dtype for t in (hidden, weight, bias)]
        ctx.items = job.items
        ctx.save_for_backward(*gradients)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 5
        saved = zip(ctx.saved_tensors, ctx.dtypes, ctx.needs_input_grad, strict=False)
        return (
            *((d * (grad / ctx.items)).to(dtype) if needed else None for d, dtype, needed in saved),
            None,
            None,
        )


def _all_groups(
    hidden: Tensor, head: Head, job: Job
) -> tuple[tuple[Tensor, ...], Tensor, Tensor, Tensor | None]:
    """(loss, losses, rewards, logp) and the gradients of hidden, weight and bias."""
    weight = head.weight
    logp = job.ref_logp.new_zeros(len(job.lengths))
    per_pair = logp.new_zeros(3, len(job.pairs))
    dx = logp.new_zeros(hidden.shape)
    room = KEPT.get(hidden.device.type, KEPT["cpu"])
    bytes_per_row = max(1, len(weight) * tiles.product_dtype(hidden).itemsize)
    groups = list(_groups(job, room // bytes_per_row))
    # One group is rounded once, at the end; bfloat16 has the range to be rounded before scaling.
    rounded = len(groups) == 1 and weight.dtype == torch.bfloat16
    dw = weight.new_zeros(weight.shape, dtype=weight.dtype if rounded else logp.dtype)
    db = None if head.bias is None else logp.new_zeros(len(head.bias))
    for targets, pairs in groups:
        group = _Group(hidden, head, job, targets)
        token_logp, kept = group.fold(keep=len(group.plan) * bytes_per_row <= room)
        tiles.add_at(logp, job.owner[targets], token_logp)
        grad_logp, per_pair[:, pairs] = _preference_gradient(logp, pairs, job)
        dx[group.plan.rows] += group.gradients(grad_logp[job.owner[targets]], kept, dw, db)
    paired = torch.zeros_like(logp, dtype=torch.bool)
    paired[job.pairs.flatten()] = True
    logp = logp.masked_fill(~paired, torch.nan)
    loss = per_pair[0].sum() / job.items
    return (loss, *per_pair, logp), dx, dw, db


def _preference_gradient(logp: Tensor, pairs: Tensor, job: Job) -> tuple[Tensor, Tensor]:
    """d (sum of losses) / d logp [C] of some pairs, and their losses and rewards [3, pairs]."""
    preference = job.preference._asdict()
    with torch.enable_grad():
        leaf = logp.clone().requires_grad_()
        given = leaf, job.ref_logp, job.pairs[pairs], job.lengths
        out = dpo_loss(*given, check=job.check, **preference)
        (grad,) = torch.autograd.grad(out.losses.sum(), leaf)
    return grad, torch.stack([out.losses.detach(), out.chosen_rewards, out.rejected_rewards])


def _groups(job: Job, room: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices of targets and of pairs of each group: linked completions together, and at most
    `room` targets unless one set has more. Completions in no pair are in no group."""
    set_of = _linked_sets(job.pairs.tolist(), len(job.lengths))
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


def _linked_sets(pairs: list[list[int]], completions: int) -> list[int]:
    """The set that pairs link each completion to, named by a member; -1 if it is in no pair."""
    parent = list(range(completions))

    def root(c: int) -> int:
        while parent[c] != c:
            parent[c] = c = parent[parent[c]]
        return c

    for a, b in pairs:
        parent[root(a)] = root(b)
    used = {c for pair in pairs for c in pair}
    return [root(c) if c in used else -1 for c in range(completions)]


Kept = list[tuple[Tensor, Tensor]]  # weights [U, n] and their offset [U], per slice of vocabulary


class _Group:
    """The rows of some linked completions on their way through the head and back."""

    def __init__(self, hidden: Tensor, head: Head, job: Job, targets: Tensor) -> None:
        rows, tokens = job.rows[targets].long(), job.targets[targets].long()
        self.x = head_rows(hidden, head.weight, rows, tokens, *head.transform(hidden))
        self.plan, self.dtype = self.x.plan, tiles.product_dtype(hidden)
        self.ops = softmax_rows.choose(hidden.device, hidden.dtype)
        self.hidden = hidden[self.plan.rows].to(self.dtype)
        self.state = RunningSoftmax.start(len(self.plan), self.x.new_target_logit())
        self.tile = tiles.tile_shape(len(self.plan), len(head.weight), hidden)

    def columns(self) -> Iterator[tuple[slice, Tensor]]:
        """Slices of the vocabulary and their rows of W."""
        for column in tiles.slices(len(self.x.weight), self.tile[1]):
            yield column, self.x.weight[column].to(self.dtype)

    def fold(self, *, keep: bool) -> tuple[Tensor, Kept | None]:
        """Log-probs of the group's targets, and the weights if they are to be kept."""
        x, plan, sums = self.x, self.plan, self.x.sums
        tile_of = tiles.Buffer(sums, self.hidden.device, *self.tile)
        kept: Kept = []
        for column, w in self.columns():
            block = self.hidden.new_empty(len(plan) if keep else 0, len(w))
            for part in tiles.slices(len(plan), self.tile[0]):
                hidden, weights = self.hidden[part], block[part] if keep else None
                if weights is not None and self.dtype == sums:  # weights overwrite the tile
                    tile = weights = tiles.multiply(hidden, w.T, weights)
                else:
                    tile = tiles.multiply(hidden, w.T, tile_of(len(hidden), len(w)))
                described = x.transform.rows(part), plan.targets.rows(part), self.state.rows(part)
                self.ops.fold(tile, column.start, *described, weights)
            kept.append((block, self.state.offset.nan_to_num(neginf=0)))
        self.log_total = self.state.log_total()
        self.logp = self.state.logp(plan.row_of)
        return self.logp[plan.index], kept if keep else None

    def gradients(self, grad: Tensor, kept: Kept | None, dw: Tensor, db: Tensor | None) -> Tensor:
        """dh [U, H] from the upstream gradient of every target; adds to dW and db."""
        upstream = self.x.upstream(grad, self.log_total)
        if kept is None:
            needs = (True, True, db is not None)
            dx, more_dw, more_db = recompute_gradients(self.x, upstream, needs)
            assert dx is not None and more_dw is not None
            dw += more_dw
            if db is not None and more_db is not None:
                db += more_db
            return dx
        at_target, row = target_coefficients(self.x, self.logp, upstream)
        dx = self.log_total.new_zeros(self.hidden.shape)
        for (column, w), (grad_logits, offset) in zip(self.columns(), kept, strict=True):
            factor = -row * (offset - self.log_total).exp()
            targets = self.plan.targets
            self.ops.gradient_from_weights(grad_logits, column.start, targets, factor, at_target)
            tiles.add_product(dx, grad_logits, w)
            self._add_to_head(column, grad_logits, dw, db)
        return dx

    def _add_to_head(
        self, column: slice, grad_logits: Tensor, dw: Tensor, db: Tensor | None
    ) -> None:
        if dw.dtype == self.log_total.dtype:
            tiles.add_product(dw[column], grad_logits.T, self.hidden)
        else:  # the only group: one rounding
            total = self.log_total.new_zeros(grad_logits.shape[1], self.hidden.shape[1])
            tiles.add_product(total, grad_logits.T, self.hidden)
            dw[column] += total
        if db is not None:
            db[column] += grad_logits.sum(0, dtype=db.dtype)
