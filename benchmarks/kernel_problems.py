"""Problems for measuring and checking the kernels: shapes, realistic data, exact results.

The input of a language model's head is not noise, and speed and accuracy of a kernel can depend on
that: cut-cross-entropy skips tiles without probability, bfloat16 rounds large logits more. So:

- a few channels of hidden carry half of its norm with one sign, as after a model's last norm: they
  give all rows a common part of the logits, a prior over tokens;
- each row is moved towards the weight row of its target until the target's logit is a random margin
  above the log-sum-exp of the rest: about 40 % of the tokens are nearly certain, some surprising.

The constants below give mean log-probs near -1 and entropies near 1.7 nats at the sizes measured;
`Truth.facts` has the exact values.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

REST = 2.5  # entropy of the distribution without the target, in nats
MARGIN, MARGIN_SPREAD = 1.4, 3.7  # target logit above the log-sum-exp of the rest
OUTLIERS = 4  # channels
CHECKED = 512  # rows whose gradient is compared
BETA = 0.1

ABSENT: Any = None


@dataclass(frozen=True)
class Case:
    """One operation at one shape."""

    operation: str  # linear_logprob, logprob_from_logits, dpo_loss or linear_dpo
    rows: int  # that have a target; of dpo_loss: pairs
    hidden: int = 0
    vocabulary: int = 0
    dtype: str = "float32"
    head: str = ""  # frozen, trained
    sweeps: tuple[str, ...] = ()  # the series it is a point of: tokens, vocabulary
    pairs: int = 0  # of linear_dpo, whose rows are those of 2 * pairs completions
    prompt: int = 0  # tokens before each of them

    @property
    def name(self) -> str:
        sizes = "x".join(str(n) for n in (self.rows, self.hidden, self.vocabulary) if n)
        return " ".join(part for part in (self.operation, self.head, sizes, self.dtype) if part)

    @property
    def product(self) -> int:
        """G: floating-point operations of rows times the head."""
        return 2 * self.rows * self.hidden * self.vocabulary

    def flop(self, mode: str) -> int:
        """Operations that the result needs: forward G, gradient of hidden G, of the head G, a DPO
        loss's reference another G. Products that a contender repeats do not count."""
        reference = self.product if self.operation == "linear_dpo" else 0
        gradients = 2 if self.head == "trained" else 1
        return reference + self.product * (1 if mode == "forward" else 1 + gradients)

    def bytes_moved(self, mode: str) -> int:
        """The least traffic of logits: read once forward; read and written once backward."""
        size = self.rows * self.vocabulary * getattr(torch, self.dtype).itemsize
        return size if mode == "forward" else 3 * size


@dataclass(frozen=True)
class Problem:
    """Tensors of a case; which ones are present depends on the operation."""

    upstream: Tensor  # the upstream gradient, different for every output
    targets: Tensor = ABSENT  # [M]
    hidden: Tensor = ABSENT  # [T, H]
    weight: Tensor = ABSENT  # [V, H]
    rows: Tensor = ABSENT  # [M]
    logits: Tensor = ABSENT  # [M, V]
    logp: Tensor = ABSENT  # [C]
    ref_logp: Tensor = ABSENT  # [C]
    ref_hidden: Tensor = ABSENT  # [T, H]
    owner: Tensor = ABSENT  # [M]
    pairs: Tensor = ABSENT  # [P, 2]
    sequence_targets: Tensor = ABSENT  # [2 P, prompt + completion], -100 in prompts

    @property
    def leaves(self) -> list[Tensor]:
        """The tensors that require gradients, first the one whose gradient is compared."""
        tensors = (getattr(self, field.name) for field in fields(self))
        return [t for t in tensors if t is not None and t.requires_grad]

    def fresh(self) -> "Problem":
        """A copy whose logits may be overwritten."""
        return replace(self, logits=self.logits.detach().clone().requires_grad_())


# ---- data ----


def make_problem(case: Case, device: torch.device, seed: int = 0) -> Problem:
    g = torch.Generator(device).manual_seed(seed)
    return _MAKE[case.operation](case, g)


