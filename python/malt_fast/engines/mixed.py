"""Rows of several adapters in one forward pass, where adapters are not merged.

Each plain LoRA layer adds every adapter's product to the rows of that adapter:

    y = W x,   y[rows] += scaling * B (A x[rows])    for each (adapter, rows)

So a batch never waits for the slowest rows of one adapter, and trees finish in their order. Where
rows of an adapter lie together, as prompts in a trie do, each run of rows has its two products.
Where they alternate, as decoded rows do, the core does it (csrc/kernels/adapters.hpp). On a CPU
only, where a decoding step is mostly small products.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from malt_fast import _core
from malt_fast.utils.tensors import bits

RUN = 32  # rows of a mean run from which on each run has its own products


class Stack(NamedTuple):
    """The matrices of one layer by adapter; zero where an adapter leaves the layer alone."""

    a: Tensor  # [K, in, r]
    b: Tensor  # [K, r, out], scaled


class Rows(NamedTuple):
    """Whose the rows of a pass are."""

    adapter: npt.NDArray[np.int32]  # [n], -1 for none
    runs: list[tuple[int, int, int]] | None  # adapter, begin and end, if runs are long


class Mixed:
    """What the plain LoRA layers of one model add in the next forward pass."""

    def __init__(self) -> None:
        self.names: list[str] = []  # PEFT's names of adapters
        self.rows: Rows | None = None  # None: the layers do as PEFT has set them

    def adopt(self, model: Any, name: str) -> None:
        """Let the plain LoRA layers of `model` follow `rows`, with one more adapter."""
        self.names.append(name)
        for layer in model.modules():
            if is_plain(layer):
                first = not isinstance(layer.forward, partial)
                plain = layer.forward if first else layer.forward.args[2]
                layer.forward = partial(_forward, self, layer, plain, _stack(layer, self.names))

    def answer(self, owner: Sequence[str | None]) -> None:
        """owner: the name of the adapter of each row of the next pass, or None."""
        index = {name: k for k, name in enumerate(self.names)}
        adapter = np.array([-1 if name is None else index[name] for name in owner], np.int32)
        cuts = [0, *(np.flatnonzero(np.diff(adapter)) + 1).tolist(), len(adapter)]
        runs = [(int(adapter[begin]), begin, end) for begin, end in pairwise(cuts)]
        long = len(runs) * RUN <= len(adapter)
        self.rows = Rows(adapter, [run for run in runs if run[0] >= 0] if long else None)


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


def _stack(layer: Any, names: Sequence[str]) -> Stack:
    base = layer.get_base_layer()
    rank = max(layer.r.values(), default=0)
    first = next(iter(layer.lora_A.values())).weight
    a = first.new_zeros(len(names), layer.in_features, rank)
    b = first.new_zeros(len(names), rank, layer.out_features)
    for k, name in enumerate(names):
        if name in layer.lora_A:
            r = layer.r[name]
            a[k, :, :r] = layer.lora_A[name].weight.T
            b[k, :r] = layer.lora_B[name].weight.T * layer.scaling[name]
    return Stack(a.to(base.weight.device), b.to(base.weight.device))


def _forward(
    mixed: Mixed, layer: Any, plain: Callable[..., Tensor], stack: Stack, x: Tensor
) -> Tensor:
    rows = mixed.rows
    if rows is None:
        return plain(x)
    out: Tensor = layer.base_layer(x)
    flat, into = x.flatten(0, -2), out.flatten(0, -2)
    if rows.runs is None:
        (a, _), (b, _), (given, kind) = map(bits, (*stack, flat.contiguous()))
        _core.kernels.add_adapters(bits(into)[0], given, a, b, rows.adapter, kind)
        return out
    for k, begin, end in rows.runs:
        into[begin:end].addmm_(flat[begin:end] @ stack.a[k], stack.b[k])
    return out
