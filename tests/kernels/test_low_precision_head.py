"""The head in bfloat16 as a GPU runs it, simulated on a CPU: errors of its gradients.

Products of bfloat16 are summed in float32, weights lie apart from the logits, in bfloat16, and the
blocks of rows that enter a product with W or with hidden are higher than the tiles.
"""

from dataclasses import replace

import pytest
import torch
from malt_fast.kernels import kept_weights, softmax_rows, softmax_rows_torch, tiles

from tests.kernels.heads import make_case, run, upstream, written_out


def multiply(a, b, out):
    return out.copy_(a.float() @ b.float())


def add_product(out, a, b):
    out.copy_(out.float() + a.float() @ b.float())


@pytest.fixture(autouse=True)
def like_a_gpu(monkeypatch):
    monkeypatch.setattr(tiles, "product_dtype", lambda x: x.dtype)
    monkeypatch.setattr(tiles, "multiply", multiply)
    monkeypatch.setattr(tiles, "add_product", add_product)
    monkeypatch.setattr(softmax_rows, "choose", lambda device, dtype: softmax_rows_torch)
    monkeypatch.setitem(tiles.TILE, "cpu", (20 * 500, 500))
    monkeypatch.setattr(tiles, "FROZEN_ROWS", 50)
    monkeypatch.setattr(tiles, "TRAINED_ROWS", 120)


def like_a_model(peaked):
    """Targets from unlikely to nearly certain, or all with p = 0.99997."""
    case = make_case(96, 256, 3000, 96)
    weight = (case.weight / 16).bfloat16().float()
    own, z = weight[case.targets], 3 * case.hidden @ weight.T
    rest = z.scatter(1, case.targets[:, None], -torch.inf).logsumexp(1)
    odds = torch.full((96,), 10.4) if peaked else torch.linspace(-12, 10, 96)
    lean = (odds + rest - (3 * case.hidden * own).sum(1)) / (own * own).sum(1)
    hidden = 3 * case.hidden + lean[:, None] * own
    return replace(case, rows=torch.arange(96), hidden=hidden.bfloat16(), weight=weight.bfloat16())


def gradients(case, head):
    case = case.with_gradients(head=head)
    return torch.autograd.grad(run(case), case.leaves(), upstream(case))


def error(mine, other):
    return float((mine.double() - other).norm() / other.norm())


def truth(case, head):
    exact = replace(case, hidden=case.hidden.double(), weight=case.weight.double())
    exact = exact.with_gradients(head=head)
    return torch.autograd.grad(written_out(exact)[0], exact.leaves(), upstream(case).double())


def of_rows_kept(rows, case, monkeypatch):
    monkeypatch.setitem(kept_weights.KEPT, "cpu", rows * case.weight.numel() // 256 * 2)
    return gradients(case, True)


@pytest.mark.parametrize("peaked", [False, True])
@pytest.mark.parametrize("rows", [1, 60, 96])
def test_kept_weights_err_no_more_than_logits_made_again(peaked, rows, monkeypatch):
    """rows: those that keep their weights."""
    case, exact = like_a_model(peaked), truth(like_a_model(peaked), True)
    for kept, again, true in zip(
        of_rows_kept(rows, case, monkeypatch),
        of_rows_kept(0, case, monkeypatch),
        exact,
        strict=True,
    ):
        assert error(kept, true) <= (0.8 if rows > 1 else 1.01) * error(again, true)


@pytest.mark.parametrize("peaked", [False, True])
def test_the_gradient_of_hidden_with_a_frozen_head(peaked):
    case = like_a_model(peaked)
    assert error(gradients(case, False)[0], truth(case, False)[0]) < 0.003


def test_many_blocks_of_rows_are_summed_before_they_are_rounded(monkeypatch):
    case = like_a_model(peaked=False)
    _, exact = truth(case, True)
    _, once = gradients(case, True)
    monkeypatch.setattr(tiles, "TRAINED_ROWS", 20)
    _, several = gradients(case, True)
    assert error(several, exact) <= 1.01 * error(once, exact)
