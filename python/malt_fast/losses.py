"""SFT and DPO as pure functions of log-probs that somebody else computed.

Names, signs and normalisation are TRL's (1.16, dpo_trainer.py and sft_trainer.py), so that figures
can be compared; tests/test_trl_parity.py holds the two side by side. Unlike TRL, whose rows are
[chosen..., rejected...], a completion appears once however many pairs share it, and pairs index it.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LossType = Literal["sigmoid", "ipo", "hinge"]


def sft_loss(token_logp: Tensor, num_items: Tensor | float | None = None) -> Tensor:
    """Negative log-likelihood, averaged over target tokens (TRL's SFTTrainer, loss_type "nll").

    token_logp [M]: log-probs of target tokens. num_items: what to divide by, the target tokens of
    the whole optimiser step when this is one of several micro-batches; default M. A scalar.
    """
    return -token_logp.sum() / (len(token_logp) if num_items is None else num_items)


def dpo_loss(
    logp: Tensor,
    ref_logp: Tensor,
    pairs: Tensor,
    lengths: Tensor,
    *,
    beta: float,
    loss_type: LossType = "sigmoid",
    label_smoothing: float = 0.0,
    rpo_alpha: float | None = None,
    mean_chosen_length: Tensor | float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Preference loss of each pair, and TRL's metrics of each pair.

    logp, ref_logp [C]: log-prob of each completion, summed over its tokens, under policy and
    reference; pairs int64 [P, 2]: (chosen, rejected); lengths [C]: tokens of each completion.
    With r = logp - ref_logp and d = r[chosen] - r[rejected], the loss of a pair is

        sigmoid   -(1 - e) log sigma(beta d) - e log sigma(-beta d)
        hinge     max(0, 1 - beta d)
        ipo       (r[chosen] / length[chosen] - r[rejected] / length[rejected] - 1 / (2 beta))^2

    sigmoid: DPO, arXiv 2305.18290 eq. 7. e = label_smoothing makes it conservative DPO (Mitchell
    2023): the expected loss when a share e of the labels is flipped. TRL 1.16 has no such switch on
    "sigmoid"; there it is 2 (1 - e) "sigmoid" - (1 - 2 e) "robust". hinge: SLiC, arXiv 2305.10425.
    ipo: arXiv 2310.12036 eq. 17 with tau = beta, per token as TRL does it.

    rpo_alpha adds rpo_alpha * NLL of the chosen (RPO, arXiv 2404.19733), as TRL's loss_type
    ["sigmoid", "sft"] with loss_weights [1, rpo_alpha]: a mean over all chosen tokens, a completion
    counting once a pair. The pairs share that denominator, so mean_chosen_length (chosen tokens a
    pair) must be that of the whole optimiser step when this is one of several micro-batches.

    Returns losses [P], whose mean is the loss, and detached metrics, [P] each.
    """
    chosen, rejected = pairs.unbind(1)
    ratio = logp - ref_logp
    losses = _preference(
        ratio[chosen],
        ratio[rejected],
        lengths[chosen],
        lengths[rejected],
        beta,
        loss_type,
        label_smoothing,
    )
    if rpo_alpha is not None:
        if mean_chosen_length is None:
            mean_chosen_length = lengths[chosen].to(logp.dtype).mean()
        losses = losses - rpo_alpha * logp[chosen] / mean_chosen_length
    return losses, _metrics(logp.detach(), beta * ratio.detach(), chosen, rejected)


def _preference(
    chosen: Tensor,
    rejected: Tensor,
    chosen_length: Tensor,
    rejected_length: Tensor,
    beta: float,
    loss_type: LossType,
    label_smoothing: float,
) -> Tensor:
    if label_smoothing and loss_type != "sigmoid":
        raise ValueError(
            f"label_smoothing belongs to loss_type sigmoid, not {loss_type}: set it to 0"
        )
    if loss_type == "ipo":
        return (chosen / chosen_length - rejected / rejected_length - 1 / (2 * beta)) ** 2
    margin = beta * (chosen - rejected)
    if loss_type == "hinge":
        return torch.relu(1 - margin)
    if loss_type != "sigmoid":
        raise ValueError(f"loss_type must be sigmoid, ipo or hinge, not {loss_type!r}")
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


def _metrics(logp: Tensor, rewards: Tensor, chosen: Tensor, rejected: Tensor) -> dict[str, Tensor]:
    good, bad = rewards[chosen], rewards[rejected]
    return {
        "rewards/chosen": good,
        "rewards/rejected": bad,
        "rewards/accuracies": (good > bad).to(good.dtype),
        "rewards/margins": good - bad,
        "logps/chosen": logp[chosen],
        "logps/rejected": logp[rejected],
    }
