"""DPO straight from hidden rows: log-probs, loss and gradients, without a logits matrix.

    logp[c] = sum of the log-probs of the targets of completion c       (linear_logprob.py)
    loss    = sum over pairs of dpo(logp, ref_logp) / num_items         (dpo_loss.py)

The two are composed: 2 matrix products for the policy, 3 with a trained head, and 1 for a reference
given as hidden rows. What is known of rows and targets is found out once for both.
"""

from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor

from . import checks
from .dpo_loss import Preference, PreferenceOptions, dpo_loss
from .linear_logprob import Head, HeadOptions, check_operands, checked_plan, linear_logprob
from .running_softmax import sums_dtype


class LinearDPO(NamedTuple):
    loss: Tensor  # scalar, the only one with a gradient
    losses: Tensor  # [P]
    chosen_rewards: Tensor  # [P]
    rejected_rewards: Tensor  # [P]
    logp: Tensor  # [C]
    ref_logp: Tensor  # [C]


class LinearDPOOptions(HeadOptions, PreferenceOptions, total=False):
    """Keywords of linear_dpo."""

    ref_logp: Tensor | None
    ref_hidden: Tensor | None
    num_items: float | None
    check: bool


def linear_dpo(
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    owner: Tensor,
    pairs: Tensor,
    **options: Unpack[LinearDPOOptions],
) -> LinearDPO:
    """The DPO loss of completions whose tokens are predicted by hidden rows.

    hidden, weight, rows, targets and the options bias, temperature, logit_softcap and check: as in
    linear_logprob. owner [M]: the completion of each target. pairs [P, 2]: (chosen, rejected)
    completions. The reference is one of two options: ref_logp [C], the log-probs of the completions
    under it, or ref_hidden [T, H], its hidden rows, which go through the same head.
    beta (required) and the other options: as in dpo_loss. num_items: divisor of the sum over pairs,
    default P; with gradient accumulation, the number of pairs of all micro-batches.

    loss is differentiable once in hidden, weight and bias. Raises ValueError for what does not fit.
    """
    given: dict[str, Any] = dict(options)
    ref_logp, ref_hidden = given.pop("ref_logp", None), given.pop("ref_hidden", None)
    num_items, check = given.pop("num_items", None), given.pop("check", True)
    named = [name for name in Preference._fields if name in given]
    preference = Preference(**{name: given.pop(name) for name in named})
    head = Head(weight, **given)  # refuses keywords that nothing takes
    _check(hidden, rows, owner, pairs, ref_logp, ref_hidden)
    owner, pairs = owner.long(), pairs.long()
    completions = _count(owner, pairs) if ref_logp is None else len(ref_logp)
    if check:
        checks.in_range(("owner", owner, completions), ("pairs", pairs, completions))
    check_operands(hidden, head, rows, targets)
    plan = None
    if not torch.compiler.is_compiling():
        plan = checked_plan(rows.long(), targets.long(), hidden, head, check=check)
    if ref_logp is None:
        with torch.no_grad():
            token_logp = linear_logprob(ref_hidden, weight, rows, targets, plan=plan, **given)
        ref_logp = per_completion(token_logp, owner, completions)
    dtype = sums_dtype(torch.promote_types(hidden.dtype, weight.dtype))
    ref_logp = ref_logp.detach().to(dtype)
    lengths = owner.new_zeros(completions).index_add(0, owner, torch.ones_like(owner))
    if preference.mean_chosen_length is None:
        mean_length = lengths[pairs[:, 0]].to(dtype).mean()
        preference = preference._replace(mean_chosen_length=mean_length)
    items = float(max(1, len(pairs))) if num_items is None else float(num_items)
    token_logp = linear_logprob(hidden, weight, rows, targets, plan=plan, **given)
    logp = per_completion(token_logp, owner, completions)
    has_lengths = check and preference.loss_type == "ipo"  # what of pairs is not yet checked
    out = dpo_loss(logp, ref_logp, pairs, lengths, check=has_lengths, **preference._asdict())
    rewards = (out.chosen_rewards, out.rejected_rewards)
    return LinearDPO(
        out.losses.sum() / items, out.losses.detach(), *rewards, logp.detach(), ref_logp
    )


def per_completion(token_logp: Tensor, owner: Tensor, completions: int) -> Tensor:
    """[C]: token log-probs [M] summed over the targets of each completion, in a fixed order."""
    zeros = token_logp.new_zeros(completions)
    if token_logp.is_cuda:  # index_add has no fixed order there
        return zeros.index_put((owner,), token_logp, accumulate=True)
    return zeros.index_add(0, owner, token_logp)


def _count(owner: Tensor, pairs: Tensor) -> int:
    ends = [int(tensor.max()) + 1 for tensor in (owner, pairs) if tensor.numel()]
    return max(ends, default=0)


def _check(
    hidden: Tensor,
    rows: Tensor,
    owner: Tensor,
    pairs: Tensor,
    ref_logp: Tensor | None,
    ref_hidden: Tensor | None,
) -> None:
    checks.integers(owner=owner)
    checks.pairs(pairs)
    checks.shape("owner", owner, tuple(rows.shape), "one per target")
    given = {"owner": owner, "pairs": pairs, "ref_logp": ref_logp, "ref_hidden": ref_hidden}
    checks.same_device(hidden.device, **given)
    if (ref_logp is None) == (ref_hidden is None):
        raise ValueError("the reference is missing or given twice: give ref_logp or ref_hidden")
    if ref_logp is not None and ref_logp.ndim != 1:
        raise ValueError(f"ref_logp must be [C], one per completion, got {list(ref_logp.shape)}")
    if ref_hidden is not None:
        checks.shape("ref_hidden", ref_hidden, tuple(hidden.shape), "the shape of hidden")
