"""Linear layers with reordered weights against plain ones."""

import pytest
import torch
from torch import nn

from malt_fast.engines import reordered
from malt_fast.engines.reordered import reorder

pytestmark = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bfloat16 here"
)


def layers(*shapes: tuple[int, int, bool]) -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(nn.Linear(i, o, bias=b, dtype=torch.bfloat16) for i, o, b in shapes)


@torch.inference_mode()
def test_products_are_those_of_plain_layers():
    plain = layers((1, 1, True), (3, 5, False), (64, 129, True), (576, 1536, False))
    ours = layers((1, 1, True), (3, 5, False), (64, 129, True), (576, 1536, False))
    reorder(ours)
    for mine, other in zip(ours, plain, strict=True):
        assert "partial" in type(mine.forward).__name__
        for shape in ((1,), (1, 1), (7,), (64, 1), (3, 50), (200,)):
            x = torch.randn(*shape, other.in_features, dtype=torch.bfloat16)
            torch.testing.assert_close(mine(x), other(x), rtol=2e-2, atol=2e-2)
        assert torch.equal(mine.weight, other.weight)


def test_other_layers_stay_as_they_are(monkeypatch):
    class Own(nn.Linear):
        pass

    kept = nn.ModuleList([nn.Linear(4, 4), Own(4, 4, dtype=torch.bfloat16)])
    reorder(kept)
    large = layers((64, 64, False))
    monkeypatch.setattr(reordered, "SHARE", 0)
    reorder(large)
    assert not any("forward" in vars(layer) for layer in [*kept, *large])
