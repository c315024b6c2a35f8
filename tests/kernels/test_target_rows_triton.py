"""Triton's sums of few rows against plain torch in float64."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malt_fast.kernels.running_softmax import Targets

from tests.kernels.row_operations import DEVICE, GPU, INTERPRETED
from tests.volume import volume

pytest.importorskip("triton")
if not (GPU or INTERPRETED):
    pytest.skip("needs a GPU that torch sees, or TRITON_INTERPRET=1", allow_module_level=True)

LOW = [torch.float16, *[torch.bfloat16] * GPU]  # the interpreter has no bfloat16


@pytest.fixture
def kernels(monkeypatch):
    """The module, with blocks small enough that small rows have several."""
    from malt_fast.kernels import target_rows_triton

    monkeypatch.setattr(target_rows_triton, "BLOCK", 32 if GPU else 8)
    monkeypatch.setattr(target_rows_triton, "WARPS", 1)
    return target_rows_triton


def near(ours, truth):
    eps = torch.finfo(ours.dtype).eps
    torch.testing.assert_close(ours.double(), truth, rtol=2 * eps, atol=1e-5)


SETTINGS = settings(
    max_examples=volume(30),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
SHAPE = {
    "rows": st.integers(0, 5),
    "width": st.sampled_from([0, 1, 8, 13, 24]),
    "targets": st.integers(0, 4),
    "dtype": st.sampled_from([torch.float32, *LOW]),
    "seed": st.integers(0, 99),
}


@SETTINGS
@given(**SHAPE, without=st.integers(0, 2))
def test_row_gradients(kernels, rows, width, targets, dtype, seed, without):
    """`without`: the last rows have no residual, and stay as they were."""
    g = torch.Generator().manual_seed(seed)
    counts = torch.randint(targets + 1, (rows,), generator=g)
    start = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    d = int(counts.sum())
    token = torch.randint(7, (d,), generator=g)
    weight = torch.randn(7, width + 3, generator=g).to(dtype)[:, :width]
    residual = torch.randn(max(0, rows - without), width, generator=g)
    row, at_target = torch.randn(rows, generator=g), torch.randn(d, generator=g)
    place = torch.randperm(rows + 2, generator=g)[:rows].sort().values
    out = torch.full((rows + 2, width), torch.nan, dtype=dtype)
    truth = out.double()
    for u in range(len(residual)):
        own = slice(*start[u : u + 2].tolist())
        sums = at_target[own].double() @ weight[token[own]].double()
        truth[place[u]] = sums - row[u].double() * residual[u].double()
    given_here = [
        x.to(DEVICE) for x in (residual, row, start, token, at_target, weight, place, out)
    ]
    residual, row, start, token, at_target, weight, place, out = given_here
    kernels.row_gradients(residual, row, Targets(start, token), at_target, weight, place, out)
    done = place[: len(residual)].cpu()
    near(out.cpu()[done], truth[done])
    rest = [t for t in range(len(out)) if t not in done.tolist()]
    assert out[rest].isnan().all()


@SETTINGS
@given(**SHAPE)
def test_add_target_rows(kernels, rows, width, targets, dtype, seed):
    g = torch.Generator().manual_seed(seed)
    d = rows * targets
    token = torch.randint(6, (d,), generator=g).sort().values
    row = torch.randint(max(1, rows), (d,), generator=g)
    hidden = torch.randn(max(1, rows), width, generator=g)
    at_target = torch.randn(d, generator=g)
    dw = torch.randn(6, width, generator=g).to(dtype)
    truth = dw.double()
    truth.index_add_(0, token, at_target.double()[:, None] * hidden.double()[row])
    dw, token, row, at_target, hidden = (x.to(DEVICE) for x in (dw, token, row, at_target, hidden))
    kernels.add_target_rows(dw, token, row, at_target, hidden)
    near(dw.cpu(), truth)
