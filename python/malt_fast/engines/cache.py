"""A key-value cache for rows that come and go: slots written in place, each from column 0."""

from typing import Any, NamedTuple

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class Plan(NamedTuple):
    """Where the keys of the next forward pass go: from its rows to the cache's slots."""

    slots: Tensor  # int64[n]
    columns: Tensor | None  # int64[n], one token's; None = a prefill, from column 0
    source: Tensor | None  # int64[n], the prefill's row for each slot
    rows: int  # slots that the cache must have
    width: int  # columns that it must have, all of which are attended to


class TriePlan(NamedTuple):
    """The same for a pass over a trie of N rows, some of whose keys the cache holds already."""

    slots: Tensor  # int64[n]
    source: Tensor  # int64[n, columns], the row of the trie for each slot and column
    rows: int  # slots that the cache must have
    width: int  # columns that it must have
    new: Tensor  # int64[M], the rows that the pass runs
    known: Tensor  # int64[3, N - M]: the others, and the slot and column where the cache has them


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, [slots, heads, columns, width], written in place."""

    def __init__(self, cache: "SlotCache") -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = (x[:0, :, :0] for x in (key_states, value_states))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new keys and values; returns those to attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        plan = self.cache.plan
        self.keys = grown(self.keys, plan.rows, plan.width, dim=2)
        self.values = grown(self.values, plan.rows, plan.width, dim=2)
        return _write(self.keys, key_states, plan), _write(self.values, value_states, plan)

    def move(self, source: Tensor, target: Tensor) -> None:
        """Copy slots `source` over slots `target`."""
        if self.is_initialized:
            self.keys[target] = self.keys[source]
            self.values[target] = self.values[source]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0  # asked for prefills only; decoding brings its own mask

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """The cache of all layers; `plan` says where the next forward pass writes."""

    def __init__(self, n_layers: int) -> None:
        self.plan: Plan | TriePlan
        super().__init__(layers=[SlotLayer(self) for _ in range(n_layers)])


def _write(stored: Tensor, new: Tensor, plan: Plan | TriePlan) -> Tensor:
    if isinstance(plan, TriePlan):
        return _write_trie(stored, new, plan)
    if plan.source is not None:
        stored[:, :, : new.shape[2]].index_copy_(0, plan.slots, new.index_select(0, plan.source))
        return new
    stored[plan.slots, :, plan.columns] = new.squeeze(2)
    return stored[: len(plan.slots), :, : plan.width]


def _write_trie(stored: Tensor, new: Tensor, plan: TriePlan) -> Tensor:
    """[1, heads, N, width]: all keys of the trie, which go to its slots, path by path."""
    known, slots, columns = plan.known
    trie = new.new_empty(1, new.shape[1], len(plan.new) + len(known), new.shape[3])
    trie[0, :, plan.new] = new[0]
    trie[0, :, known] = stored[slots, :, columns].transpose(0, 1)
    paths = trie[0, :, plan.source].transpose(0, 1)
    stored[:, :, : plan.source.shape[1]].index_copy_(0, plan.slots, paths)
    return trie


def grown(x: Tensor, rows: int, columns: int, dim: int) -> Tensor:
    """x, or a larger copy if it has fewer `rows`, or fewer `columns` along `dim`.

    The new space is zero, not garbage: a masked column still contributes 0 * value.
    """
    if x.shape[0] >= rows and x.shape[dim] >= columns:
        return x
    shape = list(x.shape)
    shape[0] = max(rows, x.shape[0])
    if columns > x.shape[dim]:
        shape[dim] = columns * 5 // 4 + 8
    wider = x.new_zeros(shape)
    wider[tuple(slice(n) for n in x.shape)] = x
    return wider
