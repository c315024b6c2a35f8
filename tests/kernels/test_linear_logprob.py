"""linear_logprob against log_softmax and gather written out in float64."""

import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from malt_fast.kernels import (
    kept_weights,
    linear_logprob,
    row_plan,
    softmax_rows,
    tiles,
    which,
)
from malt_fast.kernels.row_plan import make_plan

from tests.kernels.heads import Case, cases, make_case, run, upstream, written_out
from tests.volume import volume


def assert_right(case, head):
    case = case.with_gradients(head=head)
    ours, truth = run(case), written_out(case)[0]
    dtype = case.hidden.dtype
    assert ours.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    small = 1e-12 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(ours.double(), truth, rtol=small, atol=small)
    g = upstream(case)
    grads = torch.autograd.grad(ours, case.leaves(), g.to(ours.dtype))
    truths = torch.autograd.grad(truth, case.leaves(), g.double())
    for mine, other in zip(grads, truths, strict=True):
        assert mine.dtype == dtype and mine.shape == other.shape
        # Gradients, and what is kept for them, are rounded to the leaf's dtype, and may be the
        # difference of terms as large as `scale`. test_error_is_at_most_twice... bounds that.
        scale = g.abs().max().item() * case.weight.detach().abs().max().item() if len(g) else 0.0
        error = float((mine.double() - other.double()).abs().max()) if other.numel() else 0.0
        largest = float(other.abs().max()) if other.numel() else 0.0
        eps = max(torch.finfo(dtype).eps, small)
        assert error <= 2 * eps * largest + 0.1 * eps * scale


