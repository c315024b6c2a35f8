"""dpo_loss against its formulas in float64: C++, plain torch, and Triton by its interpreter."""

import importlib
import math
import os
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from malt_fast.kernels import dpo_loss, softmax_rows
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from malt_fast import _core
from tests.volume import volume

MODULE = importlib.import_module("malt_fast.kernels.dpo_loss")

SETTINGS = (
    {},
    {"label_smoothing": 0.2},
    {"loss_type": "hinge"},
    {"loss_type": "ipo"},
    {"rpo_alpha": 0.7},
    {"loss_type": "ipo", "rpo_alpha": 0.7},
    {"loss_type": "hinge", "rpo_alpha": 0.7, "mean_chosen_length": 3.5},
)


@pytest.fixture(params=["cpp", "triton"])
def kernel(request, monkeypatch):
    """What computes float32 on a CPU: C++, or the GPU's kernels on tensors of the CPU."""
    if request.param == "triton":
        pytest.importorskip("triton")
        if os.environ.get("TRITON_INTERPRET") != "1":
            pytest.skip("needs TRITON_INTERPRET=1; benchmarks/check_gpu.py checks a GPU")
        monkeypatch.setattr(MODULE, "CPP", importlib.import_module(MODULE.__name__ + "_triton"))


@dataclass(frozen=True)
class Case:
    logp: Tensor
    ref_logp: Tensor
    pairs: Tensor
    lengths: Tensor
    settings: dict[str, Any] = field(default_factory=dict)

    def to(self, dtype: torch.dtype) -> "Case":
        return replace(
            self,
            logp=self.logp.detach().to(dtype).requires_grad_(),
            ref_logp=self.ref_logp.to(dtype),
        )


def make_case(p, c, seed=0, dtype=torch.float32, **settings):
    g = torch.Generator().manual_seed(seed)
    return Case(
        logp=-30 * torch.rand(c, generator=g),
        ref_logp=-30 * torch.rand(c, generator=g),
        pairs=torch.randint(max(c, 1), (p, 2), generator=g),  # completions repeat, on both sides
        lengths=torch.randint(1, 9, (c,), generator=g),
        settings={"beta": 0.3, **settings},
    ).to(dtype)


def run(case, **more):
    tensors = case.logp, case.ref_logp, case.pairs, case.lengths
    return dpo_loss(*tensors, **{**case.settings, **more})


def written_out(case):
    """Losses and rewards by the papers' formulas, in float64."""
    case, settings = case.to(torch.float64), case.settings
    beta, e = settings["beta"], settings.get("label_smoothing", 0.0)
    alpha, mean_length = settings.get("rpo_alpha"), settings.get("mean_chosen_length")
    chosen, rejected = case.pairs.unbind(1)
    ratio = case.logp - case.ref_logp
    margin = beta * (ratio[chosen] - ratio[rejected])
    match settings.get("loss_type", "sigmoid"):
        case "ipo":
            per_token = ratio / case.lengths
            losses = (per_token[chosen] - per_token[rejected] - 1 / (2 * beta)) ** 2
        case "hinge":
            losses = torch.relu(1 - margin)
        case "sigmoid":
            right, flipped = torch.log1p(torch.exp(-margin)), torch.log1p(torch.exp(margin))
            losses = (1 - e) * right + e * flipped
    if alpha:  # so that the mean over pairs is the sum over pairs / chosen tokens
        mean_length = mean_length or case.lengths[chosen].double().mean()
        losses = losses - alpha * case.logp[chosen] / mean_length
    return case.logp, losses, (beta * ratio.detach())[case.pairs]


def assert_right(case):
    out, (logp, losses, rewards) = run(case), written_out(case)
    small = 1e-11 if case.logp.dtype == torch.float64 else 2e-6
    scale = 1 + float(losses.detach().abs().max()) if len(losses) else 1.0

    def close(ours, truth, scale):
        assert ours.dtype == case.logp.dtype
        torch.testing.assert_close(ours.double(), truth, rtol=small, atol=small * scale)

    close(out.losses, losses, scale)
    close(out.chosen_rewards, rewards[:, 0], 9.0)
    close(out.rejected_rewards, rewards[:, 1], 9.0)
    close(out.margins, rewards[:, 0] - rewards[:, 1], 9.0)
    upstream = torch.linspace(-1, 2, len(losses))
    (ours,) = torch.autograd.grad(out.losses, case.logp, upstream.to(case.logp.dtype))
    (truth,) = torch.autograd.grad(losses, logp, upstream.double())
    close(ours, truth, scale * max(1, len(losses)))


