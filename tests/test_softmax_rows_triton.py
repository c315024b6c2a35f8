"""Triton's fold and gradient against their torch twin in float64.

Without a GPU they run through Triton's interpreter, which has to be chosen before triton is first
imported: the one test that pytest collects here runs this file's checks in a process of their own.
"""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malt_fast.kernels import softmax_rows
from malt_fast.kernels.softmax_rows import TORCH, Head, running

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"


def test_kernels_agree_with_their_twin():
    pytest.importorskip("triton")
    env = os.environ if GPU else os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header"]
    run = subprocess.run(
        [*command, "-o", "python_functions=check_*", __file__],
        env=env,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture
def triton_rows(monkeypatch):
    """The module, with blocks small enough that small tiles have several."""
    from malt_fast.kernels import softmax_rows_triton

    monkeypatch.setattr(softmax_rows_triton, "BLOCK", 32 if GPU else 8)
    monkeypatch.setattr(softmax_rows_triton, "WARPS", 1)
    return softmax_rows_triton


# ---- problems ----


def make(
    rows=3,
    vocabulary=37,
    targets=2,
    *,
    spread=3.0,
    bias=False,
    temperature=False,
    softcap=0.0,
    dtype=torch.float32,
    seed=0,
):
    """Raw logits in a wider tensor, a head, up to `targets` a row, and upstream gradients."""
    g = torch.Generator().manual_seed(seed)
    wide = torch.randn(rows, vocabulary + 5, generator=g) * spread
    lengths = torch.randint(targets + 1, (rows,), generator=g).clamp(max=vocabulary)
    token = [torch.randperm(vocabulary, generator=g)[:n] for n in lengths.tolist()]
    start = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    grad = torch.randn(int(lengths.sum()), generator=g)
    row = torch.repeat_interleave(lengths)
    return SimpleNamespace(
        raw=wide.to(DEVICE, dtype)[:, :vocabulary],
        head=Head(
            torch.randn(vocabulary, generator=g).to(DEVICE) if bias else None,
            (torch.rand(rows, generator=g) + 0.5).to(DEVICE) if temperature else None,
            softcap,
        ),
        start=start.to(DEVICE),
        token=torch.cat([torch.zeros(0, dtype=torch.long), *token]).to(DEVICE),
        grad_target=grad.to(DEVICE),
        grad_row=torch.zeros(rows).index_add_(0, row, grad).to(DEVICE),
        matrix=torch.randn(vocabulary, 11, generator=g).to(DEVICE),  # the residual is a sum over it
    )


def double(value):
    """The same in float64, against which float32 is measured."""
    if isinstance(value, SimpleNamespace):
        return SimpleNamespace(**{name: double(x) for name, x in vars(value).items()})
    if isinstance(value, Head):
        return Head(double(value.bias), double(value.temperature), value.softcap)
    return value.double() if value is not None and value.is_floating_point() else value


def folded(ops, case, width, *, entropy=True, weights=None, backwards=False):
    """State after all tiles, and softmax(z) cap'(raw) of every column if there are `weights`.

    weights: None, "tile" for those that go over the tile, or the dtype of a tensor of their own.
    """
    rows, vocabulary = case.raw.shape
    sums = softmax_rows.sums_dtype(case.raw.dtype)
    target_logit = torch.full((len(case.token),), 100.0, device=DEVICE, dtype=sums)
    residual = None if weights is None else target_logit.new_zeros(rows, case.matrix.shape[1])
    state = running(rows, target_logit, entropy=entropy, residual=residual)
    kept, offsets = [], []
    for first in list(range(0, vocabulary, width))[:: -1 if backwards else 1]:
        tile = case.raw[:, first : first + width]
        out = None
        if weights == "tile":
            tile = out = tile.clone()
        elif weights is not None:
            out = torch.full_like(tile, 7.0, dtype=weights)
        ops.fold(tile, first, case.head, case.start, case.token, state, out)
        if out is not None:
            kept.append(out.to(sums))
            offsets.append(state.offset.clone().nan_to_num(neginf=0))
            state.residual.add_(kept[-1] @ case.matrix[first : first + width].to(sums))
    base = state.offset.nan_to_num(neginf=0)
    share = [
        x * ((o - base).exp() / state.total)[:, None] for x, o in zip(kept, offsets, strict=True)
    ]
    return state, torch.cat(share, 1) if share else None


def gradients(ops, case, width, log_total, *, out=None):
    """out: None for gradients that go over the tile, or the dtype of a tensor of their own."""
    whole = []
    for first in range(0, case.raw.shape[1], width):
        tile = case.raw[:, first : first + width]
        draw = tile.clone() if out is None else torch.full_like(tile, 7.0, dtype=out)
        ops.gradient(
            draw if out is None else tile,
            draw,
            first,
            case.head,
            case.start,
            case.token,
            log_total,
            case.grad_target,
            case.grad_row,
        )
        whole.append(draw.double())
    return torch.cat(whole, 1) if whole else case.raw.double()


def log_total(state):
    """In float64: float32 cannot hold 1e4 and the digits that matter here."""
    return state.offset.double() + state.total.double().log()


def near(ours, truth, tolerance=1e-5):
    torch.testing.assert_close(
        ours.double(), truth.double(), rtol=tolerance, atol=tolerance, equal_nan=True
    )


def compare(ops, case, width, *, entropy=True, weights=None, out=None, tolerance=1e-5):
    state, share = folded(ops, case, width, entropy=entropy, weights=weights)
    true_weights = torch.float64 if isinstance(weights, torch.dtype) else weights
    truth, true_share = folded(TORCH, double(case), width, entropy=entropy, weights=true_weights)
    torch.testing.assert_close(
        log_total(state), log_total(truth), rtol=3e-7, atol=1e-5, equal_nan=True
    )
    near(state.target_logit, truth.target_logit)
    if entropy:
        near(state.entropy(), truth.entropy(), 3e-5)
    if weights is not None:
        near(share, true_share, tolerance)
        near(
            state.residual / state.total[:, None],
            truth.residual / truth.total[:, None],
            30 * tolerance,
        )
    given = state.log_total()  # to both: how it was rounded is no concern of `gradient`
    draw = gradients(ops, case, width, given, out=out)
    near(draw, gradients(TORCH, double(case), width, given.double()), tolerance)
    return state


# ---- checks ----


@settings(
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.sampled_from([0, 1, 2, 3, 5]),
    vocabulary=st.sampled_from([1, 2, 7, 8, 16, 17, 31, 37, 64]),
    width=st.sampled_from([1, 8, 13, 16, 29, 64]),
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
def check_any_shape_and_head(triton_rows, width, entropy, weights, out, **shape):
    case, width = make(**shape), max(width, shape["vocabulary"] // 4)
    options = {"entropy": entropy, "weights": weights, "out": out}
    compare(triton_rows, case, width, tolerance=3e-5, **options)


@pytest.mark.parametrize("weights", [None, "tile", torch.float32])
def check_blocks_as_they_are_shipped(weights):
    from malt_fast.kernels import softmax_rows_triton

    case = make(2, 9001, 3, bias=True, temperature=True, spread=5.0)
    compare(softmax_rows_triton, case, 5000, weights=weights)


STORED = [(torch.float16, 2e-3)] + [(torch.bfloat16, 2e-2)] * GPU  # wrong in the interpreter


@pytest.mark.parametrize(("dtype", "tolerance"), STORED)
def check_low_precision_is_storage_only(triton_rows, dtype, tolerance):
    """Sums and targets are as exact as in float32, whatever logits, weights, gradients are in."""
    case = make(4, 61, spread=4.0, dtype=dtype, temperature=True)
    compare(triton_rows, case, 61, out=dtype, tolerance=tolerance)
    compare(triton_rows, make(4, 61, spread=4.0), 20, weights=dtype, out=dtype, tolerance=tolerance)


@pytest.mark.parametrize("width", [8, 16, 32])
@pytest.mark.parametrize("weights", [None, "tile"])
def check_targets_at_borders_of_tiles_and_blocks(triton_rows, width, weights):
    case = make(2, 64)
    borders = torch.tensor([0, 7, 8, 15, 16, 31, 32, 33, 62, 63], device=DEVICE)
    case.start = torch.tensor([0, len(borders), len(borders)], device=DEVICE)
    case.token, case.grad_target = borders, torch.arange(1.0, 11.0, device=DEVICE)
    case.grad_row = torch.tensor([55.0, 0.0], device=DEVICE)
    compare(triton_rows, case, width, weights=weights)
    state, share = folded(triton_rows, case, width, weights="tile")
    assert share[0, borders].tolist() == [0.0] * len(borders)  # exactly, as no target is in R
    assert state.target_logit.tolist() == case.raw[0, borders].tolist()
    state, _ = folded(triton_rows, case, width, weights=weights, backwards=True)
    assert state.target_logit.tolist() == case.raw[0, borders].tolist()


@pytest.mark.parametrize("weights", [None, "tile"])
def check_rows_of_a_part_of_the_targets(triton_rows, weights):
    """`start` need not begin at 0, and targets of other rows stay as they were."""
    case = make(6, 20, 3)
    part = slice(2, 5)
    begin, end = case.start[part.start].item(), case.start[part.stop].item()
    case.raw, case.grad_row = case.raw[part], case.grad_row[part]
    case.start = case.start[part.start : part.stop + 1]
    state, _ = folded(triton_rows, case, 9, weights=weights)
    truth, _ = folded(TORCH, double(case), 9, weights=weights)
    near(state.target_logit, truth.target_logit)
    assert (state.target_logit[:begin] == 100).all() and (state.target_logit[end:] == 100).all()
    compare(triton_rows, case, 9, weights=weights)


@pytest.mark.parametrize("weights", [None, "tile"])
@pytest.mark.parametrize("value", [0.0, 1e4, -1e4])
def check_identical_logits(triton_rows, value, weights):
    case = make(2, 33)
    case.raw.fill_(value)
    state = compare(triton_rows, case, 20, weights=weights)
    near(state.entropy(), torch.full((2,), 33.0, device=DEVICE).log())


@pytest.mark.parametrize("weights", [None, "tile"])
@pytest.mark.parametrize("softcap", [0.0, 50.0])
def check_logits_of_ten_thousand(triton_rows, weights, softcap):
    case = make(4, 40, softcap=softcap)
    case.raw[0, ::3] = 1e4
    case.raw[1, ::3] = -1e4
    case.raw[2] = case.raw[2] - 1e4
    case.raw[3, 17], case.raw[3, 30] = 1e4, 9996.0
    state = compare(triton_rows, case, 11, weights=weights)
    if not softcap:
        assert (log_total(state) - case.raw.double().logsumexp(1)).abs().max() < 1e-5


@pytest.mark.parametrize("rising", [True, False])
@pytest.mark.parametrize("step", [0.01, 1.0, 20.0])
def check_the_offset_moves_by_margins(triton_rows, step, rising):
    """Sums, residual and weights follow an offset that stays, or moves at nearly every tile."""
    case = make(2, 64, 1)
    ramp = torch.arange(64.0, device=DEVICE) * step
    case.raw.copy_(ramp if rising else ramp.flip(0))
    for weights in (None, "tile"):
        compare(triton_rows, case, 5, weights=weights)
        compare(triton_rows, case, 64, weights=weights)


def check_narrow_weights_stay_finite(triton_rows):
    """The first block, whose largest logit is the offset, is far below what follows."""
    case = make(3, 64, 1)
    case.raw[:, :32] = -20.0
    case.raw[1, 40:] = 12.0
    state = compare(triton_rows, case, 64, weights=torch.float16, tolerance=2e-3)
    assert state.residual.isfinite().all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), *STORED])
