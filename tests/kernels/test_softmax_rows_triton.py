"""Triton's row operations against their torch twin in float64.

Without a GPU they run in Triton's interpreter (conftest.py), where every block costs milliseconds:
shapes are the smallest that have several tiles, several blocks in a tile, and a part of one.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malt_fast.kernels import (
    linear_logprob,
    logprob_from_logits,
    softmax_rows,
    softmax_rows_torch,
    tiles,
)
from malt_fast.kernels.running_softmax import (
    RunningSoftmax,
    Targets,
    Upstream,
)

from tests.kernels import heads
from tests.kernels.row_operations import (
    DEVICE,
    GPU,
    INTERPRETED,
    compare,
    double,
    folded,
    gradients,
    log_total,
    make,
    near,
)
from tests.volume import volume

pytest.importorskip("triton")
if not (GPU or INTERPRETED):
    pytest.skip("needs a GPU that torch sees, or TRITON_INTERPRET=1", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, on inf and NaN


@pytest.fixture
def triton_rows(monkeypatch):
    """The module, with blocks small enough that small tiles have several."""
    from malt_fast.kernels import softmax_rows_triton

    monkeypatch.setattr(softmax_rows_triton, "BLOCK", 32 if GPU else 8)
    monkeypatch.setattr(softmax_rows_triton, "WARPS", 1)
    return softmax_rows_triton


@settings(
    max_examples=volume(30),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.sampled_from([0, 1, 3]),
    vocabulary=st.sampled_from([1, 7, 8, 17, 37]),
    width=st.sampled_from([1, 8, 13, 16, 29]),
    targets=st.integers(0, 4),
    spread=st.sampled_from([0.1, 3.0, 10.0]),
    bias=st.booleans(),
    temperature=st.booleans(),
    softcap=st.sampled_from([0.0, 2.0, 30.0]),
    entropy=st.booleans(),
    weights=st.sampled_from([None, "tile", torch.float32]),
    out=st.sampled_from([None, torch.float32]),
    seed=st.integers(0, 99),
)
def test_any_shape_and_head(triton_rows, width, entropy, weights, out, **shape):
    case, width = make(**shape), max(width, shape["vocabulary"] // 3)
    options = {"entropy": entropy, "weights": weights, "out": out}
    compare(triton_rows, case, width, tolerance=3e-5, **options)


@pytest.mark.parametrize("weights", [None, "tile", torch.float32])
def test_blocks_as_they_are_shipped(weights):
    from malt_fast.kernels import softmax_rows_triton

    case = make(2, 9001, 3, bias=True, temperature=True, spread=5.0)
    compare(softmax_rows_triton, case, 5000, weights=weights)


STORED = [(torch.float16, 2e-3)] + [(torch.bfloat16, 2e-2)] * GPU  # wrong in the interpreter


@pytest.mark.parametrize(("dtype", "tolerance"), STORED)
def test_low_precision_is_storage_only(triton_rows, dtype, tolerance):
    """Sums and targets are as exact as in float32, whatever logits, weights, gradients are in."""
    case = make(2, 29, spread=4.0, dtype=dtype, temperature=True)
    compare(triton_rows, case, 29, out=dtype, tolerance=tolerance)
    compare(triton_rows, make(2, 29, spread=4.0), 20, weights=dtype, out=dtype, tolerance=tolerance)


@pytest.mark.parametrize("width", [8, 16])
def test_targets_at_borders_of_tiles_and_blocks(triton_rows, width):
    """On the CPU a block has 8 columns: tiles of one block, and of two."""
    case = make(2, 32)
    borders = torch.tensor([0, 7, 8, 15, 16, 17, 30, 31], device=DEVICE)
    case.targets = Targets(torch.tensor([0, 8, 8], device=DEVICE), borders)
    case.grad_target = torch.arange(1.0, 9.0, device=DEVICE)
    case.grad_row = torch.tensor([36.0, 0.0], device=DEVICE)
    compare(triton_rows, case, width, weights=None)
    state, share = folded(triton_rows, case, width, weights="tile")
    assert share[0, borders].tolist() == [0.0] * len(borders)  # exactly, as no target is in R
    assert state.target_logit.tolist() == case.raw[0, borders].tolist()
    state, _ = folded(triton_rows, case, width, backwards=True)
    assert state.target_logit.tolist() == case.raw[0, borders].tolist()


@pytest.mark.parametrize("weights", [None, "tile"])
def test_rows_of_a_part_of_the_targets(triton_rows, weights):
    """`start` need not begin at 0, and targets of other rows stay as they were."""
    case = make(6, 20, 3)
    part = slice(2, 5)
    begin, end = case.targets.start[part.start].item(), case.targets.start[part.stop].item()
    case.raw, case.grad_row = case.raw[part], case.grad_row[part]
    case.targets = case.targets.rows(part)
    state, _ = folded(triton_rows, case, 9, weights=weights)
    truth, _ = folded(softmax_rows_torch, double(case), 9, weights=weights)
    near(state.target_logit, truth.target_logit)
    assert (state.target_logit[:begin] == 100).all() and (state.target_logit[end:] == 100).all()
    compare(triton_rows, case, 9, weights=weights)


@pytest.mark.parametrize("weights", [None, "tile"])
@pytest.mark.parametrize("value", [0.0, 1e4, -1e4])
def test_identical_logits(triton_rows, value, weights):
    case = make(2, 33)
    case.raw.fill_(value)
    state = compare(triton_rows, case, 20, weights=weights)
    near(state.entropy(), torch.full((2,), 33.0, device=DEVICE).log())


@pytest.mark.parametrize("weights", [None, "tile"])
@pytest.mark.parametrize("softcap", [0.0, 50.0])
def test_logits_of_ten_thousand(triton_rows, weights, softcap):
    case = make(4, 40, softcap=softcap)
    case.raw[0, ::3] = 1e4
    case.raw[1, ::3] = -1e4
    case.raw[2] = case.raw[2] - 1e4
    case.raw[3, 17], case.raw[3, 30] = 1e4, 9996.0
    state = compare(triton_rows, case, 11, weights=weights)
    if not softcap:
        assert (log_total(state) - case.raw.double().logsumexp(1)).abs().max() < 1e-5


@pytest.mark.parametrize(("step", "rising"), [(1.0, True), (20.0, True), (20.0, False)])
def test_the_offset_moves_by_margins(triton_rows, step, rising):
    """Sums, residual and weights follow an offset that moves at some tiles, at all, at none."""
    case = make(1, 32, 1)
    ramp = torch.arange(32.0, device=DEVICE) * step
    case.raw.copy_(ramp if rising else ramp.flip(0))
    for weights in (None, "tile"):
        compare(triton_rows, case, 5, weights=weights)
        compare(triton_rows, case, 32, weights=weights)


@pytest.mark.parametrize("weights", [None, "tile"])
def test_entropy_follows_an_offset_that_moves(triton_rows, weights):
    """Both sides of the move have weight: 28 logits of 0, then one just above the margin."""
    case = make(1, 29, 1)
    case.raw.zero_()[0, -1] = 8.5
    assert compare(triton_rows, case, 10, weights=weights).entropy() > 0.04


def test_narrow_weights_stay_finite(triton_rows):
    """The first block, whose largest logit is the offset, is far below what follows."""
    case = make(2, 24, 1)
    case.raw[:, : triton_rows.BLOCK] = -20.0
    case.raw[1, 17:] = 12.0
    state = compare(triton_rows, case, 24, weights=torch.float16, tolerance=2e-3)
    assert state.residual.isfinite().all()


@pytest.mark.parametrize("weights", [None, "tile"])
def test_minus_infinity(triton_rows, weights):
    case = make(4, 30, 1)
    case.raw[0, :12] = -torch.inf  # a whole tile and more
    case.raw[1, 5::2] = -torch.inf
    case.raw[2] = -torch.inf
    case.raw[2, 29] = 1.5  # all of the mass
    case.raw[3] = -torch.inf  # no mass: not a number, but only here
    state = compare(triton_rows, case, 10, weights=weights)
    assert state.log_total()[:3].isfinite().all()
    near(state.entropy()[2], torch.tensor(0.0, device=DEVICE))


@pytest.mark.parametrize("weights", [None, "tile"])
def test_not_a_number_stays_in_its_row(triton_rows, weights):
    case = make(3, 30, 1)
    case.raw[0, 13] = torch.nan
    case.raw[2] = torch.nan
    state, share = folded(triton_rows, case, 10, weights=weights)
    assert state.log_total().isnan().tolist() == [True, False, True]
    assert state.entropy().isnan().tolist() == [True, False, True]
    grads = gradients(triton_rows, case, 10, state.log_total())
    assert grads[0].isnan().all() and grads[1].isfinite().all()
    if share is not None:
        assert share[0].isnan().all() and share[1].isfinite().all()


def test_softcap_near_zero(triton_rows):
    """tanh keeps its relative accuracy: a logit of 1e-6 is not lost in 1 - exp."""
    case = make(1, 8, softcap=1.0)
    case.raw.copy_(torch.logspace(-6, 0, 8, device=DEVICE))
    case.targets = Targets(torch.tensor([0, 8], device=DEVICE), torch.arange(8, device=DEVICE))
    state, _ = folded(triton_rows, case, 8)
    torch.testing.assert_close(state.target_logit, case.raw[0].tanh(), rtol=1e-6, atol=0)


def test_nothing_is_written_outside_of_the_tile(triton_rows):
    case = make(3, 21)
    whole = torch.full((5, 40), 7.0, device=DEVICE)
    tile = whole[1:4, 6:27]
    tile.copy_(case.raw)
    state = RunningSoftmax.start(3, torch.zeros(len(case.targets.token), device=DEVICE))
    described = case.transform, case.targets
    triton_rows.fold(tile, 0, *described, state, tile)
    upstream = Upstream(state.log_total(), case.grad_target, case.grad_row)
    triton_rows.gradient(tile, tile, 0, *described, upstream)
    tile.fill_(7.0)
    assert (whole == 7).all()


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_an_empty_tile_changes_nothing(triton_rows, shape):
    case = make(*shape)
    tile, rows = torch.empty(shape, device=DEVICE), torch.zeros(shape[0], device=DEVICE)
    state = RunningSoftmax.start(shape[0], rows[:0])
    described = case.transform, case.targets
    triton_rows.fold(tile, 0, *described, state, tile)
    triton_rows.gradient(tile, tile, 0, *described, Upstream(rows, rows[:0], rows))
    assert (state.offset == -torch.inf).all() and (state.total == 0).all()


@pytest.mark.skipif(not GPU, reason="needs the memory of a GPU")
def test_rows_beyond_32_bits():
    from malt_fast.kernels import softmax_rows_triton

    stride = 2**31 + 16
    raw = torch.empty(stride + 64, dtype=torch.float16, device=DEVICE)
    case = make(2, 64, dtype=torch.float16)
    case.raw = raw.as_strided((2, 64), (stride, 1)).copy_(case.raw)
    compare(softmax_rows_triton, case, 64, tolerance=2e-3)  # gradients are float16


# ---- the operations that call them ----


@pytest.fixture
def driven(triton_rows, monkeypatch):
    """The operations in small tiles through Triton, but for float64."""

    def choose(device, dtype):
        return softmax_rows_torch if dtype == torch.float64 else triton_rows

    monkeypatch.setattr(softmax_rows, "choose", choose)
    monkeypatch.setattr(tiles, "TILE", {"cpu": (4, 24), "cuda": (4, 24)})


@pytest.mark.parametrize("trained", [False, True])
def test_linear_logprob(driven, trained):
    case = heads.make_case(5, 7, 30, 12, bias=True, temperature="rows", softcap=3.0)

    def run(dtype):
        tensors = {name: getattr(case, name).to(DEVICE) for name in ("rows", "targets")}
        for name in ("hidden", "weight", "bias", "temperature"):
            tensors[name] = getattr(case, name).to(DEVICE, dtype)
        x = replace(case, **tensors).with_gradients(head=trained)
        out = linear_logprob(
            x.hidden, x.weight, x.rows, x.targets, return_entropy=True, **x.settings
        )
        grad = heads.upstream(case).to(out.logp)
        return [*out, *torch.autograd.grad(out.logp, x.leaves(), grad)]

    for ours, truth in zip(run(torch.float32), run(torch.float64), strict=True):
        near(ours, truth)


@pytest.mark.parametrize("inplace", [False, True])
def test_logprob_from_logits(driven, inplace):
    case = make(3, 21, 0)
    targets = torch.arange(3, device=DEVICE) * 8

    def run(raw, **kwargs):
        leaf = raw.detach().requires_grad_()
        logits = leaf * 1.0
        out = logprob_from_logits(logits, targets, temperature=0.7, return_entropy=True, **kwargs)
        grad = torch.arange(3.0, device=DEVICE).to(out.logp.dtype)
        return out.logp, out.entropy, torch.autograd.grad(out.logp, leaf, grad)[0]

    ours = run(case.raw, inplace_backward=inplace)
    for mine, truth in zip(ours, run(case.raw.double()), strict=True):
        near(mine, truth)