def _hidden(rows: int, weight: Tensor, targets: Tensor, g: torch.Generator) -> Tensor:
    """[rows, H] float32 that predict `targets` as described above."""
    (vocabulary, width), device = weight.shape, weight.device
    spread = math.sqrt(2 * max(0.5, math.log(vocabulary) - REST))  # of the logits
    noise = torch.randn(rows, width, generator=g, device=device) * spread / math.sqrt(2)
    loud = torch.randperm(width, generator=g, device=device)[:OUTLIERS]
    signs = torch.randn(len(loud), generator=g, device=device).sign()
    jitter = torch.randn(rows, len(loud), generator=g, device=device)
    noise[:, loud] = spread * math.sqrt(width / 2 / OUTLIERS) * signs * (1 + 0.1 * jitter)
    margin = MARGIN + MARGIN_SPREAD * torch.randn(rows, generator=g, device=device)
    wanted = margin + math.log(vocabulary) + spread**2 / 2
    own = weight[targets].float()
    lean = (wanted - (noise * own).sum(1)) / (own * own).sum(1)
    return noise.addcmul_(lean[:, None], own)


def _head(case: Case, g: torch.Generator) -> Tensor:
    weight = torch.randn(case.vocabulary, case.hidden, generator=g, device=g.device)
    return (weight / math.sqrt(case.hidden)).to(getattr(torch, case.dtype))


def _make_linear(case: Case, g: torch.Generator) -> Problem:
    weight = _head(case, g)
    targets = torch.randint(case.vocabulary, (case.rows,), generator=g, device=g.device)
    hidden = _hidden(case.rows, weight, targets, g).to(weight.dtype)
    return Problem(
        upstream=torch.randn(case.rows, generator=g, device=g.device),
        targets=targets,
        hidden=hidden.requires_grad_(),
        weight=weight.requires_grad_(case.head == "trained"),
        rows=torch.arange(case.rows, device=g.device),
    )


def _make_logits(case: Case, g: torch.Generator) -> Problem:
    linear = _make_linear(replace(case, hidden=case.hidden or 512), g)
    with torch.no_grad():
        logits = linear.hidden @ linear.weight.T
    targets, upstream = linear.targets, linear.upstream
    return Problem(upstream=upstream, targets=targets, logits=logits.requires_grad_())


