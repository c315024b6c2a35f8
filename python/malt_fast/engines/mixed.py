"""Rows of several adapters in one forward pass, where adapters are not merged.

Each plain LoRA layer adds every adapter's product to the rows of that adapter:

    y = W x,   y[rows] += scaling * B (A x[rows])    for each (adapter, rows)

So a batch never waits for the slowest rows of one adapter, and trees finish in their order. The
matrices of all adapters lie stacked, and a step is two batched products per layer: on a CPU a small
product costs more to begin than to do. Where that would be mostly padding, as in the prefill of
one adapter's prompts, each adapter has its own.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

PADDING = 256  # rows of padding that cost less than a product per adapter


class Stack(NamedTuple):
    """The matrices of one layer by adapter; zero where an adapter leaves the layer alone."""

    a: Tensor  # [K, in, r]
    b: Tensor  # [K, r, out], scaled


class Rows(NamedTuple):
    """Which rows are whose: adapter k has those of places k * most, k * most + 1, ..."""

    spans: list[tuple[int, int, int]]  # adapter, and begin and end of its places
    most: int  # rows of one adapter
    row: Tensor  # int64[K * most]: the row of each place, any where there is none
    place: Tensor  # int64[n]: the place of each row, K * most for one without adapter


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

    def answer(self, owner: Sequence[str | None], device: torch.device) -> None:
        """owner: the name of the adapter of each row of the next pass, or None."""
        index = {name: k for k, name in enumerate(self.names)}
        number = np.array([len(index) if name is None else index[name] for name in owner])
        order = np.argsort(number, kind="stable")
        count = np.bincount(number, minlength=len(index) + 1)[:-1]
        most = int(count.max(initial=0))
        place = np.full(len(owner), len(index) * most)
        row = np.zeros(len(index) * most, np.int64)
        spans = []
        for k, begin in enumerate((np.cumsum(count) - count).tolist()):
            own = order[begin : begin + count[k]]
            place[own] = k * most + np.arange(len(own))
            row[place[own]] = own
            spans.append((k, k * most, k * most + len(own)))
        self.rows = Rows(spans, most, *(torch.from_numpy(x).to(device) for x in (row, place)))


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
    if rows.most:
        flat = x.view(-1, x.shape[-1])
        added = out.new_zeros(len(rows.row) + 1, out.shape[-1])  # the last: without an adapter
        together = flat.index_select(0, rows.row)
        if len(rows.row) <= 2 * len(flat) + PADDING:
            shape = len(mixed.names), rows.most
            low = torch.bmm(together.view(*shape, -1), stack.a)
            torch.bmm(low, stack.b, out=added[:-1].view(*shape, -1))
        else:
            for k, begin, end in rows.spans:
                torch.mm(together[begin:end] @ stack.a[k], stack.b[k], out=added[begin:end])
        out += added.index_select(0, rows.place).view(out.shape)
    return out
