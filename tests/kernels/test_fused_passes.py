"""linear_logprob through the fused kernel, in Triton's interpreter where there is no GPU."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malt_fast.kernels import head_passes, kept_weights, softmax_rows, softmax_rows_torch, tiles
from malt_fast.kernels.tuned import Config

from tests.kernels.heads import Case, make_case, run, upstream, written_out
from tests.kernels.row_operations import GPU, INTERPRETED
from tests.volume import volume

pytest.importorskip("triton")
if GPU or not INTERPRETED:  # benchmarks/check_gpu.py checks a GPU
    pytest.skip("needs TRITON_INTERPRET=1", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, on inf and NaN

SMALL = Config(block_rows=16, block_columns=16, block_depth=8, warps=4, stages=2, group=2)


@pytest.fixture
def fused(monkeypatch):
    """The blocks that took the fused kernel: columns, and whether weights were wanted."""
    taken = []
    real = head_passes._fuse_block

    def fuse_block(*given):
        if done := real(*given):
            taken.append((given[2], given[5] is not None))
        return done

    monkeypatch.setattr(head_passes, "_fuse_block", fuse_block)
    monkeypatch.setattr(head_passes.tuned, "chosen", lambda *given, weights: SMALL)
    monkeypatch.setattr(softmax_rows, "choose", lambda device, dtype: softmax_rows_torch)
    monkeypatch.setitem(tiles.TILE, "cpu", (5 * 40, 40))
    return taken


def assert_right(case, head, tolerance=1e-5):
    case = case.with_gradients(head=head)
    g, (truth, _) = upstream(case), written_out(case)
    with torch.no_grad():
        torch.testing.assert_close(run(case).double(), truth, rtol=3e-7, atol=tolerance)
    ours = run(case)
    torch.testing.assert_close(ours.double(), truth, rtol=3e-7, atol=tolerance)
    grads = torch.autograd.grad(ours, case.leaves(), g)
    for mine, other in zip(
        grads, torch.autograd.grad(truth, case.leaves(), g.double()), strict=True
    ):
        largest = float(other.abs().max())
        assert float((mine - other).abs().max()) <= tolerance * max(1.0, largest)


@settings(
    max_examples=volume(12),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.integers(1, 9),
    targets=st.integers(1, 14),
    vocabulary=st.sampled_from([1, 8, 40, 75, 120]),
    head=st.booleans(),
    kept=st.sampled_from([1, 4 * 75 * 4, 1 << 20]),
    seed=st.integers(0, 99),
)
def test_values_and_gradients(fused, rows, targets, vocabulary, head, kept, seed):
    """kept: a trained head keeps weights of no rows, of some, of all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(kept_weights.KEPT, "cpu", kept)
        assert_right(make_case(rows, 12, vocabulary, targets, seed=seed), head, 3e-5)


def test_statistics_take_the_whole_head_at_once_and_weights_a_slice(fused):
    case = make_case(5, 12, 75, 5)
    with torch.no_grad():
        run(case)
    assert fused == [(slice(0, 75), False)]
    fused.clear()
    run(case.with_gradients(head=False))  # the last slice has 35 columns, rows not of 16 bytes
    assert fused == [(slice(0, 40), True)]


@pytest.mark.parametrize("head", [False, True])
def test_logits_far_above_the_target(fused, head):
    """The offset moves within a slice, between slices and more than once."""
    z = torch.randn(6, 120, generator=torch.Generator().manual_seed(0))
    for row, (column, value) in enumerate(
        [(30, 70.0), (90, 70.0), (17, 200.0), (119, 1e4), (60, 59.0), (0, -1e4)]
    ):
        z[row, column] = value
    z[2, 100], z[2, 50] = 400.0, 399.0
    hidden, weight = torch.eye(6, 8), torch.zeros(120, 8)
    weight[:, :6] = z.T
    rows, targets = torch.tensor([0, 0, 1, 2, 3, 4, 5]), torch.tensor([3, 30, 7, 8, 9, 10, 11])
    assert_right(Case(hidden, weight, rows, targets), head)


def test_what_the_kernel_does_not_know_goes_in_tiles(fused):
    case = make_case(5, 12, 75, 7)
    for change in (
        {"bias": torch.zeros(75)}, {"softcap": 3.0}, {"temperature": 0.5},
        {"weight": torch.zeros(75, 24)[:, ::2]},
        {"weight": torch.zeros(75, 12)[:, :10], "hidden": case.hidden[:, :10]},  # rows of 40 bytes
    ):  # fmt: skip
        run(replace(case, **change))
    run(case, return_entropy=True)
    assert not fused


def test_not_a_number_stays_in_its_row(fused):
    case = make_case(5, 12, 75, 5)
    case.hidden[3, 2] = torch.nan
    case = replace(case, rows=torch.arange(5)).with_gradients(head=False)
    logp = run(case)
    (dx,) = torch.autograd.grad(logp.sum(), case.hidden)
    wrong = [False, False, False, True, False]
    assert logp.isnan().tolist() == wrong and dx.isnan().any(1).tolist() == wrong


def test_a_target_out_of_range_gives_nan(fused):
    case = make_case(3, 12, 75, 3)
    targets = torch.tensor([1, -100, 99])
    out = run(replace(case, rows=torch.arange(3), targets=targets), check=False)
    assert out.isnan().tolist() == [False, True, True]
