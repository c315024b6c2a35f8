"""What the row operations of softmax_rows.py work on: logits, targets, gradients, running sums.

A logit is z = cap(raw + bias) / T with cap(x) = c tanh(x / c), or cap(x) = x without a soft cap.
The softmax of a row is collected over tiles of the vocabulary as

    total = sum exp(z - offset)      weighted = sum exp(z - offset) (z - offset)

The offset stays near the row's largest logit so far. It moves only when a logit exceeds it by more
than MARGIN; the sums collected so far are rescaled then.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MARGIN = 8.0  # exp(MARGIN) = 2981 leaves room in float16, the narrowest type of a weight

LOW_PRECISION = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Transform:
    """How raw logits of R rows become z."""

    bias: Tensor | None = None  # [V], in the dtype of the sums
    temperature: Tensor | None = None  # [R], likewise
    softcap: float = 0.0  # 0: none

    def is_identity(self) -> bool:
        return self.bias is None and self.temperature is None and not self.softcap

    def rows(self, part: slice) -> "Transform":
        if self.temperature is None:
            return self
        return Transform(self.bias, self.temperature[part], self.softcap)


@dataclass(frozen=True)
class Targets:
    """The distinct targets of R rows: those of row r are token[start[r] : start[r + 1]]."""

    start: Tensor  # [R + 1], int64
    token: Tensor  # [D], int64, shared by all rows

    def rows(self, part: slice) -> "Targets":
        return Targets(self.start[part.start : part.stop + 1], self.token)


@dataclass(frozen=True)
class Upstream:
    """What turns logits of R rows into gradients: the normaliser, and g = d loss / d logp."""

    log_total: Tensor  # [R]: log sum exp z
    target: Tensor  # [D]: g of each target, shared by all rows
    row: Tensor  # [R]: sum of g over the row's targets

    def rows(self, part: slice) -> "Upstream":
        return Upstream(self.log_total[part], self.target, self.row[part])


@dataclass(frozen=True)
class RunningSoftmax:
    """The softmax of R rows over the tiles seen so far, updated in place."""

    offset: Tensor  # [R]
    total: Tensor  # [R]
    weighted: Tensor | None  # [R], if the entropy is wanted
    target_logit: Tensor  # [D]: z of each target, shared by all rows
    residual: Tensor | None  # [R, H]: the caller's sum over the same weights, rescaled with them

    @classmethod
    def start(
        cls,
        rows: int,
        target_logit: Tensor,
        *,
        entropy: bool = False,
        residual: Tensor | None = None,
    ) -> "RunningSoftmax":
        """Before the first tile."""
        offset = target_logit.new_full((rows,), -torch.inf)
        weighted = target_logit.new_zeros(rows) if entropy else None
        return cls(offset, target_logit.new_zeros(rows), weighted, target_logit, residual)

    def rows(self, part: slice) -> "RunningSoftmax":
        weighted = None if self.weighted is None else self.weighted[part]
        residual = None if self.residual is None else self.residual[part]
        return RunningSoftmax(
            self.offset[part], self.total[part], weighted, self.target_logit, residual
        )

    def log_total(self) -> Tensor:
        return self.offset + self.total.log()

    def logp(self, row_of: Tensor) -> Tensor:
        """[D]: log-probs of the targets, row_of [D] their rows. The difference of z and the offset
        is exact, unlike the sum of offset and log."""
        return (self.target_logit - self.offset[row_of]) - self.total.log()[row_of]

    def entropy(self) -> Tensor:
        assert self.weighted is not None
        return self.total.log() - self.weighted / self.total


def sums_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of statistics and sums over values of `dtype`."""
    return torch.promote_types(dtype, torch.float32)


def temperature_of_rows(temperature: float | Tensor, rows: Tensor) -> Tensor | None:
    """[R], one per row of `rows` [R, ...]; None if it is 1 everywhere."""
    if isinstance(temperature, Tensor):
        return temperature
    if temperature == 1.0:
        return None
    return rows.new_full(rows.shape[:1], temperature, dtype=sums_dtype(rows.dtype))
