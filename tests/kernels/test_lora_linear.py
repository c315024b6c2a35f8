"""lora_linear against the plain sum of the layer and its low-rank update, and against PEFT."""

import peft
import pytest
import torch
from malt_fast.kernels import lora_linear
from torch import nn


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


# ---- bfloat16 autocast ----


def layer(sizes, rank, bias, scaling, seed, stored=torch.bfloat16):
    """PEFT's LoRA layer over a frozen nn.Linear in `stored`; its A and B are float32."""
    torch.manual_seed(seed)
    base = nn.Sequential(nn.Linear(*sizes, bias=bias)).to(stored)
    config = peft.LoraConfig(r=rank, lora_alpha=scaling * rank, target_modules=["0"])
    made = peft.get_peft_model(base, config).base_model.model[0]
    nn.init.normal_(made.lora_B["default"].weight, std=rank**-0.5)
    return made


def parts(made):
    """(a, b), the trained weights of a layer."""
    return made.lora_A["default"].weight, made.lora_B["default"].weight


def fused(x, made):
    base = made.base_layer
    return lora_linear(x, base.weight, base.bias, *parts(made), made.scaling["default"])


def gradients(run, x, made, grad):
    """[y, dx, dA, dB] under autocast; only the forward pass is inside, as in training."""
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = run(x)
    assert y.dtype == torch.bfloat16
    found = torch.autograd.grad(y, (x, *parts(made)), grad.to(y.dtype))
    assert [g.dtype for g in found] == [x.dtype, torch.float32, torch.float32]
    return [y, *found]


def exact(x, made, grad):
    """[y, dx, dA, dB] in float64."""
    base, scaling = made.base_layer, made.scaling["default"]
    x, a, b = (t.detach().double().requires_grad_() for t in (x, *parts(made)))
    bias = None if base.bias is None else base.bias.double()
    y = nn.functional.linear(x, base.weight.double(), bias) + scaling * (x @ a.T @ b.T)
    return [y, *torch.autograd.grad(y, (x, a, b), grad.double())]


def error(found, truth):
    return ((found.double() - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32], ids=["bf16", "float32"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("shape", "outputs", "rank", "scaling"),
    [
        ((129,), 77, 1, 1.0),
        ((3, 65), 130, 7, 2.0),
        ((257,), 33, 16, 0.3),
        ((2, 3, 31), 201, 64, 1.5),
        ((40,), 5, 64, 1.0),  # wider than the layer
    ],
)
@pytest.mark.parametrize("width", [48, 131])
def test_bf16_is_as_exact_as_peft(shape, width, outputs, rank, scaling, bias, stored):
    made = layer((width, outputs), rank, bias, scaling, seed=width + rank, stored=stored)
    x = torch.randn(*shape, width).to(stored)
    grad = torch.randn(*shape, outputs).bfloat16()
    truth = exact(x, made, grad)
    ours = gradients(lambda x: fused(x, made), x, made, grad)
    theirs = gradients(made, x, made, grad)
    for mine, other, true in zip(ours, theirs, truth, strict=True):
        assert mine.shape == true.shape
        assert error(mine, true) <= 1.2 * error(other, true) < 0.02


def test_bf16_without_an_update_is_the_layer():
    """As DPO needs it: the policy equals its reference at step 0."""
    made = layer((65, 33), 4, True, 2.0, seed=0)
    nn.init.zeros_(made.lora_B["default"].weight)
    x = torch.randn(50, 65).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fused(x, made), made.base_layer(x))


def test_bf16_follows_the_optimiser():
    """Fused AdamW leaves the version of a parameter as it was."""
    made = layer((40, 30), 4, False, 1.0, seed=0)
    x, grad = torch.randn(20, 40).bfloat16(), torch.randn(20, 30).bfloat16()
    optimizer = torch.optim.AdamW(parts(made), lr=0.1, fused=True)
    before = gradients(lambda x: fused(x, made), x, made, grad)
    for weight, change in zip(parts(made), before[2:], strict=True):
        weight.grad = change
    optimizer.step()
    truth = exact(x, made, grad)
    after = gradients(lambda x: fused(x, made), x, made, grad)
    for old, new, true in zip(before, after, truth, strict=True):
        assert error(new, true) < 0.01 < 0.05 < error(old, true)


def test_no_rows():
    made = layer((9, 5), 2, True, 1.0, seed=0)
    x = torch.zeros(2, 0, 9)
    ours = gradients(lambda x: fused(x, made), x, made, torch.zeros(2, 0, 5))
    assert ours[0].shape == (2, 0, 5)
    assert not any(g.any() for g in ours[1:])


def test_other_dtypes_are_refused():
    x, a, b, w = (torch.randn(3, 3) for _ in range(4))
    for given in ([x.bfloat16(), w], [x, w.half()], [x.bfloat16(), w.bfloat16()]):
        with pytest.raises(ValueError, match="is for float32, or bfloat16 autocast"):
            lora_linear(*given, None, a, b, 1.0)
    for low, a_given in ((torch.float16, a), (torch.bfloat16, a.bfloat16())):
        with torch.autocast("cpu", low), pytest.raises(ValueError, match="use PEFT's own layer"):
            lora_linear(x, w, None, a_given, b, 1.0)