@settings(max_examples=volume(100), deadline=None)
@given(
    case=st.builds(
        make_case, st.integers(0, 20), st.integers(1, 12), st.integers(0, 99),
        st.sampled_from([torch.float32, torch.float64]),
    ),
    options=st.sampled_from(SETTINGS),
    beta=st.sampled_from([0.05, 0.3, 1.0]),
)  # fmt: skip
def test_values_and_gradients(case, options, beta):
    assert_right(replace(case, settings={"beta": beta, **options}))


@pytest.mark.parametrize("options", SETTINGS)
@pytest.mark.parametrize("shape", [(300, 40), (1, 1), (129, 17), (128, 16)])
def test_borders_of_blocks(shape, options, kernel):
    assert_right(make_case(*shape, **options))


def test_gradient_by_finite_differences():
    for options in SETTINGS:
        case = make_case(9, 5, dtype=torch.float64, **options)
        assert torch.autograd.gradcheck(lambda x, c=case: run(replace(c, logp=x)).losses, case.logp)


# ---- what a preference loss is ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_policy_equal_to_reference_is_ln_2(dtype, kernel):
    for smoothing in (0.0, 0.3):
        case = make_case(9, 5, dtype=dtype, label_smoothing=smoothing)
        losses, chosen, rejected = run(replace(case, ref_logp=case.logp.detach()))
        torch.testing.assert_close(losses, torch.full_like(losses, math.log(2)), rtol=1e-7, atol=0)
        assert not chosen.any() and not rejected.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("margin", [1e4, -1e4, 1e30, -1e30, 20.0, math.inf, -math.inf])
def test_margins_of_any_size(dtype, margin, kernel):
    """Losses as large as the margin, gradients of beta or nothing, and no NaN."""
    case = Case(
        torch.tensor([margin, 0.0]), torch.zeros(2), torch.tensor([[0, 1]]), torch.ones(2).long()
    ).to(dtype)
    for options, loss, slope in (
        ({}, math.log1p(math.exp(-margin)) if margin > 0 else -margin, float(margin < 0)),
        ({"loss_type": "hinge"}, max(0.0, 1 - margin), float(margin < 1)),
    ):
        losses = run(case, beta=1.0, **options).losses
        assert losses.item() == pytest.approx(loss, rel=1e-6)
        (grad,) = torch.autograd.grad(losses.sum(), case.logp)
        assert grad.tolist() == pytest.approx([-slope, slope], abs=1e-8)
    (smoothed,) = run(case, beta=1.0, label_smoothing=0.25).losses.tolist()
    assert smoothed == pytest.approx((0.25 if margin > 0 else 0.75) * abs(margin), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hinge_is_flat_from_a_margin_of_one_on(dtype, kernel):
    pairs = torch.tensor([[0, 1], [2, 1]])
    logp = torch.tensor([2.0, 0.0, 1.5])
    case = Case(logp, torch.zeros(3), pairs, torch.ones(3).long()).to(dtype)
    losses = run(case, beta=0.5, loss_type="hinge").losses
    assert losses.tolist() == [0.0, 0.25]
    (grad,) = torch.autograd.grad(losses.sum(), case.logp)
    assert grad.tolist() == [0.0, 0.5, -0.5]


@pytest.mark.parametrize("simd", _core.kernels.simd_levels())
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_every_instruction_set_is_right_for_every_margin(simd, smoothing):
    """A few roundings of float32, relative to tiny losses and slopes too."""
    middle = torch.linspace(-90, 80, 4001)
    tiny = torch.tensor([0.0, -0.0, 1e-8, -1e-8, 1e-30])
    wild = torch.tensor([3e38, -3e38, math.inf, -math.inf, math.nan])
    margin = torch.cat([middle, tiny, wild])
    pairs = torch.stack([torch.arange(len(margin)), torch.full_like(margin, len(margin)).long()], 1)
    policy = torch.cat([margin, torch.zeros(1)]).numpy()
    losses, _, slopes = _core.kernels.dpo_losses(
        policy, np.zeros_like(policy), pairs.view(-1).numpy(), None,
        loss_type="sigmoid", beta=1.0, label_smoothing=smoothing, nll=0.0, simd=simd,
    )  # fmt: skip
    truth, slope = MODULE._preference(margin.double(), "sigmoid", 1.0, smoothing)
    for ours, theirs in ((losses, truth), (slopes[0], slope)):
        close = {"rtol": 6e-7, "atol": 1e-7 if smoothing else 1e-36, "equal_nan": True}
        torch.testing.assert_close(torch.from_numpy(ours).double(), theirs, **close)


def test_a_nan_stays_in_its_pairs(kernel):
    for options in SETTINGS:
        case = make_case(0, 4, **options)
        logp = case.logp.detach().clone()
        logp[3] = math.nan
        pairs = torch.tensor([[0, 1], [2, 3]])
        case = replace(case, logp=logp.requires_grad_(), pairs=pairs, lengths=torch.ones(4).long())
        losses = run(case).losses
        losses.sum().backward()
        assert losses.isnan().tolist() == [False, True]
        assert not case.logp.grad[:2].isnan().any()


def test_a_pair_of_a_completion_with_itself_pulls_nowhere(kernel):
    case = replace(make_case(0, 3), pairs=torch.tensor([[1, 1], [1, 1]]))
    losses = run(case).losses
    losses.sum().backward()
    assert losses.tolist() == pytest.approx([math.log(2)] * 2) and not case.logp.grad.any()


def test_micro_batches_add_up_to_the_whole_step(kernel):
    case = make_case(8, 6, rpo_alpha=1.0)
    mean_length = case.lengths[case.pairs[:, 0]].double().mean()

    def step(pairs, length):
        return run(replace(case, pairs=pairs), mean_chosen_length=length).losses.sum()

    whole = run(case).losses.sum()
    for length in (mean_length, float(mean_length), mean_length.reshape(1)):
        parts = step(case.pairs[:3], length) + step(case.pairs[3:], length)
        torch.testing.assert_close(parts, whole)


def test_only_the_policy_has_a_gradient():
    case = make_case(5, 4)
    ref_logp = case.ref_logp.clone().requires_grad_()
    losses, chosen, rejected = run(replace(case, ref_logp=ref_logp))
    assert losses.requires_grad and not chosen.requires_grad and not rejected.requires_grad
    losses.sum().backward()
    assert ref_logp.grad is None and case.logp.grad.any()
    with torch.no_grad():
        assert not run(case).losses.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("p", "c"), [(0, 3), (0, 0)])
