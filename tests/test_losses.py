"""Losses against formulas written in plain Python floats."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from malt_fast.losses import dpo_loss, sft_loss


def log_sigmoid(x):
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def plain(logp, ref, pair, lengths, beta, loss_type, e):
    """Loss of one pair, from the formulas of the papers."""
    c, r = pair
    chosen, rejected = logp[c] - ref[c], logp[r] - ref[r]
    if loss_type == "ipo":
        return (chosen / lengths[c] - rejected / lengths[r] - 1 / (2 * beta)) ** 2
    d = beta * (chosen - rejected)
    if loss_type == "hinge":
        return max(0.0, 1 - d)
    return -(1 - e) * log_sigmoid(d) - e * log_sigmoid(-d)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.tuples(st.floats(-60, 0), st.floats(-60, 0), st.integers(1, 9)), min_size=2, max_size=6
    ),
    picks=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8),
    beta=st.sampled_from([0.05, 0.2, 1.0]),
    loss_type=st.sampled_from(["sigmoid", "ipo", "hinge"]),
    e=st.sampled_from([0.0, 0.1]),
    rpo_alpha=st.sampled_from([None, 0.5]),
)
def test_dpo_is_the_formula_of_each_pair(values, picks, beta, loss_type, e, rpo_alpha):
    logp, ref, lengths = zip(*values, strict=True)
    pairs = [(a % len(values), b % len(values)) for a, b in picks]
    e = e if loss_type == "sigmoid" else 0.0
    losses, metrics = dpo_loss(
        torch.tensor(logp, dtype=torch.float64),
        torch.tensor(ref, dtype=torch.float64),
        torch.tensor(pairs),
        torch.tensor(lengths),
        beta=beta,
        loss_type=loss_type,
        label_smoothing=e,
        rpo_alpha=rpo_alpha,
    )
    expected = [plain(logp, ref, pair, lengths, beta, loss_type, e) for pair in pairs]
    total = sum(expected) / len(pairs)
    if rpo_alpha is None:
        assert losses.tolist() == pytest.approx(expected)
    else:
        total += rpo_alpha * -sum(logp[c] for c, _ in pairs) / sum(lengths[c] for c, _ in pairs)
    assert losses.mean().item() == pytest.approx(total)
    rewards = [(beta * (logp[c] - ref[c]), beta * (logp[r] - ref[r])) for c, r in pairs]
    assert metrics["rewards/chosen"].tolist() == pytest.approx([c for c, _ in rewards])
    assert metrics["rewards/rejected"].tolist() == pytest.approx([r for _, r in rewards])
    assert metrics["rewards/margins"].tolist() == pytest.approx([c - r for c, r in rewards])
    assert metrics["rewards/accuracies"].tolist() == [float(c > r) for c, r in rewards]
    assert metrics["logps/chosen"].tolist() == pytest.approx([logp[c] for c, _ in pairs])
    assert metrics["logps/rejected"].tolist() == pytest.approx([logp[r] for _, r in pairs])


def test_policy_equal_to_reference_is_ln_2():
    logp = torch.tensor([-3.0, -70.0])
    for smoothing in (0.0, 0.3):
        losses, _ = dpo_loss(
            logp, logp, torch.tensor([[0, 1]]), torch.ones(2), beta=0.2, label_smoothing=smoothing
        )
        assert losses.item() == pytest.approx(math.log(2))


def test_micro_batches_add_up_to_the_whole_step():
    g = torch.Generator().manual_seed(0)
    logp, ref, lengths = (
        -9 * torch.rand(6, generator=g),
        -9 * torch.rand(6, generator=g),
        torch.arange(1, 7),
    )
    pairs = torch.tensor([[0, 1], [2, 1], [3, 4], [5, 4]])
    mean_length = lengths[pairs[:, 0]].float().mean()

    def step(part):
        return dpo_loss(
            logp, ref, part, lengths, beta=0.2, rpo_alpha=1.0, mean_chosen_length=mean_length
        )[0]

    whole = dpo_loss(logp, ref, pairs, lengths, beta=0.2, rpo_alpha=1.0)[0].mean()
    parts = (step(pairs[:1]).sum() + step(pairs[1:]).sum()) / len(pairs)
    torch.testing.assert_close(parts, whole)


def test_a_shared_completion_collects_the_gradient_of_all_its_pairs():
    logp = torch.tensor([-3.0, -4.0, -5.0], requires_grad=True)
    ref = torch.tensor([-3.5, -3.0, -5.0])
    dpo_loss(logp, ref, torch.tensor([[0, 1], [0, 2]]), torch.ones(3), beta=0.5)[0].sum().backward()
    pulls = [0.5 / (1 + math.exp(0.5 * d)) for d in (1.5, 0.5)]  # beta sigma(-beta d)
    assert logp.grad.tolist() == pytest.approx([-sum(pulls), *pulls])


def test_sft_is_a_mean_over_tokens():
    token_logp = torch.tensor([-1.0, -2.0, -6.0])
    assert sft_loss(token_logp).item() == pytest.approx(3.0)
    assert sft_loss(token_logp, 12).item() == pytest.approx(0.75)


def test_settings_that_mean_nothing_are_refused():
    logp, pairs = torch.zeros(2), torch.tensor([[0, 1]])
    for bad in ({"loss_type": "hinge", "label_smoothing": 0.1}, {"loss_type": "robust"}):
        with pytest.raises(ValueError):
            dpo_loss(logp, logp, pairs, torch.ones(2), beta=0.1, **bad)
