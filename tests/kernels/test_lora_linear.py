"""lora_linear against the plain sum of the layer and its low-rank update."""

import pytest
import torch
from malt_fast.kernels import lora_linear


@pytest.mark.parametrize("width", [6, 40], ids=["merged", "side branch"])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [(3,), (2, 5)])
def test_lora_linear_is_the_low_rank_update(shape, with_bias, width):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, width, generator=g).requires_grad_()
    a, b = (
        torch.randn(2, width, generator=g).requires_grad_(),
        torch.randn(width - 2, 2, generator=g).requires_grad_(),
    )
    weight, bias = (
        torch.randn(width - 2, width, generator=g),
        torch.randn(width - 2, generator=g) if with_bias else None,
    )
    ours = lora_linear(x, weight, bias, a, b, 0.5)
    truth = torch.nn.functional.linear(x, weight, bias) + 0.5 * x @ a.T @ b.T
    torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-5)
    grad = torch.randn(*shape, width - 2, generator=g)
    for mine, other in zip(
        torch.autograd.grad(ours, (x, a, b), grad),
        torch.autograd.grad(truth, (x, a, b), grad),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_only_float32():
    x, a, b, w = (torch.randn(3, 3) for _ in range(4))
    for given in ([x.bfloat16(), w], [x, w.half()]):
        with pytest.raises(ValueError, match="float32 without autocast"):
            lora_linear(*given, None, a, b, 1.0)
    with torch.autocast("cpu"), pytest.raises(ValueError, match="float32 without autocast"):
        lora_linear(x, w, None, a, b, 1.0)
