"""Losses and metrics of a stage, as pure functions of log-probs.

Names, signs and normalisation are those of TRL 1.16 (dpo_trainer.py, sft_trainer.py), so that
figures can be compared, as tests/training/test_trl_parity.py does. The preference loss itself is
malt_fast.kernels.dpo_loss.
"""

from torch import Tensor

from malt_fast.kernels import DPOLoss


def sft_loss(token_logp: Tensor, num_items: Tensor | float | None = None) -> Tensor:
    """Negative log-likelihood, averaged over target tokens (TRL's SFTTrainer, loss_type "nll").

    token_logp [M]: log-probs of target tokens. num_items: the divisor; the target tokens of the
    whole optimiser step where this is one of its micro-batches, M by default. Returns a scalar.
    """
    return -token_logp.sum() / (len(token_logp) if num_items is None else num_items)


def dpo_metrics(out: DPOLoss, logp: Tensor, pairs: Tensor) -> dict[str, Tensor]:
    """TRL's metrics, [P] each. logp [K]: of completions; pairs [P, 2]: indices into it."""
    good, bad = out.chosen_rewards, out.rejected_rewards
    chosen, rejected = logp.detach()[pairs.T]
    return {
        "rewards/chosen": good,
        "rewards/rejected": bad,
        "rewards/accuracies": (good > bad).to(good.dtype),
        "rewards/margins": out.margins,
        "logps/chosen": chosen,
        "logps/rejected": rejected,
    }
