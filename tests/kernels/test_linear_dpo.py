"""linear_dpo against log-probs, loss and gradients written out in float64."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from malt_fast.kernels import kept_weights, linear_dpo, tiles
from malt_fast.kernels.dpo_loss import dpo_loss

from tests.kernels.heads import cases, make_case, written_out
from tests.volume import volume


def completions(case, count, pairs, seed=0):
    """Owners of the case's targets among `count` completions, pairs, reference log-probs."""
    g = torch.Generator().manual_seed(seed)
    owner = torch.randint(count, (len(case.rows),), generator=g)
    owner[: min(count, len(owner))] = torch.arange(min(count, len(owner)))
    chosen = torch.randint(count, (pairs,), generator=g)
    rejected = (chosen + 1 + torch.randint(max(1, count - 1), (pairs,), generator=g)) % count
    return owner, torch.stack([chosen, rejected], 1), torch.randn(count, generator=g) - 9


def run(case, owner, pairs, **more):
    return linear_dpo(
        case.hidden,
        case.weight,
        case.rows,
        case.targets,
        owner,
        pairs,
        **{"beta": 0.3, **case.settings, **more},
    )


def truth(case, owner, pairs, ref_logp, num_items=None, **preference):
    token_logp, _ = written_out(case)
    logp = token_logp.new_zeros(len(ref_logp)).index_add(0, owner, token_logp)
    lengths = torch.bincount(owner, minlength=len(ref_logp))
    out = dpo_loss(logp, ref_logp.double(), pairs, lengths, **{"beta": 0.3, **preference})
    return out.losses.sum() / (num_items or len(pairs)), out, logp


def assert_right(case, head, count, n_pairs, seed=0, ref_hidden=None, **more):
    case = case.with_gradients(head=head)
    owner, pairs, ref_logp = completions(case, count, n_pairs, seed)
    if ref_hidden is None:
        ours = run(case, owner, pairs, ref_logp=ref_logp, **more)
    else:
        ours = run(case, owner, pairs, ref_hidden=ref_hidden, **more)
        reference, _ = written_out(replace(case, hidden=ref_hidden))
        used = int(max(owner.max(), pairs.max())) + 1
        ref_logp = reference.new_zeros(used).index_add(0, owner, reference).detach()
    loss, out, logp = truth(case, owner, pairs, ref_logp, **more)
    dtype = case.hidden.dtype
    small = 1e-11 if dtype == torch.float64 else 5e-5
    close = {"rtol": small, "atol": small}
    torch.testing.assert_close(ours.loss.double(), loss, **close)
    torch.testing.assert_close(ours.losses.double(), out.losses.detach(), **close)
    torch.testing.assert_close(ours.chosen_rewards.double(), out.chosen_rewards, **close)
    torch.testing.assert_close(ours.rejected_rewards.double(), out.rejected_rewards, **close)
    torch.testing.assert_close(ours.logp.double(), logp.detach(), **close)
    grads = torch.autograd.grad(2.5 * ours.loss, case.leaves())
    truths = torch.autograd.grad(2.5 * loss, case.leaves())
    for mine, other in zip(grads, truths, strict=True):
        assert mine.dtype == dtype
        largest = float(other.abs().max()) if other.numel() else 0.0
        # Weights are kept in the storage type on a GPU; here in float32.
        error = float((mine.double() - other.double()).abs().max()) if other.numel() else 0.0
        assert error <= max(3 * torch.finfo(dtype).eps, small) * largest + small


preferences = st.sampled_from(
    [
        {},
        {"loss_type": "ipo"},
        {"loss_type": "hinge"},
        {"label_smoothing": 0.2},
        {"rpo_alpha": 0.7},
        {"num_items": 12},
        {"rpo_alpha": 0.7, "mean_chosen_length": 2.5, "num_items": 12},
    ]
)


@settings(max_examples=volume(100), deadline=None)
@given(
    case=cases.filter(lambda case: len(case.rows) > 0),
    head=st.booleans(),
    count=st.integers(2, 7),
    pairs=st.integers(1, 6),
    seed=st.integers(0, 99),
    preference=preferences,
    kept=st.sampled_from([1, 600, 1 << 20]),
    tile=st.sampled_from([(10, 5), (9999, 999)]),
)
def test_values_and_gradients(case, head, count, pairs, seed, preference, kept, tile):
    """kept: a trained head keeps weights of no rows, of some, of all."""
    count = min(count, max(2, len(case.rows)))
    if len(case.rows) < count:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiles.TILE, "cpu", tile)
        patch.setitem(kept_weights.KEPT, "cpu", kept)
        assert_right(case, head, count, pairs, seed, **preference)


@pytest.mark.parametrize("head", [False, True])
def test_a_reference_given_as_hidden_rows(head):
    case = make_case(8, 6, 40, 30, bias=True)
    assert_right(case, head, 4, 5, ref_hidden=case.hidden + 0.1)


def test_indices_may_be_small_integers():
    case = make_case(8, 6, 40, 30).with_gradients(head=True)
    owner, pairs, ref_logp = completions(case, 4, 5)
    small = run(case, owner.to(torch.uint8), pairs.to(torch.uint8), ref_logp=ref_logp)
    assert torch.equal(small.losses, run(case, owner, pairs, ref_logp=ref_logp).losses)


def test_an_option_that_nothing_takes_is_refused():
    case = make_case(8, 6, 40, 30)
    owner, pairs, ref_logp = completions(case, 4, 5)
    with pytest.raises(TypeError, match="temprature"):
        run(case, owner, pairs, ref_logp=ref_logp, temprature=0.5)


