"""What a stage trains on, and how it becomes batches of rows with targets.

A batch is a token layout and a list of (row, target, owner): position `rows[m]` of the flattened
`input_ids` predicts token `targets[m]` of completion `owner[m]`. Losses see that list only: another
layout, such as packed prefix trees, takes the place of `right_padded` and nothing else changes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from malt_fast.errors import MaltError

Stage = Literal["sft", "dpo"]
Batch = dict[str, Any]


@dataclass(frozen=True)
class RoleData:
    """What one stage of one role trains on; token ids are int32."""

    prompts: list[np.ndarray]  # one a completion; equal prompts may be one array
    completions: list[np.ndarray]  # end token included
    pairs: np.ndarray  # int64 [P, 2]: indices of chosen and rejected completions; [0, 2] for SFT


class Collator:
    """Indices of examples (SFT) or pairs (DPO) -> a batch, one row a completion."""

    def __init__(self, stage: Stage, data: RoleData) -> None:
        self.stage = stage
        self.data = data
        self.rows = [
            np.concatenate(row) for row in zip(data.prompts, data.completions, strict=True)
        ]
        self.lengths = np.array([len(c) for c in data.completions], dtype=np.int64)
        self.ref_logp = torch.empty(0)  # [completions], DPO: set before training

    def __len__(self) -> int:
        return len(self.rows if self.stage == "sft" else self.data.pairs)

    def __call__(self, indices: Sequence[int]) -> Batch:
        """`items` divides losses: [targets] for SFT, [pairs, chosen tokens] for DPO."""
        if self.stage == "sft":
            batch = self.layout(np.asarray(indices))
            return batch | {"items": torch.tensor([batch["targets"].numel()])}
        pairs = self.data.pairs[np.asarray(indices)]
        unique, local = np.unique(pairs, return_inverse=True)
        chosen_tokens = int(self.lengths[pairs[:, 0]].sum())
        return self.layout(unique) | {
            "pairs": torch.from_numpy(local.reshape(-1, 2)),
            "ref_logp": self.ref_logp[torch.from_numpy(unique)],
            "items": torch.tensor([len(pairs), chosen_tokens]),
        }

    def layout(self, completions: np.ndarray) -> Batch:
        return right_padded([self.rows[i] for i in completions], self.lengths[completions])

    def sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """Length and group of every example; a group shares a prompt and should share a batch."""
        length = np.array([len(row) for row in self.rows])
        if self.stage == "sft":
            return length, np.arange(len(length))
        ids: dict[bytes, int] = {}
        prompts = (self.data.prompts[i].tobytes() for i in self.data.pairs[:, 0])
        groups = np.array([ids.setdefault(prompt, len(ids)) for prompt in prompts])
        return length[self.data.pairs].max(1), groups


def right_padded(rows: list[np.ndarray], lengths: np.ndarray) -> Batch:
    """One row a sequence; the last lengths[b] tokens of rows[b] are its targets.

    input_ids [B, L], without each row's last token, which predicts nothing; rows, targets, owner
    [M]; lengths [B]; num_tokens, padding left out. Padding is any token: see LogProbModel.hidden.
    """
    sizes = np.array([len(row) for row in rows])
    width = int(sizes.max()) - 1
    ids = np.zeros((len(rows), width), dtype=np.int64)
    for line, row in zip(ids, rows, strict=True):
        line[: len(row) - 1] = row[:-1]
    owner = np.repeat(np.arange(len(rows)), lengths)
    first = np.arange(len(rows)) * width + sizes - 1 - lengths  # predicts a row's first target
    step = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    targets = [row[len(row) - n :] for row, n in zip(rows, lengths, strict=True)]
    return {
        "input_ids": torch.from_numpy(ids),
        "rows": torch.from_numpy(first[owner] + step),
        "targets": torch.from_numpy(np.concatenate(targets).astype(np.int64)),
        "owner": torch.from_numpy(owner),
        "lengths": torch.from_numpy(lengths),
        "num_tokens": int(sizes.sum()),
    }


def completion_logps(token_logp: Tensor, batch: Batch) -> Tensor:
    """[B]: token log-probs [M] summed over the targets of each completion."""
    return token_logp.new_zeros(len(batch["lengths"])).index_add(0, batch["owner"], token_logp)


class LengthSampler(torch.utils.data.Sampler[int]):
    """Shuffled examples, batches of similar length, groups together; one order a (seed, epoch).

    A window of a few shuffled batches is sorted by length and cut; the batches are shuffled again.
    """

    WINDOW = 8  # batches

    def __init__(self, lengths: np.ndarray, groups: np.ndarray, batch_size: int, seed: int) -> None:
        longest = np.zeros(groups.max() + 1, dtype=np.int64)
        np.maximum.at(longest, groups, lengths)
        self.lengths, self.groups = longest[groups], groups
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = np.argsort(rng.permutation(self.groups.max() + 1)[self.groups], kind="stable")
        width = self.WINDOW * self.batch_size
        for start in range(0, len(order), width):
            window = order[start : start + width]
            window[:] = window[np.argsort(self.lengths[window], kind="stable")]
        full = len(order) // self.batch_size * self.batch_size
        batches = rng.permutation(order[:full].reshape(-1, self.batch_size))
        return iter([*batches.ravel().tolist(), *order[full:].tolist()])


def check_data(stage: Stage, data: RoleData) -> None:
    """Something to train on, no empty sequence, and pairs that share their prompt to the token."""
    if len(data.prompts) != len(data.completions):
        raise ValueError(f"{len(data.prompts)} prompts for {len(data.completions)} completions")
    if not len(data.completions if stage == "sft" else data.pairs):
        what = "examples" if stage == "sft" else "pairs"
        raise MaltError(f"nothing to train on, {stage} got no {what}: sample more questions")
    for i, (prompt, completion) in enumerate(zip(data.prompts, data.completions, strict=True)):
        if not len(prompt) or not len(completion):
            raise MaltError(
                f"completion {i} has {len(prompt)} prompt and {len(completion)} own tokens, "
                "and cannot be trained on: leave it out"
            )
    for chosen, rejected in data.pairs if stage == "dpo" else ():
        a, b = data.prompts[chosen], data.prompts[rejected]
        if a is not b and not np.array_equal(a, b):
            raise ValueError(f"completions {chosen} and {rejected} are a pair of different prompts")


def check_lengths(data: RoleData, config: Any, max_length: int | None) -> None:
    """Every sequence fits `max_length` and the model's context, every token its vocabulary."""
    context = getattr(config, "max_position_embeddings", None)
    limit = min(n for n in (max_length, context, 1 << 62) if n is not None)
    source = "the model's context" if limit == context else "max_length"
    for i, (prompt, completion) in enumerate(zip(data.prompts, data.completions, strict=True)):
        if len(prompt) + len(completion) > limit:
            raise MaltError(
                f"completion {i} has {len(prompt)} prompt and {len(completion)} own tokens, more "
                f"than {source} of {limit}: raise that, or sample with a lower max_tokens"
            )
        top = max(int(prompt.max()), int(completion.max()))
        if top >= config.vocab_size:
            raise MaltError(
                f"completion {i} holds token {top}, but the model knows {config.vocab_size}: "
                "use the tokenizer that belongs to the base model"
            )
