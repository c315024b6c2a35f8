"""Linear layers in bfloat16 on a CPU, with weights in the order that oneDNN multiplies in.

torch keeps a weight row by row, and oneDNN reorders it in every product. Done once, a product with
the 8 to 64 rows of a decoding step takes 0.4 to 0.95 of the time. The copy doubles the memory of
these weights; the plain ones stay, since adapters and embeddings read them.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from malt_fast.utils.memory import total_memory

SHARE = 1 / 4  # of all memory, which the copies may take
ROWS = 64  # that the order is chosen for; any number may come


def reorder(model: Any) -> None:
    """Let the plain linear layers of `model` multiply with reordered weights, if memory allows."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    layers: list[Any] = [
        layer
        for layer in model.modules()
        if type(layer) is nn.Linear and layer.weight.dtype == torch.bfloat16
    ]
    if sum(layer.weight.nbytes for layer in layers) > SHARE * total_memory():
        return
    for layer in layers:
        weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
        layer.forward = partial(_forward, weight, layer.bias)


def _forward(weight: Any, bias: Tensor | None, x: Tensor) -> Tensor:
    """The product as torch.compile calls it."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out
