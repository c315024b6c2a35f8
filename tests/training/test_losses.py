"""Losses and metrics against values computed by hand."""

import pytest
import torch
from malt_fast.kernels import dpo_loss

from malt_fast.training.losses import dpo_metrics, sft_loss


def test_sft_is_a_mean_over_tokens():
    token_logp = torch.tensor([-1.0, -2.0, -6.0])
    assert sft_loss(token_logp).item() == pytest.approx(3.0)
    assert sft_loss(token_logp, 12).item() == pytest.approx(0.75)


def test_metrics_of_each_pair():
    logp = torch.tensor([-3.0, -4.0, -5.0], requires_grad=True)
    ref_logp, pairs = torch.tensor([-3.5, -3.0, -5.0]), torch.tensor([[0, 1], [1, 2], [2, 2]])
    out = dpo_loss(logp, ref_logp, pairs, beta=0.5)
    metrics = dpo_metrics(out, logp, pairs)
    assert not any(values.requires_grad for values in metrics.values())
    assert {name: values.tolist() for name, values in metrics.items()} == {
        "rewards/chosen": [0.25, -0.5, 0.0],
        "rewards/rejected": [-0.5, 0.0, 0.0],
        "rewards/accuracies": [1.0, 0.0, 0.0],
        "rewards/margins": [0.75, -0.5, 0.0],
        "logps/chosen": [-3.0, -4.0, -5.0],
        "logps/rejected": [-4.0, -5.0, -5.0],
    }
