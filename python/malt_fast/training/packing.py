"""Cuts a training step into batches: packs of prefix trees (grouped by the core) or padded rows.

A batch is a layout of tokens and a list of (row, target, owner): position `rows[m]` of flattened
`input_ids` predicts token `targets[m]` of the batch's completion `owner[m]`. Losses see that list
only, so both layouts train to the same weights:

    trees   prefix trees depth first in one sequence, every shared prefix once; one prompt row
            predicts the first token of several completions (csrc/packing/tree_layout.hpp)
    rows    one completion per row, padded on the right

An optimiser step is cut into as many batches as it needs. Their losses are divided by `items` of
the whole step, so the gradient depends neither on the cut nor on the number of processes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from malt_fast import _core
from malt_fast.forest.role_data import Ints, RoleData, Stage
from malt_fast.kernels.linear_dpo import per_completion
from malt_fast.kernels.row_plan import Plan, make_plan
from malt_fast.models.tree_attention import BLOCK, Tree, make_tree
from malt_fast.training.stage import Layout
from malt_fast.utils.errors import MaltError

# On a GPU packs are padded to multiples of this many tokens, so that they have few lengths: memory
# of one pack then serves the next, and kernels that are chosen by size are chosen once. On average
# half of it is wasted: 3 % of a pack of 16,384.
LENGTHS = 8 * BLOCK


@dataclass(frozen=True)
class Batch:
    """One forward pass over K completions with M target tokens."""

    input_ids: Tensor  # int64 [B, L]; trees: [1, N]
    rows: Tensor  # int64 [M]
    targets: Tensor  # int64 [M]
    owner: Tensor  # int64 [M]
    lengths: Tensor  # int64 [K]: targets of each completion
    completions: Tensor  # int64 [K]: indices into the data's completions
    pairs: Tensor  # int64 [P, 2]: indices into the batch's completions; SFT: [0, 2]
    weights: Tensor  # float32 [P]: of the losses of pairs
    num_tokens: int  # without padding
    position_ids: Tensor | None = None  # trees: int64 [1, N], counted from the root
    tree: Tree | None = None
    plan: Plan | None = None  # of rows and targets, once the batch is on its device
    counts: bool = True  # False: a repeated batch, so that every process has equally many

    def to(self, device: torch.device) -> "Batch":
        """The batch on the device that trains, planned before so that nothing waits for a GPU.

        The thread that packs must not plan: torch's CPU operations would get a second team of
        threads, and with more threads than cores OpenMP lets all of them sleep between operations.
        """
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        tree = None if self.tree is None else self.tree.to(device)
        plan = make_plan(self.rows, self.targets).to(device)
        return replace(self, **moved, plan=plan, tree=tree)


class Step(NamedTuple):
    """An optimiser step: the batches of this process, and the divisors of the loss."""

    batches: list[Batch]
    items: Tensor  # int64: [targets] for SFT, [pairs, chosen tokens] for DPO
    num_tokens: int  # of all processes' batches, without padding


@dataclass(frozen=True)
class Packing:
    """How steps are cut into batches, and which of the batches belong to this process."""

    layout: Layout
    pack_tokens: int  # trees: most tokens in a batch
    batch_size: int  # rows: most examples or pairs in a batch
    device: str  # "cpu" or "cuda"
    rank: int = 0
    world: int = 1


class Packer:
    """Makes a Step of indices of examples (SFT) or pairs (DPO), equal in all processes."""

    def __init__(self, stage: Stage, data: RoleData, packing: Packing) -> None:
        self.stage, self.data, self.packing = stage, data, packing
        self.lengths = np.array([len(c) for c in data.completions], dtype=np.int64)
        self.arena = _Arena(data)
        equal = np.ones(len(data.pairs))
        self.weights = equal if data.weights is None else data.weights
        self.row_lengths = self.arena.prompt_len + self.lengths - 1  # without the last token
        if packing.layout == "trees":
            self._check_capacity()

    def __len__(self) -> int:
        return self.data.rows(self.stage)

    def __call__(self, indices: Sequence[int]) -> Step:
        completions, pairs = self._chosen(indices)
        if self.stage == "sft":
            items = [int(self.lengths[completions].sum())]
        else:
            items = [len(pairs), int(self.lengths[completions[pairs[:, 0]]].sum())]
        batches, num_tokens = self.cut(completions, pairs, np.asarray(indices))
        return Step(batches, torch.tensor(items), num_tokens)

    def longest(self, indices: Sequence[int]) -> int:
        """Tokens of the largest batch of a step, with padding."""
        completions, pairs = self._chosen(indices)
        if self.packing.layout == "trees":
            tokens = int(np.diff(self._shared_layout(completions, pairs).begin).max())
            return tokens + padding(tokens, self.packing.device)
        lengths = [self.row_lengths[part] for part, *_ in self._parts(completions, pairs)]
        return max(len(part) * int(part.max()) for part in lengths)

    def _chosen(self, indices: Sequence[int]) -> tuple[Ints, Ints]:
        """(completions, pairs of indices into them) of a step's examples or pairs."""
        chosen = np.asarray(indices)
        if self.stage == "sft":
            return chosen, np.zeros((0, 2), np.int64)
        completions, local = np.unique(self.data.pairs[chosen], return_inverse=True)
        return completions, local.reshape(-1, 2)

    def cut(
        self, completions: Ints, pairs: Ints, rows: Ints | None = None
    ) -> tuple[list[Batch], int]:
        """The batches of this process, and the number of tokens in the batches of all.

        pairs [P, 2]: indices into `completions`; rows [P]: those of the data that they are, by
        default all. Every process gets equally many batches.
        """
        if rows is None:
            rows = np.arange(len(pairs))
        if self.packing.layout == "trees":
            return self._packs(completions, pairs, rows)
        return self._padded(completions, pairs, rows)

    def _parts(self, completions: Ints, pairs: Ints) -> list[tuple[Ints, Ints, slice]]:
        """(completions, pairs, which pairs these are) of each batch of rows."""
        size, parts = self.packing.batch_size, []
        for start in range(0, len(pairs) or len(completions), size):
            part, linked = np.arange(start, min(start + size, len(completions))), pairs[:0]
            if len(pairs):
                part, local = np.unique(pairs[start : start + size], return_inverse=True)
                linked = local.reshape(-1, 2)
            parts.append((completions[part], linked, slice(start, start + size)))
        return parts

    def _padded(self, completions: Ints, pairs: Ints, rows: Ints) -> tuple[list[Batch], int]:
        parts = self._parts(completions, pairs)
        sizes = [int(self.row_lengths[part].sum()) for part, *_ in parts]
        mine = []
        for i, counts in share(sizes, self.packing.rank, self.packing.world):
            part, linked, which = parts[i]
            learned = self._learned(linked, rows[which][: len(linked)])
            mine.append(right_padded(self.arena, part, learned, counts))
        return mine, sum(sizes)

    def _packs(self, completions: Ints, pairs: Ints, rows: Ints) -> tuple[list[Batch], int]:
        layout = self._shared_layout(completions, pairs)
        sizes, mine = np.diff(layout.begin).tolist(), []
        for i, counts in share(sizes, self.packing.rank, self.packing.world):
            link = layout.link[slice(*layout.link_begin[i : i + 2].tolist())]
            member = layout.member[slice(*layout.member_begin[i : i + 2].tolist())]
            learned = self._learned(np.searchsorted(member, pairs[link]), rows[link])
            own = completions[member]
            mine.append(
                to_batch(layout, i, own, self.lengths[own], learned, self.packing.device, counts)
            )
        return mine, len(layout.token)

    def _learned(self, pairs: Ints, rows: Ints) -> dict[str, Tensor]:
        """The pairs of a batch, which are `rows` of the data, with their weights."""
        weights = torch.from_numpy(self.weights[rows].astype(np.float32))
        return {"pairs": _long(pairs), "weights": weights}

    def _shared_layout(self, completions: Ints, pairs: Ints) -> _core.packing.Packs:
        """Packs of at most `pack_tokens`, as many as processes can share evenly."""
        layout = self._layout(completions, pairs, self.packing.pack_tokens)
        packs, world = len(layout.begin) - 1, self.packing.world
        if packs % world:  # smaller packs may divide evenly
            even = -(-packs // world) * world
            need = int(self.needs(completions, pairs).max())
            even_size = max(need, int(1.05 * len(layout.token) / even))
            finer = self._layout(completions, pairs, min(even_size, self.packing.pack_tokens))
            layout = finer if len(finer.begin) - 1 <= even else layout
        return layout

    def _layout(self, completions: Ints, pairs: Ints, capacity: int) -> _core.packing.Packs:
        arena = self.arena
        return _core.packing.lay_out(
            arena.tokens,
            arena.prompt_begin[completions],
            arena.prompt_len[completions],
            arena.completion_begin[completions],
            arena.completion_len[completions],
            pairs.ravel(),
            capacity,
        )

    def needs(self, completions: Ints, pairs: Ints) -> Ints:
        """Most tokens that each pair takes in a pack, or each completion if there are no pairs."""
        own = (self.arena.completion_len - 1)[completions].astype(np.int64)
        prompt = self.arena.prompt_len[completions].astype(np.int64)
        return prompt[pairs[:, 0]] + own[pairs].sum(1) if len(pairs) else prompt + own

    def _check_capacity(self) -> None:
        needs = self.needs(np.arange(len(self.data)), self.data.pairs)
        worst, capacity = int(needs.argmax()), self.packing.pack_tokens
        if needs[worst] > capacity:
            which = self.data.pairs[worst] if self.stage == "dpo" else [worst]
            nodes = " with ".join(str(self.data.nodes[i]) for i in which)
            raise MaltError(
                f"node {nodes} has {needs[worst]} tokens with its prompt, more than "
                f"train.pack_tokens = {capacity}: raise that"
            )


class _Arena:
    """All prompts, each once, and all completions in one array, and their places in it."""

    def __init__(self, data: RoleData) -> None:
        prompts = {id(prompt): prompt for prompt in data.prompts}  # equal ones mostly are one
        place = {key: i for i, key in enumerate(prompts)}
        which = np.array([place[id(prompt)] for prompt in data.prompts], np.int64)
        pieces = [*prompts.values(), *data.completions]
        length = np.array([len(piece) for piece in pieces], np.int32)
        begin = np.cumsum(length, dtype=np.int64) - length
        self.tokens = np.concatenate(pieces) if pieces else np.zeros(0, np.int32)
        self.prompt_begin, self.prompt_len = begin[which], length[which]
        self.completion_begin = begin[len(prompts) :]
        self.completion_len = length[len(prompts) :]

    def row(self, i: int) -> np.ndarray:
        parts = ((self.prompt_begin, self.prompt_len), (self.completion_begin, self.completion_len))
        return np.concatenate([self.tokens[begin[i] : begin[i] + n[i]] for begin, n in parts])


def to_batch(
    layout: _core.packing.Packs,
    pack: int,
    completions: Ints,
    lengths: Ints,
    learned: Mapping[str, Any],
    device: str,
    counts: bool = True,
) -> Batch:
    """Pack number `pack` of a layout, padded on a GPU by trees of one token.

    completions, lengths [K]: the pack's own; learned: Batch's fields on what is learned from them.
    """
    columns = (layout.begin, layout.target_begin, layout.member_begin)
    tokens, targets, members = (slice(*x[pack : pack + 2].tolist()) for x in columns)
    n = tokens.stop - tokens.start
    more = padding(n, device)
    position = layout.position[tokens]
    end = np.append(layout.end[tokens], np.arange(n + 1, n + more + 1, dtype=np.int32))
    return Batch(
        input_ids=_row(layout.token[tokens], more),
        position_ids=_row(position, more),
        tree=make_tree(end, int(position.max(initial=-1)) + 1, device),
        rows=_long(layout.row[targets]),
        targets=_long(layout.target[targets]),
        owner=_long(np.searchsorted(layout.member[members], layout.owner[targets])),
        lengths=_long(lengths),
        completions=_long(completions),
        num_tokens=n,
        counts=counts,
        **learned,
    )


def padding(tokens: int, device: str) -> int:
    """Tokens that lengthen a pack to a multiple of LENGTHS on a GPU."""
    return -tokens % LENGTHS if device == "cuda" else 0


def right_padded(
    arena: _Arena, completions: Ints, learned: Mapping[str, Any], counts: bool = True
) -> Batch:
    """One completion per row, without its last token, which predicts nothing.

    learned: Batch's fields on what is learned from the completions. Padding may be any token, since
    causal attention never looks right.
    """
    rows = [arena.row(i) for i in completions]
    lengths = arena.completion_len[completions].astype(np.int64)
    sizes = np.array([len(row) for row in rows])
    width = int(sizes.max()) - 1
    ids = np.zeros((len(rows), width), dtype=np.int64)
    for line, row in zip(ids, rows, strict=True):
        line[: len(row) - 1] = row[:-1]
    owner = np.repeat(np.arange(len(rows)), lengths)
    first = np.arange(len(rows)) * width + sizes - 1 - lengths  # predicts a row's first target
    step = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    targets = [row[len(row) - n :] for row, n in zip(rows, lengths, strict=True)]
    return Batch(
        input_ids=torch.from_numpy(ids),
        rows=_long(first[owner] + step),
        targets=_long(np.concatenate(targets)),
        owner=_long(owner),
        lengths=_long(lengths),
        completions=_long(completions),
        num_tokens=int((sizes - 1).sum()),
        counts=counts,
        **learned,
    )


def share(sizes: Sequence[int], rank: int, world: int) -> list[tuple[int, bool]]:
    """[(batch, counts)] of a process: similar work for all, the larger batches first.

    All get equally many, since all exchange gradients; a process with one too few repeats one that
    does not count.
    """
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    mine = [(i, True) for i in order[rank::world]]
    if len(mine) < -(-len(sizes) // world):
        mine.append((order[-1], False))
    return mine


def completion_logps(token_logp: Tensor, batch: Batch) -> Tensor:
    """[K]: token log-probs [M] summed over the targets of each completion."""
    return per_completion(token_logp, batch.owner, len(batch.lengths))


def _row(values: np.ndarray, padding: int) -> Tensor:
    return _long(np.pad(values, (0, padding)))[None]


def _long(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.int64))