def test_empty_inputs_give_their_shapes_back(p, c, dtype, kernel):
    for options in SETTINGS:
        case = make_case(p, c, dtype=dtype, **options)
        out = run(case)
        assert all(values.shape == (0,) for values in (*out, out.margins))
        (grad,) = torch.autograd.grad(out.losses.sum(), case.logp)
        assert grad.shape == (c,) and not grad.any()


def test_views_that_are_not_contiguous(kernel):
    case = make_case(7, 5, loss_type="ipo")
    wide = torch.stack([case.logp.detach(), case.ref_logp], 1)
    views = replace(
        case,
        logp=wide[:, 0].requires_grad_(),
        ref_logp=wide[:, 1],
        pairs=case.pairs.T.contiguous().T,
        lengths=case.lengths.repeat_interleave(2)[::2],
    )
    assert torch.equal(run(views).losses, run(case).losses)
    assert_right(views)


def test_the_same_bits_every_time(kernel):
    case = make_case(500, 5, rpo_alpha=0.5)
    losses = run(case).losses
    once = torch.autograd.grad(losses.sum(), case.logp, retain_graph=True)[0]
    for _ in range(3):
        assert torch.equal(once, torch.autograd.grad(losses.sum(), case.logp, retain_graph=True)[0])


# ---- with the rest of torch ----


def test_opcheck():
    for options in SETTINGS[:4]:
        case = make_case(6, 4)
        kind = options.get("loss_type", "sigmoid")
        lengths = case.lengths if kind == "ipo" else None
        nll, smoothing = torch.tensor(0.1), options.get("label_smoothing", 0.0)
        torch.library.opcheck(
            torch.ops.malt_fast.dpo_loss,
            (case.logp, case.ref_logp, case.pairs, lengths, nll, kind, 0.3, smoothing),
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
        )


def test_compiles_whole():
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for case in (make_case(9, 7, rpo_alpha=0.5), make_case(12, 8, rpo_alpha=0.5)):
        ours, theirs = compiled(case), run(case)
        upstream = torch.linspace(-1, 2, len(case.pairs))
        for mine, other in zip(ours, theirs, strict=True):
            assert torch.equal(mine, other)
        (mine,) = torch.autograd.grad(ours.losses, case.logp, upstream)
        (other,) = torch.autograd.grad(theirs.losses, case.logp, upstream)
        assert torch.equal(mine, other)


def test_gradient_checkpointing_and_autocast():
    case = make_case(9, 7)
    (once,) = torch.autograd.grad(run(case).losses.sum(), case.logp)
    with torch.autocast("cpu", torch.bfloat16):
        losses = checkpoint(lambda c: run(c).losses, case, use_reentrant=False)
    assert losses.dtype == torch.float32
    assert torch.equal(once, torch.autograd.grad(losses.sum(), case.logp)[0])


def test_double_backward_is_refused():
    case = make_case(3, 4)
    (grad,) = torch.autograd.grad(run(case).losses.sum(), case.logp, create_graph=True)
    with pytest.raises(RuntimeError, match="dpo_loss is differentiable once"):
        grad.sum().backward()


