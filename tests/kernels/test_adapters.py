"""What adapters add to rows of their own, against plain torch."""

import numpy as np
import pytest
import torch

from malt_fast import _core
from malt_fast.utils.tensors import bits

LEVELS = _core.kernels.simd_levels()
DTYPES = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def case(n, adapters, inner, rank, outputs, dtype, seed=0):
    torch.manual_seed(seed)
    x, a, b = (
        torch.randn(*shape).to(dtype)
        for shape in ((n, inner), (adapters, inner, rank), (adapters, rank, outputs))
    )
    a /= max(inner, 1) ** 0.5
    return x, a, b, torch.randn(n, outputs).to(dtype), torch.randint(-1, adapters, (n,))


def add(x, a, b, out, adapter, simd=""):
    (given, kind), (a, _), (b, _), (into, _) = map(bits, (x, a, b, out))
    _core.kernels.add_adapters(into, given, a, b, adapter.numpy(), kind, simd)


def expected(x, a, b, out, adapter):
    wide = out.double()
    for row, k in enumerate(adapter.tolist()):
        if k >= 0:
            wide[row] += x[row].double() @ a[k].double() @ b[k].double()
    return wide


@pytest.mark.parametrize("simd", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "adapters", "inner", "rank", "outputs"),
    [(1, 1, 1, 1, 1), (7, 2, 5, 3, 33), (64, 6, 96, 32, 128), (5, 1, 64, 16, 48), (9, 9, 31, 8, 7)],
)  # fmt: skip
def test_each_row_gets_what_its_adapter_adds(simd, dtype, n, adapters, inner, rank, outputs):
    x, a, b, out, adapter = case(n, adapters, inner, rank, outputs, dtype)
    right = expected(x, a, b, out, adapter)
    add(x, a, b, out, adapter, simd)
    torch.testing.assert_close(out.double(), right, rtol=DTYPES[dtype], atol=DTYPES[dtype])


def test_a_row_does_not_depend_on_its_company():
    x, a, b, out, adapter = case(65, 4, 48, 16, 80, torch.bfloat16)
    alone = out.clone()
    add(x, a, b, out, adapter)
    for row in range(len(x)):
        one = slice(row, row + 1)
        add(x[one], a, b, alone[one], adapter[one])
    assert torch.equal(alone, out)


def test_nothing_to_add():
    x, a, b, out, adapter = case(5, 2, 8, 4, 8, torch.float32)
    before = out.clone()
    add(x, a, b, out, torch.full_like(adapter, -1))
    add(x[:0], a, b, out[:0], adapter[:0])
    add(x, a[:, :, :0].contiguous(), b[:, :0].contiguous(), out, adapter)
    assert torch.equal(out, before)


def test_wrong_arrays_are_refused():
    x, a, b, out, adapter = (t.numpy() for t in case(5, 2, 8, 4, 6, torch.float32))
    right = {"out": out, "x": x, "a": a, "b": b, "adapter": adapter, "type": "float32"}
    frozen = out.copy()
    frozen.setflags(write=False)
    for wrong, words in (
        ({"adapter": np.full(5, 2)}, "below the number of adapters"),
        ({"adapter": adapter[:4]}, "one value per row"),
        ({"x": x[:, ::2]}, "contiguous"),
        ({"x": x[:, :4].copy()}, "shapes"),
        ({"b": b[:1]}, "shapes"),
        ({"type": "bfloat16"}, "uint16"),
        ({"out": frozen}, "writable"),
        ({"simd": "mmx"}, "simd"),
    ):
        with pytest.raises(ValueError, match=words):
            _core.kernels.add_adapters(**right | wrong)
    _core.kernels.add_adapters(**right)
