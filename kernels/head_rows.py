"""Distinct hidden rows on their way through the head, and their gradients once g is known.

Shapes: T hidden rows of H channels, V tokens; M, D and U as in row_plan.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import softmax_rows, tiles
from .row_plan import Plan
from .running_softmax import Transform, Upstream, sums_dtype


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
        target = self.plan.per_target(grad.to(log_total.dtype))
        return Upstream(log_total, target, self.plan.per_row(target))


def head_rows(
    hidden: Tensor,
    weight: Tensor,
    plan: Plan,
    bias: Tensor | None,
    temperature: Tensor | None,
    softcap: float,
) -> HeadRows:
    sums = sums_dtype(hidden.dtype)
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


def row_gradients(
    x: HeadRows, residual: Tensor, at_target: Tensor, row: Tensor, out: Tensor
) -> None:
    """Write dh = sum_t at_target_t W_t - row R of the rows that have R to `out` [T, H].

    No product of matrices is needed. In torch, 1,024 rows and targets at a time bound the memory.
    """
    plan, step, total = x.plan, 1024, min(len(x.plan), len(residual))
    if out.is_cuda and row.dtype == torch.float32:
        on_gpu = softmax_rows.triton_module("target_rows_triton").row_gradients
        weight = x.weight if x.weight.stride(1) == 1 else x.weight.contiguous()
        on_gpu(residual[:total], row, plan.targets, at_target, weight, plan.rows, out)
        return
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