def _make_pairs(case: Case, g: torch.Generator) -> Problem:
    """A quarter as many completions as pairs: trees share them."""
    completions = max(2, case.rows // 4)
    logp = -500 * torch.rand(completions, generator=g, device=g.device)
    ref_logp = logp + 5 * torch.randn(completions, generator=g, device=g.device)
    chosen = torch.randint(completions, (case.rows,), generator=g, device=g.device)
    step = torch.randint(1, completions, (case.rows,), generator=g, device=g.device)
    return Problem(
        upstream=torch.randn(case.rows, generator=g, device=g.device),
        logp=logp.requires_grad_(),
        ref_logp=ref_logp,
        pairs=torch.stack([chosen, (chosen + step) % completions], 1),
    )


def _make_linear_pairs(case: Case, g: torch.Generator) -> Problem:
    """2 * pairs sequences of prompt and completion, the chosen first; a reference close by."""
    weight, sequences = _head(case, g), 2 * case.pairs
    length = case.prompt + case.rows // sequences
    every = torch.randint(case.vocabulary, (sequences * length,), generator=g, device=g.device)
    hidden = _hidden(len(every), weight, every, g)
    noise = torch.randn(hidden.shape, generator=g, device=g.device)
    ref_hidden = noise.mul_(0.05).add_(hidden).to(weight.dtype)
    grid = torch.arange(len(every), device=g.device).view(sequences, length)
    rows = grid[:, case.prompt :].reshape(-1)
    sequence_targets = every.view(sequences, length).clone()
    sequence_targets[:, : case.prompt] = -100
    chosen = torch.arange(case.pairs, device=g.device)
    return Problem(
        upstream=torch.ones((), device=g.device),
        targets=every[rows],
        hidden=hidden.to(weight.dtype).requires_grad_(),
        weight=weight.requires_grad_(case.head == "trained"),
        rows=rows,
        ref_hidden=ref_hidden,
        owner=torch.arange(sequences, device=g.device).repeat_interleave(length - case.prompt),
        pairs=torch.stack([chosen, chosen + case.pairs], 1),
        sequence_targets=sequence_targets,
    )


_MAKE = {
    "linear_logprob": _make_linear,
    "logprob_from_logits": _make_logits,
    "dpo_loss": _make_pairs,
    "linear_dpo": _make_linear_pairs,
}


# ---- the truth, in float64 throughout ----


@dataclass(frozen=True)
class Truth:
    out: Tensor
    checked: Tensor  # rows of the first leaf
    gradient: Tensor  # of these
    facts: dict[str, float]  # about the data


@torch.no_grad()
def truth_of(problem: Problem) -> Truth:
    x = problem
    if x.logp is not None:
        out, gradient = _pair_losses(x.logp, x.ref_logp, x.pairs, x.upstream)
        return Truth(out, torch.arange(len(x.logp), device=out.device), gradient, {})
    logits = x.logits if x.logits is not None else _Product(x.hidden.detach()[x.rows], x.weight)
    logp, entropy = _log_probs(logits, x.targets)
    facts = {"mean_logp": logp.mean().item(), "mean_entropy": entropy.mean().item()}
    out, upstream, checked = logp, x.upstream.double(), torch.arange(len(logp), device=logp.device)
    if x.owner is not None:
        reference = _Product(x.ref_hidden[x.rows], x.weight)
        ref_logp, _ = _log_probs(reference, x.targets)
        zeros = logp.new_zeros(2 * len(x.pairs))
        sums = [zeros.index_add(0, x.owner, token) for token in (logp, ref_logp)]
        losses, slopes = _pair_losses(*sums, x.pairs, logp.new_ones(len(x.pairs)))
        out, upstream, checked = losses.mean(), slopes[x.owner] / len(x.pairs), x.rows
    gradient = _gradient(logits, x.targets, upstream, min(CHECKED, len(logp)))
    return Truth(out, checked[:CHECKED], gradient, facts)


@dataclass(frozen=True)
class _Product:
    """Logits of rows that are multiplied when they are asked for."""

    hidden: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.hidden)

    def __getitem__(self, part: slice) -> Tensor:
        return self.hidden[part].double() @ self.weight.double().T


def _chunks(logits: Tensor | _Product, rows: int) -> Iterator[tuple[slice, Tensor]]:
    """Log-softmax of a few rows at a time."""
    for begin in range(0, rows, 256):
        part = slice(begin, min(begin + 256, rows))
        yield part, logits[part].double().log_softmax(-1)


def _log_probs(logits: Tensor | _Product, targets: Tensor) -> tuple[Tensor, Tensor]:
    logp, entropy = [], []
    for part, log_p in _chunks(logits, len(targets)):
        logp.append(log_p.gather(1, targets[part, None]).squeeze(1))
        entropy.append(-(log_p.exp() * log_p).sum(1))
    return torch.cat(logp), torch.cat(entropy)


def _gradient(logits: Tensor | _Product, targets: Tensor, upstream: Tensor, rows: int) -> Tensor:
    """d(sum upstream logp) of the first rows: of logits, or of the hidden that made them."""
    parts = []
    for part, log_p in _chunks(logits, rows):
        grad = log_p.exp_().neg_()  # of logits
        grad.scatter_add_(1, targets[part, None], grad.new_ones(len(grad), 1))
        grad *= upstream[part, None]
        parts.append(grad @ logits.weight.double() if isinstance(logits, _Product) else grad)
    return torch.cat(parts)


def _pair_losses(
    logp: Tensor, ref_logp: Tensor, pairs: Tensor, upstream: Tensor
) -> tuple[Tensor, Tensor]:
    """DPO losses [P] and d(sum upstream losses) / d logp [C]."""
    ratio = logp.double() - ref_logp.double()
    margin = BETA * (ratio[pairs[:, 0]] - ratio[pairs[:, 1]])
    slope = -BETA * torch.sigmoid(-margin) * upstream.double()
    gradient = torch.zeros_like(ratio)
    gradient.index_add_(0, pairs[:, 0], slope).index_add_(0, pairs[:, 1], -slope)
    return -torch.nn.functional.logsigmoid(margin), gradient
