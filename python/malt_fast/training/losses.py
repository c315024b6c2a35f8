"""Losses and metrics of a stage, as pure functions of log-probs.

Names, signs and normalisation are those of TRL 1.16 (dpo_trainer.py, kto_trainer.py,
sft_trainer.py), so that figures can be compared, as tests/training/test_trl_parity.py does. The
loss of a pair itself is malt_fast.kernels.dpo_loss.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from malt_fast.config.stages import DPOStageSettings
from malt_fast.kernels import DPOLoss, dpo_loss
from malt_fast.training.packing import Batch, Items

Metrics = dict[str, tuple[Tensor, Tensor]]  # values and which of them count (1 or 0), [n] each


def sft_loss(token_logp: Tensor, num_items: Tensor | float | None = None) -> Tensor:
    """Negative log-likelihood, averaged over target tokens (TRL's SFTTrainer, loss_type "nll").

    token_logp [M]: log-probs of target tokens. num_items: the divisor; the target tokens of the
    whole optimiser step where this is one of its micro-batches, M by default. Returns a scalar.
    """
    return -token_logp.sum() / (len(token_logp) if num_items is None else num_items)


def dpo_metrics(out: DPOLoss, logp: Tensor, pairs: Tensor) -> Metrics:
    """TRL's metrics of P pairs. logp [K]: of completions; pairs [P, 2]: indices into it."""
    good, bad = out.chosen_rewards, out.rejected_rewards
    chosen, rejected = logp.detach()[pairs.T]
    values = {
        "rewards/chosen": good,
        "rewards/rejected": bad,
        "rewards/accuracies": (good > bad).to(good.dtype),
        "logps/chosen": chosen,
        "logps/rejected": rejected,
    }
    return {name: (value, torch.ones_like(value)) for name, value in values.items()}


class KTOLoss(NamedTuple):
    """[L] each. Rewards, beta times the log-ratio of policy and reference, have no gradient."""

    losses: Tensor
    rewards: Tensor


def kto_loss(
    logp: Tensor,
    ref_logp: Tensor,
    desirable: Tensor,
    kl: Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> KTOLoss:
    """Loss and reward of each labelled completion (KTO, arXiv 2402.01306 eq. 7).

        w (1 - sigma(s beta (logp - ref_logp - kl)))

    with s = 1 and w = desirable_weight for a desirable one, s = -1 and w = undesirable_weight for
    another. logp, ref_logp [L]; desirable bool [L]; kl, a scalar: the step's estimate of the KL
    divergence of policy and reference. At step 0 all log-ratios are 0, and the loss is w / 2.
    """
    ratio = logp - ref_logp
    sign = torch.where(desirable, 1.0, -1.0)
    weight = torch.where(desirable, desirable_weight, undesirable_weight)
    losses = weight * torch.sigmoid(-sign * beta * (ratio - kl.detach()))
    return KTOLoss(losses, beta * ratio.detach())


def kto_metrics(out: KTOLoss, logp: Tensor, desirable: Tensor) -> Metrics:
    """TRL's metrics of L labelled completions; the desirable ones are "chosen"."""
    good = desirable.to(logp.dtype)
    sides = {"chosen": good, "rejected": 1 - good}
    values = {"rewards": out.rewards, "logps": logp.detach()}
    return {f"{what}/{side}": (v, sides[side]) for what, v in values.items() for side in sides}


# ---- a batch of both ----


def preference_loss(
    logp: Tensor,
    ref_logp: Tensor,
    kl: Tensor,
    batch: Batch,
    items: Items,
    settings: DPOStageSettings,
) -> tuple[Tensor, Metrics]:
    """A batch's share of a step's loss, a scalar, and its metrics.

    logp, ref_logp [K]: of the batch's completions. With both kinds of rows, rewards and log-probs
    in the metrics are those of pairs.
    """
    loss, metrics = logp.new_zeros(()), Metrics()
    if len(batch.pairs):
        assert settings.on_pairs is not None
        of_pairs = dpo_loss(
            logp,
            ref_logp,
            batch.pairs,
            batch.lengths,
            beta=settings.beta,
            loss_type=settings.on_pairs,
            label_smoothing=settings.label_smoothing,
            rpo_alpha=settings.rpo_alpha,
            mean_chosen_length=items.chosen,
            check=False,
        )
        losses = of_pairs.losses
        loss = loss + losses.sum() / items.pairs
        metrics |= dpo_metrics(of_pairs, logp, batch.pairs)
        metrics["loss/sigmoid"] = losses.detach(), torch.ones_like(losses)
    if len(batch.labelled):
        logp, ref_logp = logp[batch.labelled], ref_logp[batch.labelled]
        of_labels = kto_loss(
            logp,
            ref_logp,
            batch.desirable,
            kl,
            beta=settings.beta,
            desirable_weight=settings.desirable_weight,
            undesirable_weight=settings.undesirable_weight,
        )
        loss = loss + of_labels.losses.sum() / items.labelled
        if not items.pairs:
            metrics |= kto_metrics(of_labels, logp, batch.desirable)
        metrics["loss/kto"] = of_labels.losses.detach(), torch.ones_like(of_labels.losses)
    return loss, metrics


def metric_names(*, pairs: bool, labelled: bool) -> list[str]:
    """The metrics of a stage that learns from pairs, labelled completions or both."""
    sides = [f"{what}/{side}" for what in ("rewards", "logps") for side in ("chosen", "rejected")]
    names = [*sides, "rewards/accuracies"] if pairs else sides
    names += ["kl"] if labelled else []
    return [*names, "loss/sigmoid", "loss/kto"] if pairs and labelled else names
