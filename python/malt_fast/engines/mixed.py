"""Rows of several adapters in one forward pass, where adapters are not merged.

Each plain LoRA layer adds every adapter's product to the rows of that adapter:

    y = W x,   y[rows] += scaling * B (A x[rows])    for each (adapter, rows)

So a batch never waits for the slowest rows of one adapter, and trees finish in their order. Where
rows of an adapter lie together, as prompts in a trie do, each run of rows has its two products.
Where they alternate, as decoded rows do, a step is two batched products per layer over the stacked
matrices of all adapters: on a CPU a small product costs more to begin than to do.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

RUN = 32  # rows of a mean run from which on each run has its own products


class Stack(NamedTuple):
    """The matrices of one layer by adapter; zero where an adapter leaves the layer alone."""

    a: Tensor  # [K, in, r]
    b: Tensor  # [K, r, out], scaled


class Runs(NamedTuple):
    """Whose the rows of a pass are, where they lie together."""

    spans: list[tuple[int, int, int]]  # adapter, begin and end of its rows


class Places(NamedTuple):
    """The same where they alternate: adapter k has the places k * most, k * most + 1, ..."""

    most: int  # rows of one adapter
    row: Tensor  # int64[K * most]: the row of each place, any where there is none
    place: Tensor  # int64[n]: the place of each row, K * most for one without adapter


class Mixed:
    """What the plain LoRA layers of one model add in the next forward pass."""

    def __init__(self) -> None:
        self.names: list[str] = []  # PEFT's names of adapters
        self.rows: Runs | Places | None = None  # None: the layers do as PEFT has set them

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
        cuts = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(number)]
        if (len(cuts) - 1) * RUN <= len(number):
            spans = [(int(number[begin]), begin, end) for begin, end in pairwise(cuts)]
            self.rows = Runs([span for span in spans if span[0] < len(index)])
        else:
            self.rows = _places(number, len(index), device)


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


def _places(number: np.ndarray, n_adapters: int, device: torch.device) -> Places:
    """number: the adapter of each row, n_adapters for none."""
    order = np.argsort(number, kind="stable")
    count = np.bincount(number, minlength=n_adapters + 1)[:-1]
    most = int(count.max(initial=0))
    place = np.full(len(number), n_adapters * most)
    row = np.zeros(n_adapters * most, np.int64)
    for k, begin in enumerate((np.cumsum(count) - count).tolist()):
        own = order[begin : begin + count[k]]
        place[own] = k * most + np.arange(len(own))
        row[place[own]] = own
    return Places(most, *(torch.from_numpy(x).to(device) for x in (row, place)))


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
    if isinstance(rows, Runs):
        for k, begin, end in rows.spans:
            into[begin:end].addmm_(flat[begin:end] @ stack.a[k], stack.b[k])
    elif rows.most:
        added = into.new_zeros(len(rows.row) + 1, into.shape[1])  # the last: without an adapter
        together = flat.index_select(0, rows.row).view(len(mixed.names), rows.most, -1)
        low = torch.bmm(together, stack.a)
        torch.bmm(low, stack.b, out=added[:-1].view(*low.shape[:2], -1))
        into += added.index_select(0, rows.place)
    return out