@pytest.mark.parametrize("width", [1, 13, 64])
def check_kept_weights_are_spent(triton_rows, width, dtype, tolerance):
    case = make(5, 64, 4)
    weights = torch.rand(5, 64, device=DEVICE).to(dtype)
    factor = torch.randn(5, device=DEVICE)
    own = torch.randn(len(case.token), device=DEVICE)
    truth = weights.double()
    for first in range(0, 64, width):
        given = (first, case.start, case.token)
        triton_rows.spend(weights[:, first : first + width], *given, factor, own)
        TORCH.spend(truth[:, first : first + width], *given, factor.double(), own.double())
    near(weights, truth, tolerance)


@pytest.mark.parametrize("weights", [None, "tile"])
def check_minus_infinity(triton_rows, weights):
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
def check_not_a_number_stays_in_its_row(triton_rows, weights):
    case = make(3, 30, 1)
    case.raw[0, 13] = torch.nan
    case.raw[2] = torch.nan
    state, share = folded(triton_rows, case, 10, weights=weights)
    assert state.log_total().isnan().tolist() == [True, False, True]
    assert state.entropy().isnan().tolist() == [True, False, True]
    draw = gradients(triton_rows, case, 10, state.log_total())
    assert draw[0].isnan().all() and draw[1].isfinite().all()
    if share is not None:
        assert share[0].isnan().all() and share[1].isfinite().all()


