"""Which hidden rows go through the head, and the distinct targets of each.

Shapes: M given pairs (row, target), D distinct ones, U distinct rows.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .running_softmax import Targets


@dataclass(frozen=True)
class Plan:
    """Which rows are multiplied, and the distinct targets of each."""

    rows: Tensor  # [U] ascending
    targets: Targets  # of the U rows
    row_of: Tensor  # [D]: index into rows
    index: Tensor  # [M]: position of each given pair among the D
    order: Tensor | None  # [M]: sorts the given pairs; None if they are sorted
    first: Tensor  # [D + 1]: those of distinct pair d are first[d] : first[d + 1] of the sorted

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device) -> "Plan":
        row, start, token, row_of, index, first = (
            tensor.to(device, non_blocking=True)
            for tensor in (
                self.rows,
                *vars(self.targets).values(),
                self.row_of,
                self.index,
                self.first,
            )
        )
        order = None if self.order is None else self.order.to(device, non_blocking=True)
        return Plan(row, Targets(start, token), row_of, index, order, first)

    def per_target(self, values: Tensor) -> Tensor:
        """[D]: sums of values [M]."""
        if len(self.row_of) == len(values):
            return values if self.order is None else values[self.order]
        return _segment_sums(values if self.order is None else values[self.order], self.first)

    def per_row(self, values: Tensor) -> Tensor:
        """[U]: sums of values [D]."""
        if len(self) == len(values):
            return values
        return _segment_sums(values, self.targets.start)


class Survey(NamedTuple):
    """What one wait for the device tells about rows and targets; there is at least one."""

    rows: tuple[int, int]  # least, largest
    targets: tuple[int, int]
    positive: bool  # whether all temperatures are
    ascending: bool  # whether (row, target) never falls
    distinct: int  # D, if ascending
    used: int  # U, if ascending


def survey(rows: Tensor, targets: Tensor, temperature: Tensor | None = None) -> Survey:
    """rows, targets [M], M > 0; temperature, any shape."""
    next_row, next_target = rows.diff(), targets.diff()
    new_row = next_row != 0
    falls = (next_row < 0) | (~new_row & (next_target < 0))
    facts = [
        *rows.aminmax(),
        *targets.aminmax(),
        rows.new_ones(()) if temperature is None else (temperature > 0).all(),
        ~falls.any(),
        (new_row | (next_target != 0)).sum() + 1,
        new_row.sum() + 1,
    ]
    a, b, c, d, positive, ascending, distinct, used = torch.stack(
        [f.long() for f in facts]
    ).tolist()
    return Survey((a, b), (c, d), bool(positive), bool(ascending), distinct, used)


def make_plan(rows: Tensor, targets: Tensor, known: Survey | None = None) -> Plan:
    """rows, targets [M], int64. Waits once for a GPU unless `known`, once more if not in order."""
    if len(rows) == 0:
        return _sorted_plan(rows, targets, None, 0, 0)
    known = survey(rows, targets) if known is None else known
    order = None
    if not known.ascending:
        low, high = known.targets  # int64 holds 2^45 rows of 2^18 tokens
        _, order = torch.sort(rows * (high - low + 1) + (targets - low), stable=True)
        rows, targets = rows[order], targets[order]
        known = survey(rows, targets)
    return _sorted_plan(rows, targets, order, known.distinct, known.used)


def _sorted_plan(
    rows: Tensor, targets: Tensor, order: Tensor | None, distinct: int, used: int
) -> Plan:
    m = len(rows)
    each = torch.arange(m + 1, device=rows.device)
    index, first, token = each[:-1], each, targets.contiguous()
    if distinct < m:
        index = _numbers(rows, targets)
        first = torch.searchsorted(index, each[: distinct + 1])
        rows, token = rows[first[:-1]], targets[first[:-1]]
    row_of, start = each[:distinct], each[: distinct + 1]
    if used < distinct:
        row_of = _numbers(rows)
        start = torch.searchsorted(row_of, each[: used + 1])
        rows = rows[start[:-1]]
    if order is not None:  # from the given to the sorted
        index = torch.empty_like(index).index_copy_(0, order, index)
    return Plan(rows, Targets(start, token), row_of, index, order, first)


def _numbers(*columns: Tensor) -> Tensor:
    """[n]: 0, and one more wherever a column [n] differs from the entry before."""
    new = torch.stack([column.diff() != 0 for column in columns]).any(0)
    return torch.nn.functional.pad(new.cumsum(0), (1, 0))


def _segment_sums(values: Tensor, offsets: Tensor) -> Tensor:
    """[n]: sums of values[offsets[i] : offsets[i + 1]], in order."""
    return torch.segment_reduce(values, "sum", offsets=offsets)
