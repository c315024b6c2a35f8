"""What a stage minimises and logs, as pure functions of log-probs that somebody else computed.

Names, signs and normalisation are TRL's (1.16, dpo_trainer.py and sft_trainer.py), so that figures
can be compared; tests/training/test_trl_parity.py compares the two. The preference loss itself is
malt_fast.kernels.dpo_loss.
"""

from torch import Tensor

from malt_fast.kernels import DPOLoss


def sft_loss(token_logp: Tensor, num_items: Tensor | float | None = None) -> Tensor:
    """Negative log-likelihood, averaged over target tokens (TRL's SFTTrainer, loss_type "nll").

    token_logp [M]: log-probs of target tokens. num_items: what to divide by, the target tokens of
    the whole optimiser step when this is one of several micro-batches; default M. A scalar.
    """
    return -token_logp.sum() / (len(token_logp) if num_items is None else num_items)


def dpo_metrics(out: DPOLoss, logp: Tensor, pairs: Tensor) -> dict[str, Tensor]:
    """TRL's metrics of each pair, [P] each, from dpo_loss and what went into it."""
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