def check_softcap_near_zero(triton_rows):
    """tanh keeps its relative accuracy: a logit of 1e-6 is not lost in 1 - exp."""
    case = make(1, 8, softcap=1.0)
    case.raw.copy_(torch.logspace(-6, 0, 8, device=DEVICE))
    case.start, case.token = torch.tensor([0, 8], device=DEVICE), torch.arange(8, device=DEVICE)
    state, _ = folded(triton_rows, case, 8)
    torch.testing.assert_close(state.target_logit, case.raw[0].tanh(), rtol=1e-6, atol=0)


def check_nothing_is_written_outside_of_the_tile(triton_rows):
    case = make(3, 21)
    whole = torch.full((5, 40), 7.0, device=DEVICE)
    tile = whole[1:4, 6:27]
    tile.copy_(case.raw)
    state = running(3, case.raw.new_zeros(len(case.token)))
    triton_rows.fold(tile, 0, case.head, case.start, case.token, state, tile)
    targets = (case.token, state.log_total(), case.grad_target, case.grad_row)
    triton_rows.gradient(tile, tile, 0, case.head, case.start, *targets)
    tile.fill_(7.0)
    assert (whole == 7).all()


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def check_an_empty_tile_changes_nothing(triton_rows, shape):
    case = make(*shape)
    tile, rows = torch.empty(shape, device=DEVICE), torch.zeros(shape[0], device=DEVICE)
    state = running(shape[0], case.raw.new_zeros(0))
    triton_rows.fold(tile, 0, case.head, case.start, case.token, state, tile)
    triton_rows.gradient(tile, tile, 0, case.head, case.start, case.token, rows, rows[:0], rows)
    assert (state.offset == -torch.inf).all() and (state.total == 0).all()


