"""Random heads, and their log-probs written out independently of the kernels."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from malt_fast.kernels import linear_logprob
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True)
class Case:
    hidden: Tensor
    weight: Tensor
    rows: Tensor
    targets: Tensor
    bias: Tensor | None = None
    temperature: float | Tensor = 1.0
    softcap: float | None = None

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "bias": self.bias,
            "temperature": self.temperature,
            "logit_softcap": self.softcap,
        }

    def with_gradients(self, *, head: bool) -> "Case":
        """Leaves that require gradients: hidden, and with `head` weight and bias."""
        return replace(
            self,
            hidden=self.hidden.clone().requires_grad_(),
            weight=self.weight.clone().requires_grad_(head),
            bias=None if self.bias is None else self.bias.clone().requires_grad_(head),
        )

    def leaves(self) -> list[Tensor]:
        tensors = (self.hidden, self.weight, self.bias)
        return [tensor for tensor in tensors if tensor is not None and tensor.requires_grad]


def make_case(
    *shape: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    bias: bool = False,
    temperature: float | str = 1.0,
    softcap: float | None = None,
) -> Case:
    """shape: T, H, V, M."""
    t, h, v, m = shape
    g = torch.Generator().manual_seed(seed)
    return Case(
        hidden=torch.randn(t, h, generator=g).to(dtype),
        weight=torch.randn(v, h, generator=g).to(dtype),
        rows=torch.randint(t, (m,), generator=g),  # with replacement: rows repeat
        targets=torch.randint(v, (m,), generator=g),
        bias=torch.randn(v, generator=g).to(dtype) if bias else None,
        temperature=torch.rand(t, generator=g) + 0.3 if temperature == "rows" else temperature,
        softcap=softcap,
    )


cases = st.builds(
    lambda shape, **options: make_case(*shape, **options),
    shape=st.tuples(*(st.integers(*ends) for ends in ((1, 9), (1, 17), (1, 70), (0, 40)))),
    seed=st.integers(0, 99),
    dtype=st.sampled_from(DTYPES),
    bias=st.booleans(),
    temperature=st.sampled_from([1.0, 0.3, "rows"]),
    softcap=st.sampled_from([None, 2.0, 30.0]),
)


def logits(case: Case, dtype: torch.dtype = torch.float64) -> Tensor:
    """[M, V], in `dtype` throughout."""
    bias = None if case.bias is None else case.bias.to(dtype)
    z = torch.nn.functional.linear(case.hidden.to(dtype)[case.rows], case.weight.to(dtype), bias)
    if case.softcap is not None:
        z = case.softcap * torch.tanh(z / case.softcap)
    if isinstance(case.temperature, Tensor):
        return z / case.temperature.to(dtype)[case.rows, None]
    return z / case.temperature


def written_out(case: Case, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Log-probs [M] and entropies [M] by log_softmax and gather."""
    logp = logits(case, dtype).log_softmax(-1)
    p_logp = torch.where(logp == -torch.inf, 0, logp.exp() * logp)
    return logp.gather(1, case.targets[:, None]).squeeze(1), -p_logp.sum(1)


def upstream(case: Case, seed: int = 0) -> Tensor:
    """A different number for every target."""
    return torch.randn(len(case.rows), generator=torch.Generator().manual_seed(seed + 1))


def run(case: Case, **more: Any) -> Any:
    """linear_logprob of the case."""
    return linear_logprob(
        case.hidden, case.weight, case.rows, case.targets, **case.settings, **more
    )