def test_a_gpu_without_triton_is_an_error(monkeypatch):
    monkeypatch.setattr(softmax_rows.importlib.util, "find_spec", lambda name: None)
    on_gpu = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
    with pytest.raises(RuntimeError, match="pip install triton, or move the tensors to the CPU"):
        MODULE._choose(on_gpu)
    assert MODULE._choose(torch.zeros(1, dtype=torch.float64)) is MODULE.TORCH


# ---- bad input ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logp": torch.zeros(4, dtype=torch.bfloat16)}, "logp must be float32 or float64"),
        ({"ref_logp": torch.zeros(4, dtype=torch.long)}, "ref_logp must be float32 or float64"),
        ({"logp": torch.zeros(2, 2)}, "logp must be .C."),
        ({"ref_logp": torch.zeros(5)}, "ref_logp must be .4., one per completion, got .5."),
        ({"pairs": torch.zeros(3, 2)}, "pairs must be integers"),
        ({"pairs": torch.zeros(2, 3, dtype=torch.long)}, "pairs must be .P, 2."),
        ({"pairs": torch.tensor([[0, 4]])}, "pairs must be in .0, 4., got 0 to 4"),
        ({"pairs": torch.tensor([[-1, 2]])}, "pairs must be in .0, 4., got -1 to 2"),
        ({"lengths": torch.ones(4)}, "lengths must be integers"),
        ({"lengths": torch.ones(3, dtype=torch.long)}, "lengths must be .4."),
        ({"ref_logp": torch.zeros(4, device="meta")}, "ref_logp is on meta"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        run(replace(make_case(3, 4), **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss_type": "robust"}, "loss_type must be sigmoid, hinge or ipo, not 'robust'"),
        (
            {"loss_type": "hinge", "label_smoothing": 0.1},
            "label_smoothing is for loss_type",
        ),
        ({"label_smoothing": 0.5}, "label_smoothing must be in .0, 0.5., got 0.5"),
        ({"beta": 0.0}, "beta must be positive"),
        ({"beta": math.nan}, "beta must be positive"),
        ({"rpo_alpha": -1.0}, "rpo_alpha must be 0 or more"),
        ({"loss_type": "ipo"}, "lengths .C. is missing, which ipo needs"),
        ({"rpo_alpha": 1.0}, "lengths .C. is missing, which rpo_alpha needs"),
        ({"rpo_alpha": 1.0, "mean_chosen_length": 0.0}, "mean_chosen_length must be positive"),
        ({"rpo_alpha": 1.0, "mean_chosen_length": torch.ones(3)}, "must be one number, got .3."),
        (
            {"rpo_alpha": 1.0, "mean_chosen_length": torch.ones((), device="meta")},
            "mean_chosen_length is on meta",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(change, message):
    case = make_case(3, 4)
    with pytest.raises(ValueError, match=message):
        dpo_loss(case.logp, case.ref_logp, case.pairs, **{"beta": 0.1, **change})


def test_ipo_needs_tokens_where_there_are_pairs():
    case = replace(make_case(0, 3, loss_type="ipo"), pairs=torch.tensor([[0, 1]]))
    run(replace(case, lengths=torch.tensor([1, 1, 0])))
    with pytest.raises(ValueError, match="lengths must be positive"):
        run(replace(case, lengths=torch.tensor([1, 0, 1])))


def test_checks_of_values_can_be_left_out(monkeypatch):
    verified = []
    for name in ("in_range", "all_positive"):
        monkeypatch.setattr(MODULE.checks, name, lambda *given, **named: verified.append(named))
    run(make_case(5, 4, loss_type="ipo"), check=False)
    assert not verified
    run(make_case(5, 4, loss_type="ipo"))
    assert len(verified) == 1  # of the lengths; the core checks pairs


def test_the_core_never_reads_outside_of_its_arrays():
    case = make_case(5, 4)
    for bad in (-1, 4):
        with pytest.raises(ValueError, match=r"pairs must be in .0, 4."):
            run(replace(case, pairs=torch.full((1, 2), bad)), check=False)
    x, flat = torch.zeros(4).numpy(), torch.zeros(6, dtype=torch.long).numpy()
    options = {"beta": 1.0, "label_smoothing": 0.0, "nll": 0.0}
    for args, kind, message in (
        ((x, x[:3], flat, None), "sigmoid", "ref_logp must have 4 values, got 3"),
        ((x, x, flat[:5], None), "sigmoid", "pairs must come in twos"),
        ((x, x, flat, None), "ipo", "lengths must be given"),
        ((x, x, flat, flat[:3]), "ipo", "lengths must have 4 values, got 3"),
        ((x, x, flat, None), "robust", "loss_type must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            _core.kernels.dpo_losses(*args, loss_type=kind, **options)
    for grad, slopes, completions in ((x[:2], flat, 4), (x[:3], flat[:4], 4), (x[:3], flat, 0)):
        with pytest.raises(ValueError, match="must "):
            _core.kernels.dpo_gradient(grad, slopes, flat, completions)