@pytest.mark.skipif(not GPU, reason="needs the memory of a GPU")
def check_rows_beyond_32_bits():
    from malt_fast.kernels import softmax_rows_triton

    stride = 2**31 + 16
    raw = torch.empty(stride + 64, dtype=torch.float16, device=DEVICE)
    case = make(2, 64, dtype=torch.float16)
    case.raw = raw.as_strided((2, 64), (stride, 1)).copy_(case.raw)
    compare(softmax_rows_triton, case, 64, tolerance=2e-3)  # gradients are float16


# ---- the operations that call them ----


@pytest.fixture
def driven(triton_rows, monkeypatch):
    """linear_logprob and logprob_from_logits in small tiles through Triton, but for float64."""
    from malt_fast.kernels import logprob_from_logits as _  # noqa: F401

    def choose(device, dtype):
        return TORCH if dtype == torch.float64 else triton_rows

    monkeypatch.setattr(softmax_rows, "choose", choose)
    driver = sys.modules["malt_fast.kernels.linear_logprob"]
    monkeypatch.setattr(driver, "TILE", {"cpu": (4, 24), "cuda": (4, 24)})
    return driver.linear_logprob


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"bias": True, "logit_softcap": 3.0, "return_entropy": True}]
)
def check_linear_logprob(driven, trained, options):
    g = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*s, generator=g).to(DEVICE) for s in ((9, 17), (61, 17), (61,))
    )
    rows = torch.randint(9, (30,), generator=g).to(DEVICE)
    targets = torch.randint(61, (30,), generator=g).to(DEVICE)
    upstream = torch.randn(30, generator=g).to(DEVICE)
    temperature = (torch.rand(9, generator=g) + 0.5).to(DEVICE)

    def run(dtype):
        inputs = [x.to(dtype).requires_grad_() for x in (hidden, weight, bias)]
        h, w, b = (inputs[0], *(x if trained else x.detach() for x in inputs[1:]))
        kwargs = options | {"bias": b if "bias" in options else None, "temperature": temperature}
        out = driven(h, w, rows, targets, **kwargs)
        logp, *entropy = out if isinstance(out, tuple) else (out,)
        leaves = [x for x in (h, w, kwargs["bias"]) if x is not None and x.requires_grad]
        return [logp, *entropy, *torch.autograd.grad(logp, leaves, upstream.to(logp.dtype))]

    for ours, truth in zip(run(torch.float32), run(torch.float64), strict=True):
        near(ours, truth)


@pytest.mark.parametrize("inplace", [False, True])
def check_logprob_from_logits(driven, inplace):
    operation = sys.modules["malt_fast.kernels.logprob_from_logits"].logprob_from_logits
    case = make(6, 45, 0)
    targets = torch.arange(6, device=DEVICE) * 8

    def run(raw, **kwargs):
        leaf = raw.detach().requires_grad_()
        logits = leaf * 1.0
        out = operation(logits, targets, temperature=0.7, return_entropy=True, **kwargs)
        grad = torch.arange(6.0, device=DEVICE).to(out.logp.dtype)
        return out.logp, out.entropy, torch.autograd.grad(out.logp, leaf, grad)[0]

    ours = run(case.raw, inplace_backward=inplace)
    for mine, truth in zip(ours, run(case.raw.double()), strict=True):
        near(mine, truth)