@settings(max_examples=volume(150), deadline=None)
@given(
    case=cases,
    head=st.booleans(),
    tile=st.sampled_from([(1, 1), (10, 5), (192, 64), (9999, 999)]),
    kept=st.sampled_from([1, 600, 1 << 20]),
)
def test_values_and_gradients(case, head, tile, kept):
    """kept: a trained head keeps weights of no rows, of some, of all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiles.TILE, "cpu", tile)
        patch.setitem(kept_weights.KEPT, "cpu", kept)
        assert_right(case, head)


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize(
    "shape", [(7, 31, 3843, 13), (1, 1, 1, 1), (3, 5, 1920, 3), (2, 3, 1921, 5)]
)
def test_odd_shapes_and_borders_of_tiles(shape, head):
    t, h, v, m = shape
    case = make_case(t, h, v, m, bias=True, temperature="rows", softcap=3.0)
    border = torch.tensor([0, 1919, 1920, 3839, 3840, 1023, v - 1]).clamp(max=v - 1)
    targets = border[torch.arange(m) % len(border)]
    assert_right(replace(case, targets=targets), head)


@settings(max_examples=volume(50), deadline=None)
@given(case=cases, head=st.booleans(), tile=st.sampled_from([(10, 5), (9999, 999)]))
def test_rows_in_order_with_a_target_each(case, head, tile):
    """The usual layout, which needs no sorting."""
    n = min(len(case.hidden), len(case.targets))
    wide = torch.stack([torch.arange(n), case.targets[:n]], 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiles.TILE, "cpu", tile)
        assert_right(replace(case, rows=wide[:, 0], targets=wide[:, 1]), head)


def test_several_targets_of_one_row_and_the_same_twice():
    case = make_case(2, 6, 40, 6)
    rows, targets = torch.tensor([1, 1, 0, 1, 1, 0]), torch.tensor([5, 5, 5, 39, 0, 5])
    for head in (False, True):
        assert_right(replace(case, rows=rows, targets=targets), head)


def test_only_the_rows_named_are_multiplied(monkeypatch):
    multiplied = []
    monkeypatch.setattr(
        tiles, "multiply", lambda a, b, out: multiplied.append(len(a)) or torch.mm(a, b, out=out)
    )
    case = make_case(50, 4, 30, 6)
    run(replace(case, rows=torch.tensor([3, 3, 3, 9, 9, 40])))
    assert sum(multiplied) == 3


def test_products_of_matrices(monkeypatch):
    """2 with a frozen head, 3 with a trained one, 4 without memory for its weights."""
    products = []
    for name in ("multiply", "add_product"):
        real = getattr(tiles, name)
        monkeypatch.setattr(
            tiles, name, lambda *args, real=real: (products.append(1), real(*args))[1]
        )
    for head, kept, expected in ((False, 1 << 20, 2), (True, 1 << 20, 3), (True, 1, 4)):
        products.clear()
        monkeypatch.setitem(kept_weights.KEPT, "cpu", kept)
        run(make_case(5, 4, 30, 6).with_gradients(head=head)).sum().backward()
        assert len(products) == expected
    products.clear()
    with torch.no_grad():
        run(make_case(5, 4, 30, 6).with_gradients(head=False))
    assert len(products) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("confident", [False, True])
def test_error_is_at_most_twice_that_of_plain_torch(dtype, confident):
    """Both against float64; a floor of a few roundings keeps chance out of the ratio."""
    case = make_case(64, 96, 5000, 64, dtype=dtype)
    weight = case.weight / 96**0.5
    hidden = case.hidden
    if confident:  # log-probs near 0, where gradients nearly cancel
        hidden = hidden + 3 * weight[case.targets][: len(hidden)]
        case = replace(case, rows=torch.arange(64))
    case = replace(case, hidden=hidden, weight=weight).with_gradients(head=False)
    g = upstream(case)
    truth, _ = written_out(case)
    ours, (plain, _) = run(case), written_out(case, dtype)
    (d_truth,) = torch.autograd.grad(truth, case.hidden, g.double())
    (d_ours,) = torch.autograd.grad(ours, case.hidden, g)
    (d_plain,) = torch.autograd.grad(plain, case.hidden, g.to(dtype))

    def error(x, y):
        return (x.double() - y.double()).abs().max().item()

    assert error(ours, truth) <= 2 * error(plain, truth) + 1e-6
    # The true gradient is rounded to dtype by autograd.
    floor = torch.finfo(dtype).eps * float(d_truth.abs().max())
    assert error(d_ours, d_truth) <= 2 * error(d_plain, d_truth) + floor


def test_low_precision_storage_keeps_float32_logits():
    for dtype in (torch.bfloat16, torch.float16):
        case = make_case(6, 64, 50, 20, dtype=dtype)
        with torch.autocast("cpu", torch.bfloat16):
            ours = run(case)
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), written_out(case)[0], rtol=1e-5, atol=1e-5)


def test_dtypes_may_differ():
    case = make_case(4, 8, 9, 5)
    mixed = replace(case, weight=case.weight.bfloat16())
    torch.testing.assert_close(run(mixed).double(), written_out(mixed)[0], rtol=1e-5, atol=1e-5)


def test_huge_logits_do_not_overflow():
    hidden, weight = torch.full((1, 1), 1e4), torch.tensor([[1.0], [-1.0]])
    rows, targets = torch.zeros(2, dtype=torch.long), torch.tensor([0, 1])
    assert linear_logprob(hidden, weight, rows, targets).tolist() == [0.0, -2e4]


@pytest.mark.parametrize("order", [1, -1])
def test_logits_that_keep_rising_or_falling_across_tiles(order, monkeypatch):
    monkeypatch.setitem(tiles.TILE, "cpu", (8, 4))
    weight = order * torch.linspace(-1e4, 1e4, 23)[:, None]
    case = replace(make_case(3, 1, 23, 23), hidden=torch.ones(3, 1), weight=weight)
    assert_right(replace(case, targets=torch.arange(23)), head=False)
    entropy = run(case, return_entropy=True).entropy
    torch.testing.assert_close(entropy.double(), written_out(case)[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entropy_follows_an_offset_that_moves(dtype, monkeypatch):
    """Both sides of the move have weight: 28 logits of 0, then one just above the margin."""
    monkeypatch.setitem(tiles.TILE, "cpu", (8, 10))
    bias = torch.zeros(29, dtype=dtype)
    bias[-1] = 8.5
    case = replace(make_case(1, 2, 29, 1, dtype=dtype), hidden=torch.zeros(1, 2, dtype=dtype))
    case = replace(case, bias=bias)
    out, truth = run(case, return_entropy=True).entropy.double(), written_out(case)[1]
    torch.testing.assert_close(out, truth, rtol=1e-5, atol=0)


def test_identical_logits_are_uniform():
    case = replace(make_case(2, 3, 1000, 4), weight=torch.ones(1000, 3))
    out = run(case, return_entropy=True)
    expected = torch.full((4,), 1000.0).log()
    torch.testing.assert_close(-out.logp, expected)
    torch.testing.assert_close(out.entropy, expected)


@settings(max_examples=volume(50), deadline=None)
@given(case=cases)
def test_entropy(case):
    small = 1e-10 if case.hidden.dtype == torch.float64 else 2e-5
    out = run(case, return_entropy=True)
    torch.testing.assert_close(out.entropy.double(), written_out(case)[1], rtol=small, atol=small)


def test_masked_logits_have_no_probability():
    bias = torch.zeros(9)
    bias[:4] = -torch.inf
    case = replace(make_case(3, 2, 9, 6), bias=bias, targets=torch.tensor([4, 5, 6, 7, 8, 4]))
    assert_right(case, head=False)
    assert run(replace(case, targets=torch.zeros(6, dtype=torch.long))).tolist() == [-torch.inf] * 6
    entropy = run(case, return_entropy=True).entropy
    torch.testing.assert_close(entropy.double(), written_out(case)[1], rtol=1e-5, atol=1e-5)


def test_nan_stays_in_its_row():
    case = make_case(3, 4, 50, 3)
    case.hidden[1, 2] = torch.nan
    case = replace(case, rows=torch.arange(3)).with_gradients(head=False)
    logp = run(case)
    logp.sum().backward()
    assert logp.isnan().tolist() == [False, True, False]
    assert case.hidden.grad.isnan().any(1).tolist() == [False, True, False]


def test_views_that_are_not_contiguous():
    case = make_case(6, 8, 30, 12, bias=True)
    hidden = torch.empty(8, 6).T.copy_(case.hidden)
    weight = torch.empty(60, 16)[::2, ::2].copy_(case.weight)
    wide = torch.stack([case.rows, case.targets], 1)
    views = replace(case, hidden=hidden, weight=weight, rows=wide[:, 0], targets=wide[:, 1])
    torch.testing.assert_close(run(views), run(case))
    assert_right(views, head=True)


@pytest.mark.parametrize("head", [False, True])
def test_empty_inputs_give_their_shapes_back(head):
    for t, h, v in ((4, 3, 5), (0, 3, 5), (4, 0, 5), (0, 0, 1)):
        case = make_case(max(t, 1), h, v, 0).with_gradients(head=head)
        case = replace(case, hidden=case.hidden.detach()[:t].requires_grad_())
        out = run(case)
        assert out.shape == (0,)
        grads = torch.autograd.grad(out.sum(), case.leaves())
        assert all(g.shape == x.shape and not g.any() for g, x in zip(grads, case.leaves()))  # noqa: B905
    assert run(make_case(3, 0, 5, 4)).tolist() == pytest.approx([-1.6094379] * 4)


def test_targets_out_of_range_give_nan_if_unchecked():
    case = make_case(4, 3, 11, 4)
    rows, targets = torch.arange(4), torch.tensor([1, -100, 2, 99])
    out = linear_logprob(case.hidden, case.weight, rows, targets, check=False)
    assert out.isnan().tolist() == [False, True, False, True]


def test_a_row_with_every_token_as_target_is_taken_in_parts():
    case = replace(
        make_case(2, 5, 3000, 3000), rows=torch.zeros(3000).long(), targets=torch.arange(3000)
    ).with_gradients(head=False)
    g = upstream(case)
    (mine,) = torch.autograd.grad(run(case), case.hidden, g)
    (other,) = torch.autograd.grad(written_out(case)[0], case.hidden, g.double())
    torch.testing.assert_close(mine, other.float(), rtol=1e-4, atol=1e-4)


# ---- which implementation ----


def test_which_names_the_implementation_and_the_reason():
    assert which("cpu", torch.float32).startswith("cpp: ")
    assert which("cpu", torch.float64).startswith("torch: ")
    assert which("cuda", torch.bfloat16).startswith("triton: ")
    assert which("cpu", torch.int32).startswith("nothing: ")


def test_a_gpu_without_triton_says_what_to_do(monkeypatch):
    monkeypatch.setattr(softmax_rows.importlib.util, "find_spec", lambda name: None)
    assert which("cuda", torch.float32).startswith("nothing: ")
    with pytest.raises(RuntimeError, match="pip install triton, or move the tensors to the CPU"):
        softmax_rows.choose(torch.device("cuda"), torch.float32)


# ---- bad input ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.zeros(5, 3)}, "must agree in H"),
        ({"hidden": torch.zeros(5, 4, dtype=torch.int32)}, "hidden must be float32"),
        ({"rows": torch.zeros(10, dtype=torch.long)}, "must both be .M."),
        ({"rows": torch.zeros(11)}, "rows must be integers"),
        ({"rows": torch.full((11,), 5)}, "rows must be in .0, 5., got 5 to 5"),
        ({"targets": torch.full((11,), -100)}, "targets must be in .0, 7., got -100"),
        ({"targets": torch.full((11,), 7)}, "targets must be in"),
        ({"bias": torch.zeros(6)}, "bias must be .7."),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature": torch.zeros(5)}, "temperature must be positive"),
        ({"temperature": torch.ones(4)}, "temperature must be .5."),
        ({"softcap": -1.0}, "logit_softcap must be positive"),
        ({"weight": torch.zeros(7, 4, device="meta")}, "weight is on meta"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        run(replace(make_case(5, 4, 7, 11), **change))


def test_a_plan_made_before(monkeypatch):
    """Nothing is sorted or counted then, forward or backward."""
    case = make_case(5, 4, 7, 11).with_gradients(head=True)
    plan, other = make_plan(case.rows, case.targets), run(case)
    monkeypatch.setattr(row_plan, "survey", None)
    monkeypatch.setattr(sys.modules[linear_logprob.__module__], "survey", None)
    ours = run(case, plan=plan)
    assert torch.equal(ours, other)
    for mine, theirs in zip(
        torch.autograd.grad(ours.sum(), case.leaves()),
        torch.autograd.grad(other.sum(), case.leaves()),
        strict=True,
    ):
        assert torch.equal(mine, theirs)


@pytest.mark.slow
def test_millions_of_rows():
    """More logits than 32 bits can count."""
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 3, generator=g)
    weight = torch.randn(800, 3, generator=g)
    rows = torch.arange(7).repeat(400_001)
    out = linear_logprob(hidden.repeat(400_001, 1), weight, torch.arange(len(rows)), rows)
    case = Case(hidden, weight, torch.arange(7), torch.arange(7))
    torch.testing.assert_close(out.view(-1, 7).double(), written_out(case)[0].expand(400_001, 7))


def test_a_vocabulary_of_a_quarter_million():
    case = make_case(3, 16, 262_144, 6)
    assert_right(replace(case, targets=torch.tensor([0, 262_143, 131_072, 5, 9, 262_142])), False)