def test_the_loss_at_step_0_is_ln_2():
    case = make_case(8, 6, 40, 30).with_gradients(head=True)
    owner, pairs, _ = completions(case, 4, 5)
    out = run(case, owner, pairs, ref_hidden=case.hidden.detach())
    assert out.loss.item() == pytest.approx(torch.log(torch.tensor(2.0)).item(), rel=1e-6)
    assert not out.chosen_rewards.any()


def products(monkeypatch, head, **more):
    """How many matrix products one loss and its gradient take."""
    done = []
    for name in ("multiply", "add_product"):
        real = getattr(tiles, name)
        monkeypatch.setattr(tiles, name, lambda *a, real=real: (done.append(1), real(*a))[1])
    case = make_case(8, 6, 40, 30).with_gradients(head=head)
    owner, pairs, ref_logp = completions(case, 4, 5)
    run(case, owner, pairs, ref_logp=ref_logp, **more).loss.backward()
    return len(done)


def test_products_of_matrices(monkeypatch):
    with monkeypatch.context() as patch:
        assert products(patch, head=False) == 2
    with monkeypatch.context() as patch:
        assert products(patch, head=True) == 3
    with monkeypatch.context() as patch:
        patch.setitem(kept_weights.KEPT, "cpu", 1)
        assert products(patch, head=True) == 4


def test_without_gradients_nothing_is_kept():
    case = make_case(8, 6, 40, 30).with_gradients(head=True)
    owner, pairs, ref_logp = completions(case, 4, 5)
    with torch.no_grad():
        out = run(case, owner, pairs, ref_logp=ref_logp)
    assert not out.loss.requires_grad
    assert out.loss.item() == pytest.approx(
        run(case, owner, pairs, ref_logp=ref_logp).loss.item(), rel=1e-6
    )


@pytest.mark.parametrize("head", [False, True])
def test_no_pairs(head):
    case = make_case(8, 6, 40, 30).with_gradients(head=head)
    owner, _, ref_logp = completions(case, 4, 1)
    out = run(case, owner, torch.zeros(0, 2, dtype=torch.long), ref_logp=ref_logp, num_items=1)
    assert out.losses.shape == (0,) and out.loss.item() == 0
    grads = torch.autograd.grad(out.loss, case.leaves())
    assert not any(g.any() for g in grads)


@pytest.mark.parametrize("head", [False, True])
def test_differentiable_once(head):
    case = make_case(8, 6, 40, 30).with_gradients(head=head)
    owner, pairs, ref_logp = completions(case, 4, 5)
    loss = run(case, owner, pairs, ref_logp=ref_logp).loss
    (dx,) = torch.autograd.grad(loss, case.hidden, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once|does not require grad"):
        dx.sum().backward()


@pytest.mark.parametrize("head", [False, True])
def test_inside_a_compiled_step(head):
    case = make_case(8, 6, 40, 30).with_gradients(head=head)
    owner, pairs, ref_logp = completions(case, 4, 5)

    def step(case):
        return run(replace(case, hidden=case.hidden * 1.5), owner, pairs, ref_logp=ref_logp).loss

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    loss, expected = compiled(case), step(case)
    torch.testing.assert_close(loss, expected)
    for mine, other in zip(
        torch.autograd.grad(loss, case.leaves()),
        torch.autograd.grad(expected, case.leaves()),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


def test_no_pairs_are_no_loss():
    case = make_case(8, 6, 40, 30)
    owner, _, ref_logp = completions(case, 4, 5)
    assert run(case, owner, torch.zeros((0, 2), dtype=torch.long), ref_logp=ref_logp).loss == 0


def test_float16_gradients_do_not_vanish_before_they_are_scaled():
    case = make_case(64, 16, 2000, 64, dtype=torch.float16)
    exact = replace(case, hidden=case.hidden.double(), weight=case.weight.double())
    case, exact = case.with_gradients(head=True), exact.with_gradients(head=True)
    owner, pairs, ref_logp = completions(case, 4, 5)
    losses = [
        run(c, owner, pairs, ref_logp=ref_logp, beta=0.1, num_items=1e7).loss for c in (case, exact)
    ]
    scaled = torch.autograd.grad(losses[0] * 2**24, case.leaves())
    expected = torch.autograd.grad(losses[1] * 2**24, exact.leaves())
    for mine, other in zip(scaled, expected, strict=True):
        assert (mine.double() - other).norm() <= 2e-3 * other.norm()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"owner": torch.zeros(29, dtype=torch.long)}, "owner must be .30."),
        ({"owner": torch.full((30,), 4)}, "owner must be in .0, 4."),
        ({"owner": torch.zeros(30)}, "owner must be integers"),
        ({"pairs": torch.tensor([[0, 4]])}, "pairs must be in .0, 4."),
        ({"pairs": torch.zeros(2, dtype=torch.long)}, "pairs must be .P, 2."),
        ({"pairs": torch.zeros(5, 2)}, "pairs must be integers"),
        ({"ref_logp": None}, "missing or given twice: give ref_logp"),
        ({"ref_hidden": torch.zeros(8, 6)}, "given twice"),
        ({"ref_logp": torch.zeros(4, 1)}, "ref_logp must be .C."),
        ({"rows": torch.full((30,), 8)}, "rows must be in"),
    ],
)
@pytest.mark.parametrize("head", [False, True])
def test_what_does_not_fit_is_refused(change, message, head):
    case = make_case(8, 6, 40, 30).with_gradients(head=head)
    owner, pairs, ref_logp = completions(case, 4, 5)
    given = {"owner": owner, "pairs": pairs, "ref_logp": ref_logp, **change}
    if "rows" in given:
        case = replace(case, rows=given.pop("rows"))
    with pytest.raises(ValueError, match=message):
        run(case, **given)
