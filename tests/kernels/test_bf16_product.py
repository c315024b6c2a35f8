"""Products of bfloat16 with float32 sums, against float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from malt_fast.kernels import tiles

from malt_fast import _core
from malt_fast.utils.tensors import bits
from tests.kernels.heads import make_case, run, upstream
from tests.volume import volume

core = _core.kernels
LEVELS = core.bf16_levels()
needs_instructions = pytest.mark.skipif(not LEVELS, reason="needs AVX512-BF16")
SIZES = st.sampled_from([0, 1, 2, 15, 16, 17, 31, 32, 33, 64, 250, 600])


def matrix(g, rows, columns, layout):
    """Random bfloat16: by rows, by columns, or every other element of a wider matrix."""
    if layout == "columns":
        return torch.randn(columns, rows, generator=g).bfloat16().T
    if layout == "gaps":
        return torch.randn(2 * rows, 3 * columns, generator=g).bfloat16()[::2, ::3]
    return torch.randn(rows, columns, generator=g).bfloat16()


@needs_instructions
@pytest.mark.parametrize("simd", LEVELS)
@settings(max_examples=volume(150), deadline=None)
@given(
    shape=st.tuples(SIZES, SIZES, SIZES),
    layouts=st.tuples(*[st.sampled_from(["rows", "columns", "gaps"])] * 2),
    add=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_shape_and_layout(simd, shape, layouts, add, seed):
    """Nothing is written outside of `out`, whose rows may lie apart."""
    (m, k, n), g = shape, torch.Generator().manual_seed(seed)
    a, b = matrix(g, m, k, layouts[0]), matrix(g, k, n, layouts[1])
    whole = torch.randn(m, n + 5, generator=g)
    before, out = whole.clone(), whole[:, 2 : n + 2]
    expected = a.double() @ b.double() + (out.double() if add else 0)
    core.bf16_product(out.numpy(), bits(a)[0], bits(b)[0], add=add, simd=simd)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-4)
    whole[:, 2 : n + 2] = before[:, 2 : n + 2]
    assert torch.equal(whole, before)


@needs_instructions
@pytest.mark.parametrize("simd", LEVELS)
def test_the_number_of_threads_changes_nothing(simd):
    a, b = torch.randn(300, 1100).bfloat16(), torch.randn(1100, 700).bfloat16()
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3, 2):
        torch.set_num_threads(threads)
        found.append(torch.empty(300, 700))
        core.bf16_product(found[-1].numpy(), bits(a)[0], bits(b)[0], add=False, simd=simd)
    torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found[1:])


@needs_instructions
@pytest.mark.parametrize("simd", LEVELS)
def test_infinities_and_nan_stay_in_their_rows_and_columns(simd):
    a, b = torch.randn(20, 40).bfloat16(), torch.randn(40, 50).bfloat16()
    a[3, 5], b[7, 33] = torch.nan, torch.inf
    out = torch.empty(20, 50)
    core.bf16_product(out.numpy(), bits(a)[0], bits(b)[0], add=False, simd=simd)
    expected = a.float() @ b.float()
    assert torch.equal(out.isnan(), expected.isnan()) and torch.equal(out.isinf(), expected.isinf())


@needs_instructions
@pytest.mark.parametrize(
    ("out", "a", "b", "message"),
    [
        (np.zeros((2, 3), "f4"), np.zeros((2, 4), "u2"), np.zeros((5, 3), "u2"), "shapes must be"),
        (np.zeros((2, 4), "f4"), np.zeros((2, 4), "u2"), np.zeros((4, 3), "u2"), "shapes must be"),
        (np.zeros((2, 3), "f8"), np.zeros((2, 4), "u2"), np.zeros((4, 3), "u2"), "out must be"),
        (
            np.zeros((2, 6), "f4")[:, ::2],
            np.zeros((2, 4), "u2"),
            np.zeros((4, 3), "u2"),
            "out must",
        ),
        (np.zeros((2, 3), "f4"), np.zeros((2, 4), "f4"), np.zeros((4, 3), "u2"), "a and b must be"),
        (np.zeros((2, 3), "f4"), np.zeros(4, "u2"), np.zeros((4, 3), "u2"), "a and b must be"),
    ],
)
def test_what_does_not_fit_is_refused(out, a, b, message):
    with pytest.raises(ValueError, match=message):
        core.bf16_product(out, a, b, add=False)


def test_instructions_that_the_machine_lacks_are_refused():
    a = np.zeros((2, 2), "u2")
    with pytest.raises(ValueError, match="'mmx' cannot run on this machine"):
        core.bf16_product(np.zeros((2, 2), "f4"), a, a, add=False, simd="mmx")


@pytest.mark.parametrize("head", [False, True])
def test_a_machine_without_them_multiplies_float32(head, monkeypatch):
    """Both ways err by a few roundings of bfloat16 in gradients, and of float32 in log-probs."""
    case = make_case(40, 32, 300, 60, dtype=torch.bfloat16).with_gradients(head=head)
    here = run(case)
    grads = torch.autograd.grad(here, case.leaves(), upstream(case))
    monkeypatch.setattr(tiles, "product_dtype", lambda x: torch.float32)
    there = run(case)
    torch.testing.assert_close(here, there, rtol=1e-5, atol=2e-5)
    for mine, other in zip(
        grads, torch.autograd.grad(there, case.leaves(), upstream(case)), strict=True
    ):
        assert (mine.double() - other.double()).norm() <= 0.01 * other.double().norm()
