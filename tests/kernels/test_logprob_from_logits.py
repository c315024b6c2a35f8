"""logprob_from_logits against log_softmax and gather written out in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from malt_fast.kernels import logprob_from_logits

from malt_fast import _core
from malt_fast.utils.tensors import bits
from tests.kernels.heads import DTYPES
from tests.volume import volume


def written_out(logits, targets, temperature=1.0, softcap=None, dtype=torch.float64):
    z = logits.to(dtype)
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    if isinstance(temperature, torch.Tensor):
        temperature = temperature.to(dtype)[:, None]
    logp = (z / temperature).log_softmax(-1)
    p_logp = torch.where(logp == -torch.inf, 0, logp.exp() * logp)
    return logp.gather(1, targets[:, None]).squeeze(1), -p_logp.sum(1)


def make(m, v, seed=0, dtype=torch.float32, spread=3.0):
    g = torch.Generator().manual_seed(seed)
    logits = (torch.randn(m, v, generator=g) * spread).to(dtype)
    return logits, torch.randint(v, (m,), generator=g), torch.randn(m, generator=g)


@settings(max_examples=volume(150), deadline=None)
@given(
    m=st.integers(0, 9),
    v=st.sampled_from([1, 2, 7, 8, 9, 31, 63, 64, 65, 1023, 1024, 1025, 3000]),
    seed=st.integers(0, 99),
    dtype=st.sampled_from(DTYPES),
    temperature=st.sampled_from([1.0, 0.3, "rows"]),
    softcap=st.sampled_from([None, 2.0, 30.0]),
    inplace=st.booleans(),
)
def test_values_and_gradients(m, v, seed, dtype, temperature, softcap, inplace):
    logits, targets, g = make(m, v, seed, dtype)
    if temperature == "rows":
        temperature = torch.rand(m, generator=torch.Generator().manual_seed(seed)) + 0.3
    leaf = logits.clone().requires_grad_()
    out = logprob_from_logits(
        leaf,
        targets,
        temperature=temperature,
        logit_softcap=softcap,
        return_entropy=True,
        inplace_backward=inplace,
    )
    same = logits.clone().requires_grad_()
    truth, entropy = written_out(same, targets, temperature, softcap)
    small = 1e-12 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(out.logp.double(), truth, rtol=small, atol=small)
    torch.testing.assert_close(out.entropy.double(), entropy, rtol=small, atol=small)
    assert torch.equal(leaf, logits)  # forward leaves them alone
    (ours,) = torch.autograd.grad(out.logp, leaf, g.to(out.logp.dtype))
    (expected,) = torch.autograd.grad(truth, same, g.double())
    torch.testing.assert_close(ours, expected, rtol=2 * torch.finfo(dtype).eps, atol=small * 4)


@pytest.mark.parametrize("simd", _core.kernels.simd_levels())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_instruction_set_gives_the_same(simd, dtype, monkeypatch):
    for name in ("fold_rows", "gradient_rows"):
        real = getattr(_core.kernels, name)
        monkeypatch.setattr(
            _core.kernels, name, lambda *args, real=real, **more: real(*args, **more, simd=simd)
        )
    logits, targets, g = make(5, 2100, dtype=dtype)
    leaf = logits.requires_grad_()
    for softcap in (None, 4.0):
        out = logprob_from_logits(leaf, targets, logit_softcap=softcap, return_entropy=True)
        truth, entropy = written_out(leaf, targets, softcap=softcap)
        torch.testing.assert_close(out.logp.double(), truth, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(out.entropy.double(), entropy, rtol=1e-5, atol=1e-5)
        (ours,) = torch.autograd.grad(out.logp, leaf, g)
        (expected,) = torch.autograd.grad(truth, leaf, g.double())
        torch.testing.assert_close(ours, expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("simd", _core.kernels.simd_levels())
@pytest.mark.parametrize("columns", [1, 17, 1100])
def test_weights_go_over_the_tile_or_apart(simd, columns):
    """In float32 or rounded to bfloat16; nothing is written beside them."""
    raw, start = 5 * torch.randn(3, columns), torch.tensor([0, 1, 1, 2])

    def fold(tile, weights):
        _core.kernels.fold_rows(
            tile.numpy(), "float32", 0, bias=None, temperature=None, softcap=3.0,
            start=start.numpy(), token=torch.tensor([0, columns - 1]).numpy(),
            offset=torch.full((3,), -torch.inf).numpy(), total=torch.zeros(3).numpy(),
            weighted=None, target_logit=torch.zeros(2).numpy(), residual=None,
            weights=bits(weights)[0], simd=simd,
        )  # fmt: skip
        return weights

    expected = fold(raw.clone(), torch.empty(3, columns))
    assert (expected[0, 0], expected[2, -1]) == (0, 0)
    z = 3 * torch.tanh(raw.double() / 3)
    truth = torch.exp(z - z.amax(1, keepdim=True)) * (1 - (z / 3) ** 2)
    torch.testing.assert_close(expected[1].double(), truth[1], rtol=1e-4, atol=1e-6)
    tile = raw.clone()
    assert torch.equal(fold(tile, tile), expected)
    whole = torch.full((3, columns + 3), 7.0, dtype=torch.bfloat16)
    assert torch.equal(fold(raw, whole[:, 1:-2]), expected.bfloat16())
    assert (whole[:, [0, -2, -1]] == 7).all()


def test_an_unknown_instruction_set_is_refused():
    one = torch.zeros(1).numpy()
    with pytest.raises(ValueError, match="simd 'mmx' cannot run"):
        _core.kernels.fold_rows(
            one.reshape(1, 1), "float32", 0, bias=None, temperature=None, softcap=0.0,
            start=torch.tensor([0, 0]).numpy(), token=torch.zeros(0, dtype=torch.long).numpy(),
            offset=one, total=one.copy(), weighted=None,
            target_logit=torch.zeros(0).numpy(), residual=None, weights=None, simd="mmx",
        )  # fmt: skip


def test_every_16_bit_number_is_read_and_written_correctly():
    """All bit patterns of both types: an identity, once by reading, once by rounding."""
    bits = torch.arange(1 << 16).to(torch.int32).to(torch.uint16)
    for dtype in (torch.bfloat16, torch.float16):
        values = bits.view(dtype)
        values = values[values.isfinite()][:, None]  # one logit a row
        zero = torch.zeros(len(values), dtype=torch.long)
        pair = torch.cat([values, torch.zeros_like(values)], 1)
        ours = logprob_from_logits(pair, zero)
        truth, _ = written_out(pair, zero)
        torch.testing.assert_close(ours.double(), truth, rtol=1e-6, atol=1e-6)
        # The gradient of the other token's logit is -g / 2 if logits are equal, so that any
        # float32 g can be written.
        g = torch.randn(4096, generator=torch.Generator().manual_seed(0)) * torch.logspace(
            -9, 4, 4096
        )
        leaf = torch.zeros(4096, 2, dtype=dtype, requires_grad=True)
        (d,) = torch.autograd.grad(logprob_from_logits(leaf, zero[:4096]), leaf, g)
        assert torch.equal(d, torch.stack([g / 2, -g / 2], 1).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_error_is_at_most_twice_that_of_plain_torch(dtype):
    logits, targets, g = make(64, 5000, dtype=dtype)
    leaf = logits.requires_grad_()
    (truth, _), (plain, _) = written_out(leaf, targets), written_out(leaf, targets, dtype=dtype)
    ours = logprob_from_logits(leaf, targets)

    def error(x, y):
        return (x.double() - y.double()).abs().max().item()

    assert error(ours, truth) <= 2 * error(plain, truth) + 1e-6
    (d_truth,) = torch.autograd.grad(truth, leaf, g.double())
    (d_plain,) = torch.autograd.grad(plain, leaf, g.to(dtype))
    (d_ours,) = torch.autograd.grad(ours, leaf, g)
    assert error(d_ours, d_truth) <= 2 * error(d_plain, d_truth) + 1e-6


def test_extremes():
    zero = torch.zeros(1, dtype=torch.long)
    assert logprob_from_logits(torch.tensor([[1e4, -1e4]]), zero).tolist() == [0.0]
    assert logprob_from_logits(torch.tensor([[-1e4, 1e4]]), zero).tolist() == [-2e4]
    assert logprob_from_logits(torch.tensor([[0.0, -torch.inf]]), zero).tolist() == [0.0]
    assert logprob_from_logits(torch.tensor([[0.0, torch.nan]]), zero).isnan().all()
    rows = torch.tensor([[0.0, 0.0], [torch.nan, torch.nan], [-torch.inf, -torch.inf]])
    out = logprob_from_logits(rows, zero.expand(3))
    assert out.isnan().tolist() == [False, True, True]


def test_in_place_takes_the_logits_memory():
    logits, targets, g = make(4, 50)
    hidden = torch.randn(4, 3, requires_grad=True)
    made = hidden @ torch.randn(3, 50)
    pointer = made.data_ptr()
    kept = []
    made.register_hook(lambda grad: kept.append(grad.data_ptr()))
    logprob_from_logits(made, targets, inplace_backward=True).backward(g)
    assert kept == [pointer]
    leaf = logits.requires_grad_()
    out = logprob_from_logits(leaf, targets, inplace_backward=True)
    torch.autograd.grad(out, leaf, g, retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(out, leaf, g)


def test_rows_of_a_wider_tensor_and_columns_apart():
    logits, targets, _ = make(6, 80)
    for view in (logits[::2, 10:50], logits.T[:60, :6]):
        t = targets[: len(view)] % view.shape[1] if len(view) <= 6 else torch.zeros(60).long()
        ours, truth = logprob_from_logits(view, t), written_out(view, t)[0]
        torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=1e-5)
    temperature = torch.rand(12)[::2] + 0.5
    ours = logprob_from_logits(logits, targets, temperature=temperature).double()
    truth, _ = written_out(logits, targets, temperature)
    torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-5)
    for view in (logits.T, logits[:1].expand(80, 80)):
        with pytest.raises(ValueError, match="rows that are contiguous and do not overlap"):
            logprob_from_logits(view, torch.zeros(80).long(), inplace_backward=True)


def test_in_place_gradients_have_no_gradient():
    logits, targets, g = make(4, 50)
    made = logits.requires_grad_() * 1.0
    out = logprob_from_logits(made, targets, inplace_backward=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(out, logits, g, create_graph=True)


def test_opcheck_compile_and_double_backward():
    logits, targets, g = make(4, 50)
    leaf = logits.requires_grad_()
    torch.library.opcheck(
        torch.ops.malt_fast.logprob_from_logits,
        (leaf, targets, torch.rand(4) + 1, 3.0, True, False),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )
    for inplace in (False, True):
        out = torch.compile(
            lambda x, t, inplace=inplace: logprob_from_logits(x * 1.0, t, inplace_backward=inplace),
            fullgraph=True,
            backend="aot_eager",
        )(leaf, targets)
        (d,) = torch.autograd.grad(out, leaf, g)
        (expected,) = torch.autograd.grad(written_out(leaf, targets)[0], leaf, g.double())
        torch.testing.assert_close(d, expected, rtol=1e-5, atol=1e-6)
    (d,) = torch.autograd.grad(logprob_from_logits(leaf, targets).sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        d.sum().backward()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"logits": torch.zeros(2, 3, 4)}, "logits must be .M, V."),
        ({"logits": torch.zeros(4, 50, dtype=torch.long)}, "logits must be float32"),
        ({"targets": torch.zeros(3, dtype=torch.long)}, "targets must be .4."),
        ({"targets": torch.full((4,), 50)}, "targets must be in .0, 50., got 50"),
        ({"targets": torch.full((4,), -1)}, "targets must be in"),
        ({"temperature": -1.0}, "temperature must be positive"),
        ({"logit_softcap": 0.0}, "logit_softcap must be positive"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    logits, targets, _ = make(4, 50)
    with pytest.raises(ValueError, match=message):
        logprob_from_logits(**{"logits": logits, "targets": targets, **arguments})
