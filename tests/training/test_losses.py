"""Losses and metrics against values computed by hand."""

import math

import pytest
import torch
from malt_fast.kernels import dpo_loss

from malt_fast.training.losses import dpo_metrics, kto_loss, kto_metrics, sft_loss


def test_sft_is_a_mean_over_tokens():
    token_logp = torch.tensor([-1.0, -2.0, -6.0])
    assert sft_loss(token_logp).item() == pytest.approx(3.0)
    assert sft_loss(token_logp, 12).item() == pytest.approx(0.75)


def test_metrics_of_each_pair():
    logp = torch.tensor([-3.0, -4.0, -5.0], requires_grad=True)
    ref_logp, pairs = torch.tensor([-3.5, -3.0, -5.0]), torch.tensor([[0, 1], [1, 2], [2, 2]])
    out = dpo_loss(logp, ref_logp, pairs, beta=0.5)
    metrics = {name: values for name, (values, _) in dpo_metrics(out, logp, pairs).items()}
    assert not any(values.requires_grad for values in metrics.values())
    assert {name: values.tolist() for name, values in metrics.items()} == {
        "rewards/chosen": [0.25, -0.5, 0.0],
        "rewards/rejected": [-0.5, 0.0, 0.0],
        "rewards/accuracies": [1.0, 0.0, 0.0],
        "logps/chosen": [-3.0, -4.0, -5.0],
        "logps/rejected": [-4.0, -5.0, -5.0],
    }


def test_kto_pulls_up_what_is_desirable_and_pushes_down_the_rest():
    logp = torch.tensor([-3.0, -4.0, -5.0], requires_grad=True)
    ref_logp, desirable = torch.tensor([-3.5, -3.0, -5.0]), torch.tensor([True, True, False])
    weights = {"desirable_weight": 2.0, "undesirable_weight": 3.0}
    out = kto_loss(logp, ref_logp, desirable, torch.tensor(0.5), beta=0.5, **weights)
    sigma = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    expected = [2 * (1 - sigma(0)), 2 * (1 - sigma(-0.75)), 3 * (1 - sigma(0.25))]
    assert out.losses.tolist() == pytest.approx(expected)
    assert out.rewards.tolist() == [0.25, -0.5, 0.0] and not out.rewards.requires_grad
    out.losses.sum().backward()
    assert (logp.grad.sign() == torch.tensor([-1, -1, 1])).all()
    metrics = kto_metrics(out, logp, desirable)
    values, which = metrics["logps/rejected"]
    assert values[which == 1].tolist() == [-5.0]
    values, which = metrics["rewards/chosen"]
    assert values[which == 1].tolist() == [0.25, -0.5]
