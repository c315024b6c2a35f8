"""Attention of decoded rows, in C++, against a softmax over each row's own columns in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from malt_fast import _core
from malt_fast.engines.decode_attention import Reads, attend, mask_of
from malt_fast.utils.tensors import bits
from tests.volume import volume

attention = _core.kernels.cached_attention
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def cache(slots: int, groups: int, columns: int, width: int, dtype: torch.dtype) -> Tensor:
    """[slots, groups, columns, width]: a part of a larger one, with garbage all around."""
    whole = torch.full((slots + 1, groups, columns + 3, width), torch.nan).to(dtype)
    whole[:slots, :, :columns] = torch.randn(slots, groups, columns, width).to(dtype)
    return whole[:slots, :, :columns]


def plain(q, keys, values, end, scale, cap, window) -> Tensor:
    """[n, H, E] in float64, a row at a time."""
    out = torch.zeros(*q.shape[:2], values.shape[-1], dtype=torch.float64)
    repeats = q.shape[1] // keys.shape[1]
    for i, stop in enumerate(end):
        first = max(0, stop - window) if window else 0
        k, v = (x[i, :, first:stop].double().repeat_interleave(repeats, 0) for x in (keys, values))
        scores = (k @ q[i].double()[..., None])[..., 0] * scale
        if cap:
            scores = cap * torch.tanh(scores / cap)
        if stop:
            out[i] = (scores.softmax(-1)[:, None] @ v)[:, 0]
    return out


def shared_reads(rng: np.random.Generator, end: np.ndarray) -> Reads:
    """Random groups of rows that begin alike."""
    n = len(end)
    lead, shared = np.arange(n, dtype=np.int32), np.zeros(n, np.int32)
    rows = rng.permutation(n)
    for group in np.array_split(rows, max(1, n // 5)):
        if len(group):
            lead[group] = group[0]
            shared[group] = rng.integers(0, end[group].min() + 1)
    return Reads(end, lead, shared)


@settings(max_examples=volume(150))
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.sampled_from([0, 1, 2, 7, 40]),
    longest=st.sampled_from([1, 15, 64, 65, 300]),
    heads=st.sampled_from([(1, 1), (3, 1), (6, 2), (9, 3), (8, 1), (4, 4), (16, 2), (64, 1)]),
    widths=st.sampled_from([(64, 64), (80, 80), (128, 128), (256, 256), (1, 5), (24, 40)]),
    dtype=st.sampled_from(DTYPES),
    cap=st.sampled_from([None, 2.0]),
    window=st.sampled_from([None, 1, 20, 64]),
    share=st.booleans(),
    simd=st.sampled_from(["", *_core.kernels.simd_levels()]),
)
def test_rows_are_a_softmax_over_their_columns(
    seed, n, longest, heads, widths, dtype, cap, window, share, simd
):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    end = rng.integers(0, longest + 1, n).astype(np.int32)
    q = torch.randn(n, heads[0], widths[0])
    keys, values = (cache(n, heads[1], longest, width, dtype) for width in widths)
    reads = Reads(end, np.arange(n, dtype=np.int32), np.zeros(n, np.int32))
    if share:
        reads = shared_reads(rng, end)
        for x in (keys, values):
            for i in range(n):
                x[i, :, : reads.shared[i]] = x[reads.lead[i], :, : reads.shared[i]]
    scale = 3 * widths[0] ** -0.5
    want = plain(q, keys, values, end, scale, cap, window)
    if share:  # nobody may read these copies
        for x in (keys, values):
            for i in range(n):
                if reads.lead[i] != i:
                    x[i, :, : reads.shared[i]] = torch.nan
    out = torch.full(want.shape, torch.nan)
    attention(
        q.numpy(),
        bits(keys)[0],
        *bits(values),
        np.arange(n),
        *reads,
        scale=scale,
        softcap=cap or 0,
        window=window or 0,
        out=out.numpy(),
        simd=simd,
    )
    torch.testing.assert_close(out.double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_as_sdpa(dtype):
    torch.manual_seed(0)
    n, columns = 5, 130
    q = torch.randn(n, 6, 1, 64).to(dtype)
    keys, values = (cache(n, 2, columns, 64, dtype) for _ in range(2))
    end = torch.tensor([130, 1, 64, 77, 2])
    zero = np.zeros(n, np.int32)
    out = attend(q, keys, values, Reads(end.numpy().astype(np.int32), zero, zero), None, None, None)
    k, v = (x.float().repeat_interleave(3, 1) for x in (keys, values))
    want = torch.nn.functional.scaled_dot_product_attention(
        q.float(), k, v, attn_mask=mask_of(end - 1, columns, torch.float32)
    )
    assert out.dtype == dtype
    torch.testing.assert_close(out, want.transpose(1, 2).to(dtype))


def test_slots_in_any_order_and_far_scores():
    """A row whose scores are all far below zero, or far above, has the same softmax."""
    torch.manual_seed(1)
    slot, end = np.array([3, 0, 3]), np.array([90, 70, 5])
    q = torch.randn(3, 2, 32) * torch.tensor([1000.0, -1000.0, 1.0])[:, None, None]
    keys, values = (cache(4, 1, 90, 32, torch.float32) for _ in range(2))
    keys += 1
    out = torch.empty(3, 2, 32)
    attention(
        *(q.numpy(), keys.numpy(), values.numpy(), "float32", slot, end),
        *(slot, np.zeros(3, np.int32)),
        scale=1.0,
        out=out.numpy(),
    )
    want = plain(q, keys[slot], values[slot], end, 1.0, None, None)
    torch.testing.assert_close(out.double(), want, rtol=1e-4, atol=1e-4)


def test_a_nan_stays_in_its_row():
    keys, values = (cache(2, 1, 20, 16, torch.float32) for _ in range(2))
    keys[1, 0, 3, 2] = torch.nan
    end, zero = np.full(2, 20, np.int32), np.zeros(2, np.int32)
    out = attend(torch.randn(2, 1, 1, 16), keys, values, Reads(end, zero, zero), None, None, None)
    assert out[0].isfinite().all()
    assert out[1].isnan().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slot": [0, 2]}, "slot must be one of the cache"),
        ({"slot": [0]}, "one value per row"),
        ({"end": [0, 9]}, "end must be within the columns"),
        ({"lead": [-1, 0]}, "lead must be a slot"),
        ({"shared": [6, 0]}, "shared must not exceed end"),
        ({"window": -1}, "window must be"),
        ({"simd": "mmx"}, "cannot run on this machine"),
        ({"type": "bfloat16"}, "uint16"),
        ({"q": np.zeros((2, 3, 4), np.float32)}, "multiple of groups"),
        ({"q": np.zeros((2, 2, 5), np.float32)}, "q and out must be"),
        ({"out": np.zeros((2, 2, 5), np.float32)}, "q and out must be"),
        ({"values": np.zeros((2, 2, 7, 4), np.float32)}, "the same columns"),
        ({"values": np.zeros((2, 2, 8, 8), np.float32)[..., ::2]}, "contiguous"),
    ],
)
def test_wrong_arguments(change, message):
    good = {
        "q": np.zeros((2, 2, 4), np.float32),
        "keys": np.zeros((2, 2, 8, 4), np.float32),
        "values": np.zeros((2, 2, 8, 4), np.float32),
        "type": "float32",
        "slot": [0, 1],
        "end": [5, 8],
        "lead": [0, 0],
        "shared": [5, 5],
        "scale": 1.0,
        "out": np.zeros((2, 2, 4), np.float32),
    }
    attention(**good)
    with pytest.raises(ValueError, match=message):
        attention(**(good | change))
