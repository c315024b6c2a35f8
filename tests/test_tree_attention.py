"""Attention over packs against a dense mask, by blocks and by FlexAttention."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from malt_fast.errors import MaltError
from malt_fast.tree_attention import QUERIES, _Blocked, find_views, flex, make_tree, tree_attention


def random_ends(rng: np.random.Generator, n: int, longest: int) -> np.ndarray:
    """The subtree ends of a random forest of segments, laid out depth first."""
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


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.sampled_from([1, 2, 63, 64, 65, 200]),
    longest=st.sampled_from([1, 7, 90]),
    heads=st.sampled_from([(1, 1), (4, 2), (6, 1)]),
    cap=st.sampled_from([None, 2.0]),
)
def test_blocks_of_queries_equal_the_dense_mask(seed, n, longest, heads, cap):
    end = random_ends(np.random.default_rng(seed), n, longest)
    q, k, v = inputs(seed, n, *heads, 8)
    out = _Blocked.apply(q, k, v, find_views(end), 0.3, cap or 0.0)
    expected = dense(q, k, v, end, 0.3, cap)
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(out)
    found = torch.autograd.grad(out, (q, k, v), grad)
    torch.testing.assert_close(found, torch.autograd.grad(expected, (q, k, v), grad))


@pytest.mark.parametrize("cap", [None, 2.0])
def test_flex_attention_equals_the_dense_mask(cap):
    end = random_ends(np.random.default_rng(0), 256, 40)
    q, k, v = inputs(0, 256, 4, 2, 16, torch.float32)
    tree = make_tree(end, 256, "cuda").to(torch.device("cpu"))
    q, k, v = (x.detach() for x in (q, k, v))  # on a CPU it has no backward
    out = flex(q[None], k[None], v[None], tree, 0.3, cap)[0]
    torch.testing.assert_close(out, dense(q, k, v, end, 0.3, cap), rtol=1e-4, atol=1e-5)


def test_the_cost_follows_what_is_visible():
    trees, n = 40, 100
    end = np.repeat(np.arange(1, trees + 1, dtype=np.int32) * n, n)
    keys = [sum(run.stop - run.start for run in view.runs) for view in find_views(end)]
    assert max(keys) <= 2 * (n + QUERIES)  # of 4,000 tokens


def test_what_the_rule_cannot_express_is_refused():
    end = np.full(8, 8, np.int32)
    q, k, v = (x[None] for x in inputs(0, 8, 2, 2, 4))
    tree, module = make_tree(end, 8, "cpu"), torch.nn.Linear(1, 1)
    tree_attention(module, q, k, v, None, sliding_window=8, tree=tree)
    with pytest.raises(MaltError, match="sees 7 tokens, but a path has 8"):
        tree_attention(module, q, k, v, None, sliding_window=7, tree=tree)
    with pytest.raises(MaltError, match="without a tree"):
        tree_attention(module, q, k, v, None)
    with pytest.raises(MaltError, match="attention_dropout"):
        tree_attention(module, q, k, v, None, dropout=0.1, tree=tree)
    with pytest.raises(MaltError, match="sinks"):
        tree_attention(module, q, k, v, None, s_aux=q, tree=tree)
