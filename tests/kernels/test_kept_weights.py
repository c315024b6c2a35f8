"""A trained head's gradients from kept weights: no less accurate than from logits made again."""

from dataclasses import replace

import pytest
import torch
from malt_fast.kernels import kept_weights, tiles

from tests.kernels.heads import make_case, run, upstream, written_out


def peaked(case):
    """Every target has p = 0.99997."""
    hidden, weight = case.hidden.double(), case.weight.double()
    own, z = weight[case.targets], hidden @ weight.T
    rest = z.scatter(1, case.targets[:, None], -torch.inf).logsumexp(1)
    wanted = rest + torch.logit(torch.tensor(0.99997, dtype=torch.float64))
    lean = (wanted - (hidden * own).sum(1)) / (own * own).sum(1)
    return replace(case, hidden=(hidden + lean[:, None] * own).float())


def wild(case):
    """Logits of up to 1e4, and log-probs as far from 0."""
    sizes = torch.logspace(0, 3.5, len(case.hidden))
    return replace(case, hidden=case.hidden * sizes[:, None])


def errors(case, kept, monkeypatch):
    """Relative errors of the gradients of hidden and weight against float64."""
    monkeypatch.setitem(kept_weights.KEPT, "cpu", kept)
    case, g = case.with_gradients(head=True), upstream(case)
    ours = torch.autograd.grad(run(case), case.leaves(), g)
    truth = torch.autograd.grad(written_out(case)[0], case.leaves(), g.double())
    return [
        float((mine.double() - other.double()).norm() / other.double().norm())
        for mine, other in zip(ours, truth, strict=True)
    ]


@pytest.mark.parametrize(
    ("change", "share", "most"), [(None, 1.0, 1e-6), (peaked, 0.6, 5e-3), (wild, 1.5, 1e-4)]
)
def test_errors_are_a_share_of_those_of_logits_made_again(change, share, most, monkeypatch):
    """Below 1 for log-probs far from 0: exp(z - log sum exp z) takes the rounding of that sum.

    Logits are 1e-6 wrong whatever follows, which matters beside the 3e-5 that peaked ones leave.
    Wild ones are up to 1e-3 wrong, by rounding that differs from one processor to the next.
    """
    monkeypatch.setitem(tiles.TILE, "cpu", (1 << 16, 1000))
    case = make_case(96, 256, 8192, 96)
    case = replace(case, weight=case.weight / 16, hidden=3 * case.hidden, rows=torch.arange(96))
    case = case if change is None else change(case)
    kept, again = errors(case, 1 << 30, monkeypatch), errors(case, 0, monkeypatch)
    for mine, other in zip(kept, again, strict=True):
        assert mine <= share * other
        assert mine <= most


def test_weights_take_no_more_memory_than_stated(monkeypatch):
    monkeypatch.setitem(kept_weights.KEPT, "cpu", 10 * 30 * 4 + 3)
    for rows, trained, expected in ((50, True, 10), (7, True, 7), (50, False, 0)):
        case = make_case(rows, 4, 30, rows)
        given = case.hidden, case.weight, torch.arange(rows), case.targets
        *_, weights, scale = torch.ops.malt_fast.linear_logprob(
            *given, None, None, 0.0, False, True, trained
        )
        assert len(weights) == expected * 30 and scale.shape == (1, expected)


def test_a_row_whose_offset_moves_between_slices(monkeypatch):
    """Its later weights count for all, its earlier ones for almost nothing."""
    monkeypatch.setitem(tiles.TILE, "cpu", (40, 5))
    case = make_case(8, 4, 23, 12, bias=True)
    case = replace(case, bias=torch.linspace(-60, 60, 23)).with_gradients(head=True)
    g = upstream(case)
    ours = torch.autograd.grad(run(case), case.leaves(), g)
    truth = torch.autograd.grad(written_out(case)[0], case.leaves(), g.double())
    for mine, other in zip(ours, truth, strict=True):
        torch.testing.assert_close(mine, other.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("which", ["hidden", "weight", "bias"])
def test_only_the_gradients_that_are_wanted(which):
    case = make_case(8, 4, 30, 12, bias=True).with_gradients(head=True)
    every = dict(zip(("hidden", "weight", "bias"), torch.autograd.grad(
        run(case).sum(), case.leaves()), strict=True))  # fmt: skip
    leaf = getattr(case, which)
    alone = replace(make_case(8, 4, 30, 12, bias=True), **{which: leaf})
    (mine,) = torch.autograd.grad(run(alone).sum(), leaf)
    torch.testing.assert_close(mine, every[which])
