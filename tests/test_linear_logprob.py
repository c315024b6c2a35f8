"""The kernels' plain-torch twins against the same arithmetic written out."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from malt_fast.kernels import linear_logprob, lora_linear

MODULE = sys.modules["malt_fast.kernels.linear_logprob"]  # the package attribute is the function


def written_out(hidden, weight, rows, targets, bias=None, temperature=1.0):
    """log_softmax of float64 logits, then gather."""
    bias = None if bias is None else bias.double()
    logits = torch.nn.functional.linear(hidden.double()[rows], weight.double(), bias) / temperature
    return logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)


def case(t, h, v, m, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(t, h, generator=g).to(dtype)
    weight, bias = torch.randn(v, h, generator=g).to(dtype), torch.randn(v, generator=g).to(dtype)
    rows = torch.randint(t, (m,), generator=g)  # with replacement: rows repeat
    return hidden, weight, rows, torch.randint(v, (m,), generator=g), bias


@settings(max_examples=40, deadline=None)
@given(
    t=st.integers(1, 9),
    h=st.integers(1, 17),
    v=st.integers(1, 33),
    m=st.integers(0, 40),
    seed=st.integers(0, 99),
    with_bias=st.booleans(),
    temperature=st.sampled_from([1.0, 0.3, 2.5]),
    chunk=st.sampled_from([1, 50, 1 << 20]),
)
def test_values_and_gradients(t, h, v, m, seed, with_bias, temperature, chunk):
    hidden, weight, rows, targets, bias = case(t, h, v, m, seed)
    inputs = [x.requires_grad_() for x in (hidden, weight, *([bias] if with_bias else []))]
    kwargs = {"bias": bias if with_bias else None, "temperature": temperature}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "CHUNK", chunk)
        ours, truth = (
            f(hidden, weight, rows, targets, **kwargs) for f in (linear_logprob, written_out)
        )
        g = torch.randn(m, generator=torch.Generator().manual_seed(seed))
        grads = torch.autograd.grad(ours, inputs, g)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=1e-5)
    for mine, other in zip(grads, torch.autograd.grad(truth, inputs, g.double()), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, rows, targets, _ = case(5, 4, 7, 11)
    linear_logprob(hidden.requires_grad_(), weight, rows, targets).sum().backward()
    assert weight.grad is None
    (truth,) = torch.autograd.grad(written_out(hidden, weight, rows, targets).sum(), hidden)
    torch.testing.assert_close(hidden.grad, truth, rtol=1e-5, atol=1e-5)


def test_a_trained_head_under_frozen_hidden_rows():
    hidden, weight, rows, targets, bias = case(5, 4, 7, 11)
    linear_logprob(
        hidden, weight.requires_grad_(), rows, targets, bias=bias.requires_grad_()
    ).sum().backward()
    truth = written_out(hidden, weight, rows, targets, bias).sum()
    for mine, other in zip(
        (weight.grad, bias.grad), torch.autograd.grad(truth, (weight, bias)), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_low_precision_storage_keeps_float32_arithmetic():
    hidden, weight, rows, targets, _ = case(6, 64, 50, 20, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        ours = linear_logprob(hidden, weight, rows, targets)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(
        ours.double(), written_out(hidden, weight, rows, targets), rtol=1e-5, atol=1e-5
    )


def test_huge_logits_do_not_overflow():
    hidden, weight = torch.full((1, 1), 1e4), torch.tensor([[1.0], [-1.0]])
    rows, targets = torch.zeros(2, dtype=torch.long), torch.tensor([0, 1])
    assert linear_logprob(hidden, weight, rows, targets).tolist() == [0.0, -2e4]


def test_shapes_that_do_not_fit_are_refused():
    hidden, weight, rows, targets, bias = case(5, 4, 7, 11)
    for bad in (
        {"hidden": hidden[:, :3]},
        {"rows": rows[:-1]},
        {"bias": bias[:-1]},
        {"temperature": 0.0},
    ):
        good = {"hidden": hidden, "weight": weight, "rows": rows, "targets": targets}
        with pytest.raises(ValueError):
            linear_logprob(**(good | bad))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [(3,), (2, 5)])
def test_lora_linear_is_the_low_rank_update(shape, with_bias):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, 6, generator=g).requires_grad_()
    a, b = (
        torch.randn(2, 6, generator=g).requires_grad_(),
        torch.randn(4, 2, generator=g).requires_grad_(),
    )
    weight, bias = (
        torch.randn(4, 6, generator=g),
        torch.randn(4, generator=g) if with_bias else None,
    )
    ours = lora_linear(x, weight, bias, a, b, 0.5)
    truth = torch.nn.functional.linear(x, weight, bias) + 0.5 * x @ a.T @ b.T
    torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-5)
    grad = torch.randn(*shape, 4, generator=g)
    for mine, other in zip(
        torch.autograd.grad(ours, (x, a, b), grad),
        torch.autograd.grad(truth, (x, a, b), grad),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
