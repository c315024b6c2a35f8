"""Cuts a training step into batches: packs of prefix trees (grouped by the core) or padded rows.

A batch is a layout of tokens and a list of (row, target, owner): position `rows[m]` of flattened
`input_ids` predicts token `targets[m]` of the batch's completion `owner[m]`. Losses see that list
only, so both layouts train to the same weights:

    trees   prefix trees depth first in one sequence, every shared prefix once; one prompt row
            predicts the first token of several completions (csrc/packing/tree_layout.hpp)
    rows    one completion per row, padded on the right

An optimiser step is cut into as many batches as it needs. A pair of DPO stays together; a link is a
pair, or a labelled completion as a pair with itself. Losses are divided by `items` of the whole
step, so the gradient depends neither on the cut nor on the number of processes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from malt_fast import _core
from malt_fast.forest.role_data import NO_PAIRS, Ints, RoleData, Stage
from malt_fast.kernels.linear_dpo import per_completion
from malt_fast.kernels.row_plan import Plan, make_plan
from malt_fast.models.tree_attention import BLOCK, Tree, make_tree
from malt_fast.training.mismatches import Mismatches
from malt_fast.training.stage import Layout
from malt_fast.utils.errors import MaltError

# On a GPU packs are padded to multiples of this many tokens, so that they have few lengths: memory
# of one pack then serves the next, and kernels that are chosen by size are chosen once. On average
# half of it is wasted: 3 % of a pack of 16,384.
LENGTHS = 8 * BLOCK
NOTHING: Ints = np.zeros(0, np.int64)


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
    labelled: Tensor  # int64 [L]: indices into the batch's completions
    desirable: Tensor  # bool [L]
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


class Items(NamedTuple):
    """What the sums of a step are divided by, in all its batches."""

    targets: float = 0.0  # SFT
    pairs: float = 0.0
    chosen: float = 0.0  # tokens of the chosen completion of a pair, in the mean
    labelled: float = 0.0


class Step(NamedTuple):
    """An optimiser step: the batches of this process, and the divisors of the loss."""

    batches: list[Batch]
    items: Items
    num_tokens: int  # of all processes' batches, without padding
    mismatched: list[Batch]  # KTO: what the KL divergence is estimated from (mismatches.py)
    mismatches: int  # completions in these batches of all processes


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
    """Makes a Step of indices of examples (SFT) or rows (DPO), equal in all processes.

    DPO's divisors: n rows of a stage with P pairs and L labelled completions hold n P/(P + L) pairs
    and n L/(P + L) labelled ones on average, and that is what sums over a step are divided by. So a
    pair weighs the same in whichever step it falls, a labelled completion too, and an epoch is the
    mean over all pairs plus the mean over all labelled ones. With one kind of rows it is n.
    """

    def __init__(
        self,
        stage: Stage,
        data: RoleData,
        packing: Packing,
        mismatches: Mismatches | None = None,
    ) -> None:
        """mismatches: of `data`, where it has labelled completions to learn from."""
        self.stage, self.mismatches, self.packing = stage, mismatches, packing
        self.data = data = data if mismatches is None else mismatches.data
        self.lengths = np.array([len(c) for c in data.completions], dtype=np.int64)
        self.arena = _Arena(data)
        self.row_lengths = self.arena.prompt_len + self.lengths - 1  # without the last token
        if packing.layout == "trees":
            self._check_capacity()

    def __len__(self) -> int:
        return self.data.rows(self.stage)

    def __call__(self, indices: Sequence[int]) -> Step:
        rows, (completions, links) = np.asarray(indices), self._chosen(indices)
        batches, num_tokens = self.cut(completions, links, rows)
        other = NOTHING if self.mismatches is None else self.mismatches.of(rows)
        mismatched = self.cut(other, NO_PAIRS)[0] if len(other) else []
        return Step(batches, self._items(rows), num_tokens, mismatched, len(other))

    def _items(self, rows: Ints) -> Items:
        if self.stage == "sft":
            return Items(targets=float(self.lengths[rows].sum()))
        pairs = self.data.pairs
        chosen = self.lengths[pairs[rows[rows < len(pairs)], 0]]
        share = len(pairs) / len(self)
        mean = float(chosen.mean()) if len(chosen) else 0.0
        n = len(rows)
        return Items(pairs=n * share, chosen=mean, labelled=n * (1 - share))

    def longest(self, indices: Sequence[int]) -> int:
        """Tokens of the largest batch of a step, with padding."""
        completions, links = self._chosen(indices)
        if self.packing.layout == "trees":
            tokens = int(np.diff(self._shared_layout(completions, links).begin).max())
            return tokens + padding(tokens, self.packing.device)
        lengths = [self.row_lengths[part] for part, *_ in self._parts(completions, links)]
        return max(len(part) * int(part.max()) for part in lengths)

    def _chosen(self, indices: Sequence[int]) -> tuple[Ints, Ints]:
        """(completions, links of indices into them) of a step's rows."""
        chosen = np.asarray(indices)
        if self.stage == "sft":
            return chosen, NO_PAIRS
        completions, local = np.unique(self.data.links[chosen], return_inverse=True)
        return completions, local.reshape(-1, 2)

    def cut(
        self, completions: Ints, links: Ints, rows: Ints | None = None
    ) -> tuple[list[Batch], int]:
        """The batches of this process, and the number of tokens in the batches of all.

        links [P, 2]: indices into `completions`; rows [P]: those of the data that they are, by
        default all. Every process gets equally many batches.
        """
        if rows is None:
            rows = np.arange(len(links))
        if self.packing.layout == "trees":
            return self._packs(completions, links, rows)
        return self._padded(completions, links, rows)

    def _parts(self, completions: Ints, links: Ints) -> list[tuple[Ints, Ints, slice]]:
        """(completions, links, which links these are) of each batch of rows."""
        size, parts = self.packing.batch_size, []
        for start in range(0, len(links) or len(completions), size):
            part, linked = np.arange(start, min(start + size, len(completions))), links[:0]
            if len(links):
                part, local = np.unique(links[start : start + size], return_inverse=True)
                linked = local.reshape(-1, 2)
            parts.append((completions[part], linked, slice(start, start + size)))
        return parts

    def _padded(self, completions: Ints, links: Ints, rows: Ints) -> tuple[list[Batch], int]:
        parts = self._parts(completions, links)
        sizes = [int(self.row_lengths[part].sum()) for part, *_ in parts]
        mine = []
        for i, counts in share(sizes, self.packing.rank, self.packing.world):
            part, linked, which = parts[i]
            learned = self._learned(linked, rows[which][: len(linked)])
            mine.append(right_padded(self.arena, part, learned, counts))
        return mine, sum(sizes)

    def _packs(self, completions: Ints, links: Ints, rows: Ints) -> tuple[list[Batch], int]:
        layout = self._shared_layout(completions, links)
        sizes, mine = np.diff(layout.begin).tolist(), []
        for i, counts in share(sizes, self.packing.rank, self.packing.world):
            link = layout.link[slice(*layout.link_begin[i : i + 2].tolist())]
            member = layout.member[slice(*layout.member_begin[i : i + 2].tolist())]
            learned = self._learned(np.searchsorted(member, links[link]), rows[link])
            own = completions[member]
            mine.append(
                to_batch(layout, i, own, self.lengths[own], learned, self.packing.device, counts)
            )
        return mine, len(layout.token)

    def _learned(self, links: Ints, rows: Ints) -> dict[str, Tensor]:
        """What a batch learns from: rows of the data, given with links to its completions."""
        paired = rows < len(self.data.pairs)
        label = self.data.labelled[rows[~paired] - len(self.data.pairs), 1]
        return {
            "pairs": _long(links[paired]),
            "labelled": _long(links[~paired, 0]),
            "desirable": torch.from_numpy(label == 1),
        }

    def _shared_layout(self, completions: Ints, links: Ints) -> _core.packing.Packs:
        """Packs of at most `pack_tokens`, as many as processes can share evenly."""
        layout = self._layout(completions, links, self.packing.pack_tokens)
        packs, world = len(layout.begin) - 1, self.packing.world
        if packs % world:  # smaller packs may divide evenly
            even = -(-packs // world) * world
            need = int(self.needs(completions, links).max())
            even_size = max(need, int(1.05 * len(layout.token) / even))
            finer = self._layout(completions, links, min(even_size, self.packing.pack_tokens))
            layout = finer if len(finer.begin) - 1 <= even else layout
        return layout

    def _layout(self, completions: Ints, links: Ints, capacity: int) -> _core.packing.Packs:
        arena = self.arena
        return _core.packing.lay_out(
            arena.tokens,
            arena.prompt_begin[completions],
            arena.prompt_len[completions],
            arena.completion_begin[completions],
            arena.completion_len[completions],
            links.ravel(),
            capacity,
        )

    def needs(self, completions: Ints, links: Ints) -> Ints:
        """Most tokens that each link takes in a pack, or each completion if there are no links."""
        own = (self.arena.completion_len - 1)[completions].astype(np.int64)
        prompt = self.arena.prompt_len[completions].astype(np.int64)
        if not len(links):
            return prompt + own
        one, other = links.T
        return prompt[one] + own[one] + np.where(one == other, 0, own[other])

    def _check_capacity(self) -> None:
        links = self.data.links
        needs = self.needs(np.arange(len(self.data)), links)
        worst, capacity = int(needs.argmax()), self.packing.pack_tokens
        if needs[worst] > capacity:
            which = dict.fromkeys(links[worst].tolist()) if self.stage == "dpo" else [worst]
            nodes = " with ".join(str(self.data.nodes[i]) for i in which)
            raise MaltError(
                f"node {nodes} has {needs[worst]} tokens with its prompt, more than "
                f"train.pack_tokens = {capacity}: raise that"
            )


class _Arena:
    """All prompts and completions in one array, each object once, and their places in it."""

    def __init__(self, data: RoleData) -> None:
        pieces = {id(one): one for one in (*data.prompts, *data.completions)}
        place = {key: i for i, key in enumerate(pieces)}
        length = np.array([len(piece) for piece in pieces.values()], np.int32)
        begin = np.cumsum(length, dtype=np.int64) - length
        self.tokens = np.concatenate([*pieces.values(), np.zeros(0, np.int32)])
        prompt, completion = (
            np.array([place[id(one)] for one in some], np.int64)
            for some in (data.prompts, data.completions)
        )
        self.prompt_begin, self.prompt_len = begin[prompt], length[prompt]
        self.completion_begin, self.completion_len = begin[completion], length[completion]

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
