"""Attention over packs, in C++ and by FlexAttention, against a dense mask."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from malt_fast import _core
from malt_fast.models.tree_attention import (
    _Blocked,
    flex,
    make_tree,
    tree_attention,
)
from tests.volume import volume


def random_ends(rng: np.random.Generator, n: int, longest: int) -> np.ndarray:
    """Subtree ends of a random forest of segments, laid out depth first."""
    end = np.zeros(n, np.int32)
    open_segments: list[tuple[int, int]] = []
    at = 0
    while at < n:
        for _ in range(rng.integers(0, len(open_segments) + 1)):
            begin, stop = open_segments.pop()
            end[begin:stop] = at
        stop = min(n, at + int(rng.integers(1, longest + 1)))
        open_segments.append((at, stop))
        at = stop
    for begin, stop in open_segments:
        end[begin:stop] = n
    return end


def dense(q, k, v, end, scale, cap=None):
    index = torch.arange(len(end))
    seen = (index <= index[:, None]) & (index[:, None] < torch.from_numpy(end))
    groups = len(q) // len(k)
    scores = q @ k.repeat_interleave(groups, 0).mT * scale
    if cap:
        scores = cap * torch.tanh(scores / cap)
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v.repeat_interleave(groups, 0)


def inputs(seed, n, heads, groups, dim, dtype=torch.float64):
    torch.manual_seed(seed)
    return [
        torch.randn(h, n, dim, dtype=dtype, requires_grad=True) for h in (heads, groups, groups)
    ]


@settings(max_examples=volume(60))
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.sampled_from([1, 2, 31, 32, 33, 200]),
    longest=st.sampled_from([1, 7, 90]),
    heads=st.sampled_from([(1, 1), (4, 2), (6, 1), (3, 3)]),
    width=st.sampled_from([1, 5, 8, 16, 24, 32, 64]),
    cap=st.sampled_from([None, 2.0]),
)
def test_blocks_of_queries_equal_the_dense_mask(seed, n, longest, heads, width, cap):
    end = random_ends(np.random.default_rng(seed), n, longest)
    exact = inputs(seed, n, *heads, width)
    expected = dense(*exact, end, 0.3, cap)
    grad = torch.randn_like(expected)
    ours = [x.detach().float().requires_grad_() for x in exact]
    out = _Blocked.apply(*ours, torch.from_numpy(end), 0.3, cap or 0.0)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad(out, ours, grad.float())
    for a, b in zip(found, torch.autograd.grad(expected, exact, grad), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=2e-5 * max(1, b.abs().max()))


@pytest.mark.parametrize("simd", _core.kernels.simd_levels())
def test_every_instruction_set_works_on_strided_arrays(simd):
    end = random_ends(np.random.default_rng(3), 150, 30)
    exact = inputs(3, 150, 4, 2, 20)
    q, k, v = (x.detach().float().transpose(0, 1).contiguous().transpose(0, 1) for x in exact)
    out, log_sum = torch.empty(4, 150, 20), torch.empty(4, 150)
    _core.packing.tree_attention(q.numpy(), k.numpy(), v.numpy(), end, 0.3, 0.0, out.numpy(),
                         log_sum.numpy(), simd)  # fmt: skip
    expected = dense(*exact, end, 0.3)
    torch.testing.assert_close(out.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    grad = torch.randn_like(out)
    changes = [torch.empty_like(x) for x in (q, k, v)]
    arrays = [x.numpy() for x in (q, k, v)]
    rest = [x.numpy() for x in (out, log_sum, grad, *changes)]
    _core.packing.tree_attention_gradient(*arrays, end, 0.3, 0.0, *rest, simd)
    for a, b in zip(changes, torch.autograd.grad(expected, exact, grad.double()), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-4)


def test_what_nobody_sees_is_not_touched():
    end = np.repeat([100, 130, 160, 200], [100, 30, 30, 40]).astype(np.int32)
    q, k, v = (x.detach().float().requires_grad_() for x in inputs(4, 200, 2, 1, 8))
    with torch.no_grad():
        k[:, 100:130] = torch.nan
        v[:, 100:130] = torch.nan
    out = _Blocked.apply(q, k, v, torch.from_numpy(end), 0.3, 0.0)
    grads = torch.autograd.grad(out, (q, k, v), torch.ones_like(out))
    others = np.r_[:100, 130:200]
    for x in (out, *grads):  # a weight of 0 would not do: 0 NaN is NaN
        assert x[:, others].isfinite().all() and x[:, 100:130].isnan().any()


def test_half_precision_is_computed_in_float32():
    end = np.full(50, 50, np.int32)
    q, k, v = (x.detach().bfloat16() for x in inputs(5, 50, 4, 2, 16))
    module = torch.nn.Identity()
    tree = make_tree(end, 50, "cpu")
    out = tree_attention(module, q[None], k[None], v[None], None, 0.3, tree=tree)[0]
    expected = dense(q.double(), k.double(), v.double(), end, 0.3).transpose(0, 1)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out[0].double(), expected, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"end": np.array([1, 2, 2], np.int32)}, "end of each row's subtree"),
        ({"end": np.array([1, 2, 4], np.int32)}, "end of each row's subtree"),
        ({"end": np.array([3, 3], np.int32)}, "one value per row"),
        ({"k": np.zeros((3, 3, 4), np.float32)}, "must be"),
        ({"v": np.zeros((1, 3, 5), np.float32)}, "v must be"),
        ({"out": np.zeros((2, 3, 8), np.float32)[..., ::2]}, "out must be"),
        ({"log_sum": np.zeros((2, 4), np.float32)}, "log_sum"),
        ({"simd": "neon9"}, "neon9"),
    ],
)
def test_bad_arrays_are_refused(change, says):
    zeros = {
        name: np.zeros((h, 3, 4), np.float32) for name, h in zip("qkv", (2, 1, 1), strict=True)
    }
    good = {
        **zeros, "end": np.full(3, 3, np.int32), "scale": 1.0, "softcap": 0.0,
        "out": np.zeros((2, 3, 4), np.float32), "log_sum": np.zeros((2, 3), np.float32),
    }  # fmt: skip
    _core.packing.tree_attention(**good)
    with pytest.raises(ValueError, match=says):
        _core.packing.tree_attention(**(good | change))


@pytest.mark.parametrize("cap", [None, 2.0])
def test_flex_attention_equals_the_dense_mask(cap):
    end = random_ends(np.random.default_rng(0), 256, 40)
    q, k, v = inputs(0, 256, 4, 2, 16, torch.float32)
    tree = make_tree(end, 256, "cuda").to(torch.device("cpu"))
    q, k, v = (x.detach() for x in (q, k, v))  # on a CPU it has no backward
    out = flex(q[None], k[None], v[None], tree, 0.3, cap)[0]
    torch.testing.assert_close(out, dense(q, k, v, end, 0.3, cap), rtol=1e-4, atol=1e-5)


def test_what_the_rule_cannot_express_is_refused():
    end = np.full(8, 8, np.int32)
    q, k, v = (x[None] for x in inputs(0, 8, 2, 2, 4))
    tree, module = make_tree(end, 8, "cpu"), torch.nn.Linear(1, 1)
    tree_attention(module, q, k, v, None, sliding_window=8, tree=tree)
    with pytest.raises(ValueError, match="a path of 8 tokens exceeds the window of 7"):
        tree_attention(module, q, k, v, None, sliding_window=7, tree=tree)
    with pytest.raises(ValueError, match="without a tree"):
        tree_attention(module, q, k, v, None)
    with pytest.raises(ValueError, match="attention_dropout"):
        tree_attention(module, q, k, v, None, dropout=0.1, tree=tree)
    with pytest.raises(ValueError, match="sinks"):
        tree_attention(module, q, k, v, None, s_aux=q, tree=tree)


def test_flex_attention_takes_what_autocast_left_mixed():
    """Rotary embedding casts queries and keys to float32, but not values."""
    end = np.full(128, 128, np.int32)
    tree = make_tree(end, 128, "cuda").to(torch.device("cpu"))
    q, k, v = (x.detach()[None] for x in inputs(0, 128, 2, 2, 16, torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        out = flex(q, k, v.bfloat16(), tree, 0.3, None)
    assert out.dtype == torch.bfloat16
