"""The fused head against plain torch in float64, in Triton's interpreter where there is no GPU."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malt_fast.kernels.running_softmax import RunningSoftmax, Targets
from malt_fast.kernels.tuned import Config

from tests.kernels.row_operations import DEVICE, GPU, INTERPRETED
from tests.volume import volume

pytest.importorskip("triton")
if not (GPU or INTERPRETED):
    pytest.skip("needs a GPU that torch sees, or TRITON_INTERPRET=1", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, on inf and NaN

SMALL = Config(block_rows=16, block_columns=32, block_depth=16, warps=4, stages=2, group=2)


@pytest.fixture(scope="module")
def fused():
    from malt_fast.kernels import fused_head_triton

    return fused_head_triton


def make(rows, depth, vocabulary, *, spread=1.0, seed=0, dtype=torch.float32):
    """hidden, weight, target."""
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, depth, generator=g) * spread
    weight = torch.randn(vocabulary, depth, generator=g) / depth**0.5
    target = torch.randint(vocabulary, (rows,), generator=g)
    return hidden.to(DEVICE, dtype), weight.to(DEVICE, dtype), target.to(DEVICE)


def given_logits(z):
    """hidden and weight whose logits are exactly z [R, V]."""
    rows, depth = len(z), -len(z) % 4 + len(z)
    weight = torch.zeros(z.shape[1], depth)
    weight[:, :rows] = z.T
    return torch.eye(rows, depth, device=DEVICE), weight.to(DEVICE)


def run(fused, hidden, weight, target, config=SMALL, *, width=10**6, kept=None):
    """Statistics of all tiles, target logits, and weights [R, V] of dtype `kept` if given.

    The head is taken in slices of `width` columns. Outputs hold NaN before.
    """
    rows, vocabulary = len(hidden), len(weight)
    offset = fused.target_logits(hidden, weight, torch.arange(rows, device=DEVICE), target)
    statistics, kept_weights = [], []
    for first in range(0, vocabulary, width):
        part = weight[first : first + width]
        slots = fused.new_statistics(rows + 3, len(part), config, hidden.device).fill_(torch.nan)
        slots = slots[:, :, 2 : rows + 2]  # of some of the rows of a batch
        weights = None
        if kept is not None:
            size = rows, -(-len(part) // 8) * 8 + 8
            room = torch.full(size, torch.nan, dtype=kept, device=DEVICE)
            weights = room[:, : len(part)]
            kept_weights.append(weights)
        fused.fused_head(hidden, part, first, target, offset, slots, weights, config)
        assert weights is None or room[:, len(part) :].isnan().all()
        statistics.append(slots)
    return torch.cat(statistics, 1), offset, torch.cat(kept_weights, 1) if kept_weights else None


def settled(fused, statistics, offset, target, vocabulary):
    """log sum exp z [R], and log-probs of the targets [R]."""
    each = torch.arange(len(target) + 1, device=DEVICE)
    state = RunningSoftmax(offset.clone(), torch.zeros_like(offset), None, offset, None)
    fused.settle(statistics, slice(0, vocabulary), Targets(each, target), state, None, SMALL)
    return state.log_total(), state.logp(each[:-1])


def flagged(statistics, offset):
    """[R]: rows with weights that are not exp(z - offset)."""
    return (statistics[1] > offset).any(0)


def check(fused, hidden, weight, target, config=SMALL, *, tolerance=1e-5, **how):
    """Compare everything with float64."""
    statistics, offset, weights = run(fused, hidden, weight, target, config, **how)
    log_sum, logp = settled(fused, statistics, offset, target, len(weight))
    z = hidden.double() @ weight.double().T
    index = target[:, None]
    own = z.gather(1, index)
    near = torch.testing.assert_close
    near(log_sum.double(), z.logsumexp(1), rtol=3e-7, atol=tolerance)
    near(logp.double(), z.log_softmax(1).gather(1, index)[:, 0], rtol=3e-7, atol=tolerance)
    limit = fused.LIMIT_FLOAT16 if how.get("kept") == torch.float16 else fused.LIMIT
    far = (z - own > limit).any(1)
    assert torch.equal(flagged(statistics, offset), far)
    if weights is not None:
        expected = (z - own).exp().scatter(1, index, 0.0)[~far]
        step = torch.finfo(weights.dtype).eps
        near(weights[~far].double(), expected, rtol=max(tolerance, step), atol=step * 1e-3)
        assert (weights.gather(1, index) == 0).all() and weights.isfinite().all()
    return statistics, weights


@settings(
    max_examples=volume(20),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.sampled_from([1, 15, 16, 37]),
    depth=st.sampled_from([4, 16, 20, 40]),
    vocabulary=st.sampled_from([1, 8, 31, 32, 65, 100]),
    width=st.sampled_from([32, 64, 1000]),
    group=st.integers(1, 3),
    spread=st.sampled_from([0.1, 1.0, 5.0]),
    kept=st.sampled_from([None, torch.float32]),
    seed=st.integers(0, 99),
)
def test_any_shape(fused, rows, depth, vocabulary, spread, seed, width, group, kept):
    case = make(rows, depth, vocabulary, spread=spread, seed=seed)
    check(fused, *case, replace(SMALL, group=group), width=width, kept=kept)


@pytest.mark.parametrize("kept", [None, torch.float32])
def test_every_way_to_compute_the_same(fused, kept):
    case = make(21, 20, 70, spread=3.0)
    wanted = check(fused, *case, kept=kept)
    for change in (
        {}, {"halves": True}, {"flatten": True}, {"warp_specialize": True}, {"stages": 3},
        {"group": 1}, {"group": 50},
    ):  # fmt: skip
        statistics, weights = check(fused, *case, replace(SMALL, **change), kept=kept)
        assert torch.equal(statistics, wanted[0])
        assert kept is None or torch.equal(weights, wanted[1])


@pytest.mark.parametrize("kept", [None, torch.float32])
def test_logits_far_above_the_target(fused, kept):
    """Rows are flagged above 60; all log-sums are exact, whatever the row's largest logit."""
    gaps = torch.tensor([0.0, 59.0, 61.0, 200.0, 1e4, -59.0, -1e4])
    z = torch.randn(len(gaps), 90, generator=torch.Generator().manual_seed(0)).clamp(-2, 2) - 5
    target = torch.tensor([0, 31, 32, 89, 5, 6, 7])
    z[torch.arange(len(gaps)), target] = 0.0
    z[torch.arange(len(gaps)), torch.tensor([40, 40, 0, 88, 6, 50, 50])] = gaps
    statistics, weights = check(fused, *given_logits(z), target.to(DEVICE), kept=kept)
    assert flagged(statistics, target * 0.0).tolist() == [0, 0, 1, 1, 1, 0, 0]
    if weights is not None:  # also of flagged rows, relative to the base of their tile
        base = statistics[1].repeat_interleave(SMALL.block_columns, 0)[:90].T.cpu()
        expected = (z - base).exp().scatter(1, target[:, None], 0.0)
        torch.testing.assert_close(weights.cpu(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_logits_of_ten_thousand(fused, shift):
    z = torch.randn(4, 50, generator=torch.Generator().manual_seed(1)) + shift
    check(fused, *given_logits(z), torch.tensor([0, 7, 31, 49], device=DEVICE), kept=torch.float32)


def test_float16(fused):
    """Weights in float16 have little room: rows are flagged above 10."""
    case = make(18, 24, 70, spread=2.0, dtype=torch.float16)
    check(fused, *case, kept=torch.float16, tolerance=1e-4)
    z = torch.zeros(3, 40)
    z[:, 5] = torch.tensor([9.0, 11.0, 200.0])
    hidden, weight = (x.half() for x in given_logits(z))
    hidden, weight = (torch.nn.functional.pad(x, (0, 4)) for x in (hidden, weight))
    check(fused, hidden, weight, torch.tensor([0, 1, 2], device=DEVICE), kept=torch.float16)


def test_the_same_bits_again(fused):
    case = make(33, 36, 90, spread=4.0)
    once, again = (run(fused, *case, kept=torch.float32) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_not_a_number_stays_in_its_row(fused):
    hidden, weight, target = make(20, 8, 40)
    hidden[3, 5] = torch.nan
    statistics, offset, weights = run(fused, hidden, weight, target, kept=torch.float32)
    log_sum, logp = settled(fused, statistics, offset, target, len(weight))
    wrong = torch.arange(20, device=DEVICE) == 3
    assert torch.equal(log_sum.isnan(), wrong) and torch.equal(logp.isnan(), wrong)
    assert torch.equal(weights.isnan().any(1), wrong)


@pytest.mark.parametrize(("rows", "vocabulary"), [(0, 9), (5, 0)])
def test_nothing_to_do(fused, rows, vocabulary):
    hidden, weight = torch.zeros(rows, 4, device=DEVICE), torch.zeros(vocabulary, 4, device=DEVICE)
    index, offset = torch.zeros(rows, dtype=torch.int64, device=DEVICE), hidden.new_zeros(rows)
    statistics = fused.new_statistics(rows, vocabulary, SMALL, hidden.device).fill_(7.0)
    fused.fused_head(hidden, weight, 0, index, offset, statistics, None, SMALL)
    assert (statistics == 7).all()
    assert fused.target_logits(hidden, weight, index[:0], index[:0]).shape == (0,)


@pytest.mark.parametrize("depth", [1, 30, 1024, 2100])
def test_target_logits(fused, depth):
    hidden, weight, _ = make(6, depth + 3, 11)
    hidden, weight = hidden[:, :depth], weight[:, 2 : depth + 2]  # rows with gaps between them
    row_of = torch.tensor([0, 5, 5, 2, 1, 1, 3], device=DEVICE)
    token = torch.tensor([10, 0, 10, 4, -100, 11, 3], device=DEVICE)
    ours = fused.target_logits(hidden, weight, row_of, token).double()
    z = (hidden.double() @ weight.double().T)[row_of, token.clamp(0, 10)]
    known = (token >= 0) & (token < 11)
    torch.testing.assert_close(ours[known], z[known], rtol=1e-5, atol=1e-5)
    assert ours[~known].isnan().all()


def test_readable(fused):
    matrix = torch.zeros(8, 64, dtype=torch.bfloat16, device=DEVICE)
    assert fused.readable(matrix) and fused.readable(matrix[3:, :30])
    assert not fused.readable(matrix[:, 1:])  # begins within 16 bytes
    assert not fused.readable(matrix.T) and not fused.readable(matrix[:, ::2])
    assert not fused.readable(torch.zeros(8, 20, dtype=torch.bfloat16, device=DEVICE))
