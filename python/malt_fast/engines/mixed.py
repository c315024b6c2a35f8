"""Rows of several adapters in one forward pass, where adapters are not merged.

Each plain LoRA layer adds every adapter's product to the rows of that adapter:

    y = W x,   y[rows] += scaling * B (A x[rows])    for each (adapter, rows)

So a batch never waits for the slowest rows of one adapter, and trees finish in their order.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

Rows = list[tuple[str, Tensor | None]]  # PEFT's name of an adapter; int64 rows, or None: all


class Mixed:
    """What the plain LoRA layers of one model add in the next forward pass."""

    def __init__(self) -> None:
        self.rows: Rows | None = None  # None: the layers do as PEFT has set them

    def adopt(self, model: Any) -> None:
        """Let the plain LoRA layers of `model` follow `rows`."""
        for layer in model.modules():
            if is_plain(layer) and not isinstance(layer.forward, partial):
                layer.forward = partial(_forward, self, layer, layer.forward)


def is_plain(layer: Any) -> bool:
    from peft.tuners.lora import Linear

    return type(layer) is Linear and not layer.lora_variant and not any(layer.lora_bias.values())


def can_mix(peft: Any, name: str) -> bool:
    """Whether the adapter changes plain LoRA layers alone, which see one row per token."""
    from peft import LoraConfig
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = peft.peft_config[name]
    if type(config) is not LoraConfig or config.modules_to_save or config.trainable_token_indices:
        return False
    return all(
        is_plain(layer) and "expert" not in path
        for path, layer in peft.named_modules()
        if isinstance(layer, BaseTunerLayer)
    )


def _forward(mixed: Mixed, layer: Any, plain: Callable[..., Tensor], x: Tensor) -> Tensor:
    if mixed.rows is None:
        return plain(x)
    out: Tensor = layer.base_layer(x)
    flat, flat_out = x.view(-1, x.shape[-1]), out.view(-1, out.shape[-1])
    for name, rows in mixed.rows:
        if name in layer.lora_A:
            a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
            if rows is None:
                flat_out.addmm_(flat @ a.T, b.T, alpha=layer.scaling[name])
            else:
                own = flat.index_select(0, rows) @ a.T
                flat_out.index_add_(0, rows, own @ b.T, alpha=layer.scaling[name])
    return out
