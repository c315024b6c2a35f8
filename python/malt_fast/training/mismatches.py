"""What KTO estimates the KL divergence from: prompts with completions of other prompts.

TRL (KTOTrainer) gives each prompt of a batch the completion before it: the same completions as in
the batch, rotated by one. Here they are those of an optimiser step, however it is cut into batches
and divided among processes. Since a step holds whole trees, neighbours often share their prompt:
completions are sorted by prompt, and rotated by the largest number that share one. With one
completion per prompt that is TRL's rotation. What meets its own prompt nevertheless, because more
than half of the step has it, is left out.

Reference log-probs are computed before the first step, from the weights that the stage starts with:
so all steps of the stage are walked through in advance, and their mismatched completions appended
to its data.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import transformers

from malt_fast.forest.role_data import Ints, RoleData, Tokens
from malt_fast.training.batches import TreeSampler


class Mismatches:
    """The mismatched completions of all steps of a stage."""

    def __init__(self, data: RoleData, steps: Iterator[Ints], longest: int) -> None:
        """longest: a sequence's tokens, beyond which a mismatched completion is cut, as in TRL."""
        prompts: dict[bytes, int] = {}
        self._prompt = np.array(
            [prompts.setdefault(p.tobytes(), len(prompts)) for p in data.prompts]
        )
        self._pairs, self._own = len(data.pairs), data.labelled[:, 0]
        self._place: dict[tuple[int, int], int] = {}  # (whose prompt, completion): index in data
        for rows in steps:
            for key in self._rotated(rows):
                self._place.setdefault(key, len(data) + len(self._place))
        asked, said = [one for one, _ in self._place], [other for _, other in self._place]
        self.data = replace(
            data,
            prompts=data.prompts + [data.prompts[i] for i in asked],
            completions=data.completions
            + [_cut(data.completions[j], longest - len(data.prompts[i])) for i, j in self._place],
            trees=np.concatenate([data.trees, data.trees[asked]]),
            nodes=np.concatenate([data.nodes, data.nodes[said]]),
        )

    def of(self, rows: Ints) -> Ints:
        """Those of a step: indices into `data`; a completion may come up twice."""
        return np.array([self._place[key] for key in self._rotated(rows)], np.int64)

    def _rotated(self, rows: Ints) -> list[tuple[int, int]]:
        """(the completion whose prompt it is, the completion) of each mismatch of a step."""
        own = self._own[rows[rows >= self._pairs] - self._pairs]
        own = own[np.lexsort((own, self._prompt[own]))]
        prompt = self._prompt[own]
        other = np.roll(own, np.bincount(prompt).max(initial=0))
        apart = prompt != self._prompt[other]
        return list(zip(own[apart].tolist(), other[apart].tolist(), strict=True))


def _cut(completion: Tokens, room: int) -> Tokens:
    """The object itself where it fits, so that a batch's tokens are kept once (packing.py)."""
    return completion if len(completion) <= room else completion[: max(1, room)]


def all_steps(sampler: TreeSampler, args: transformers.TrainingArguments) -> Iterator[Ints]:
    """The rows of every step that a Trainer with these arguments makes."""
    size = args.train_batch_size * args.world_size
    per_epoch = -(-len(sampler) // size)
    left = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
    for epoch in range(-(-left // per_epoch)):
        sampler.set_epoch(epoch)
        order = np.fromiter(sampler, np.int64)
        for start in range(0, min(left, per_epoch) * size, size):
            yield order[start : start + size]
        left -= per_epoch
    sampler.set_epoch(0)
