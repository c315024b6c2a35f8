"""Random tiles of logits, and row operations compared with their torch twin in float64."""

import os
from types import SimpleNamespace

import torch
from malt_fast.kernels import softmax_rows_torch
from malt_fast.kernels.running_softmax import (
    RunningSoftmax,
    Targets,
    Transform,
    Upstream,
    sums_dtype,
)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
GPU = torch.cuda.is_available() and not INTERPRETED
DEVICE = "cuda" if GPU else "cpu"


def make_transform(g, rows, vocabulary, *, bias=False, temperature=False, softcap=0.0):
    return Transform(
        torch.randn(vocabulary, generator=g).to(DEVICE) if bias else None,
        (torch.rand(rows, generator=g) + 0.5).to(DEVICE) if temperature else None,
        softcap,
    )


def make(rows=3, vocabulary=37, targets=2, *, spread=3.0, dtype=torch.float32, seed=0, **head):
    """Raw logits in a wider tensor, a head, up to `targets` per row, upstream gradients."""
    g = torch.Generator().manual_seed(seed)
    wide = torch.randn(rows, vocabulary + 5, generator=g) * spread
    lengths = torch.randint(targets + 1, (rows,), generator=g).clamp(max=vocabulary)
    token = [torch.randperm(vocabulary, generator=g)[:n] for n in lengths.tolist()]
    start = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    grad = torch.randn(int(lengths.sum()), generator=g)
    row = torch.repeat_interleave(lengths)
    token = torch.cat([torch.zeros(0, dtype=torch.long), *token])
    return SimpleNamespace(
        raw=wide.to(DEVICE, dtype)[:, :vocabulary],
        transform=make_transform(g, rows, vocabulary, **head),
        targets=Targets(start.to(DEVICE), token.to(DEVICE)),
        grad_target=grad.to(DEVICE),
        grad_row=torch.zeros(rows).index_add_(0, row, grad).to(DEVICE),
        matrix=torch.randn(vocabulary, 11, generator=g).to(DEVICE),  # the residual is a sum over it
    )


def double(value):
    """The same in float64, against which float32 is measured."""
    if isinstance(value, SimpleNamespace):
        return SimpleNamespace(**{name: double(x) for name, x in vars(value).items()})
    if isinstance(value, Transform):
        return Transform(double(value.bias), double(value.temperature), value.softcap)
    if isinstance(value, Targets):
        return value
    return value.double() if value is not None and value.is_floating_point() else value


def folded(ops, case, width, *, entropy=True, weights=None, backwards=False):
    """State after all tiles, and softmax(z) cap'(raw) of every column if there are `weights`.

    weights: None, "tile" for those that go over the tile, or the dtype of a tensor of their own.
    """
    rows, vocabulary = case.raw.shape
    sums = sums_dtype(case.raw.dtype)
    target_logit = torch.full((len(case.targets.token),), 100.0, device=DEVICE, dtype=sums)
    residual = None if weights is None else target_logit.new_zeros(rows, case.matrix.shape[1])
    state = RunningSoftmax.start(rows, target_logit, entropy=entropy, residual=residual)
    kept, offsets = [], []
    for first in list(range(0, vocabulary, width))[:: -1 if backwards else 1]:
        tile = case.raw[:, first : first + width]
        out = None
        if weights == "tile":
            tile = out = tile.clone()
        elif weights is not None:
            out = torch.full_like(tile, 7.0, dtype=weights)
        ops.fold(tile, first, case.transform, case.targets, state, out)
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
        grad = tile.clone() if out is None else torch.full_like(tile, 7.0, dtype=out)
        upstream = Upstream(log_total, case.grad_target, case.grad_row)
        given = tile if out else grad, grad, first, case.transform, case.targets, upstream
        ops.gradient(*given)
        whole.append(grad.double())
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
    truth, true_share = folded(
        softmax_rows_torch, double(case), width, entropy=entropy, weights=true_weights
    )
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
    given = state.log_total()  # to both: `gradient` is not to blame for its rounding
    grads = gradients(ops, case, width, given, out=out)
    near(grads, gradients(softmax_rows_torch, double(case), width, given.double()), tolerance)
    return state
