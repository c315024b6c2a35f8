"""Distinct hidden rows on their way through the head, and their gradients once g is known.

Shapes: T hidden rows of H channels, V tokens, U distinct rows among the M given, D distinct
(row, token) among the M targets.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import tiles
from .running_softmax import Targets, Transform, Upstream, sums_dtype


@dataclass(frozen=True)
class Plan:
    """Which rows are multiplied, and the distinct targets of each."""

    rows: Tensor  # [U] ascending
    targets: Targets  # of the U rows
    row_of: Tensor  # [D]: index into rows
    index: Tensor  # [M]: position of each of the caller's targets among the D

    def __len__(self) -> int:
        return len(self.rows)


def make_plan(rows: Tensor, targets: Tensor, vocabulary: int) -> Plan:
    """Sort (row, target) and drop duplicates; int64 holds 2^45 rows of 2^18 tokens."""
    if (rows[1:] > rows[:-1]).all():  # the usual layout: sorted already, one target per row
        each = torch.arange(len(rows) + 1, device=rows.device)
        return Plan(rows, Targets(each, targets.contiguous()), each[:-1], each[:-1])
    key, index = torch.unique(rows * vocabulary + targets, return_inverse=True)
    row, token = key // vocabulary, key % vocabulary
    distinct, row_of, counts = torch.unique_consecutive(
        row, return_inverse=True, return_counts=True
    )
    start = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return Plan(distinct, Targets(start, token), row_of, index)


@dataclass(frozen=True)
class HeadRows:
    """Hidden rows, the head's weight, and how their products become logits."""

    hidden: Tensor  # [T, H]
    weight: Tensor  # [V, H]
    plan: Plan
    transform: Transform  # of the U rows

    @property
    def sums(self) -> torch.dtype:
        return sums_dtype(self.hidden.dtype)

    def new_target_logit(self) -> Tensor:
        """[D]; NaN stays where a target is out of range."""
        return self.hidden.new_full((len(self.plan.row_of),), torch.nan, dtype=self.sums)

    def upstream(self, grad: Tensor, log_total: Tensor) -> Upstream:
        """grad [M]: g of the caller's targets; log_total [U]."""
        target = log_total.new_zeros(len(self.plan.row_of))
        tiles.add_at(target, self.plan.index, grad.to(target.dtype))
        row = tiles.add_at(log_total.new_zeros(len(self.plan)), self.plan.row_of, target)
        return Upstream(log_total, target, row)


def head_rows(
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    temperature: Tensor | None,
    softcap: float,
) -> HeadRows:
    plan, sums = make_plan(rows, targets, len(weight)), sums_dtype(hidden.dtype)
    transform = Transform(
        None if bias is None else bias.to(sums).contiguous(),
        None if temperature is None else temperature[plan.rows].to(sums),
        softcap,
    )
    return HeadRows(hidden, weight, plan, transform)


# ---- gradients ----


def target_coefficients(x: HeadRows, logp: Tensor, upstream: Upstream) -> tuple[Tensor, Tensor]:
    """grad_logits at the targets [D], and (sum g) / T of each row [U]; logp [D]."""
    row_of, temperature = x.plan.row_of, x.transform.temperature
    at_target, row = upstream.target - upstream.row[row_of] * logp.exp(), upstream.row
    if temperature is not None:
        at_target = at_target / temperature[row_of]
        row = row / temperature
    if x.transform.softcap:
        z = logp + upstream.log_total[row_of]
        capped = z if temperature is None else z * temperature[row_of]
        at_target = at_target * (1 - (capped / x.transform.softcap) ** 2)
    return at_target, row


def scale_residual(
    x: HeadRows, residual: Tensor, at_target: Tensor, row: Tensor, out: Tensor
) -> None:
    """Write dh = sum_t at_target_t W_t - row R of the rows that have R to `out` [T, H].

    No product of matrices is needed. 1,024 rows and targets at a time bound the float32 memory.
    """
    plan, step, total = x.plan, 1024, min(len(x.plan), len(residual))
    firsts = [*range(0, total, step), total]
    one_each = len(plan.row_of) == len(plan)
    ends = firsts if one_each else plan.targets.start[firsts].tolist()
    for part, first, last in zip(tiles.slices(total, step), ends, ends[1:], strict=False):
        dx = residual[part] * -row[part, None]
        for begin in range(first, last, step):
            some = slice(begin, min(begin + step, last))
            target_rows = x.weight[plan.targets.token[some]].to(dx.dtype)
            if one_each:
                dx.addcmul_(target_rows, at_target[some, None])
            else:
                index = plan.row_of[some] - part.start
                tiles.add_at(dx, index, target_rows.mul_(at_target[some, None]))
        out[plan.rows[part]] = dx.to(out.dtype)
