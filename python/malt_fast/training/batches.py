"""The order of training examples, and the checks of training data."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from malt_fast.forest.role_data import Ints, RoleData, Stage
from malt_fast.models.context import context_length
from malt_fast.utils.errors import MaltError


class TreeSampler(torch.utils.data.Sampler[int]):
    """Shuffles examples such that trees stay together and the examples of a step are alike long.

    length, tree [n]: tokens and tree of each example; place [n]: their order within a tree, by
    default as they come. Shuffled trees are sorted by their longest example within windows of
    WINDOW steps; the steps are then shuffled again. The order depends on seed and epoch alone.
    """

    WINDOW = 8  # steps

    def __init__(
        self, length: Ints, tree: Ints, step_size: int, seed: int, place: Ints | None = None
    ) -> None:
        longest = np.zeros(tree.max(initial=-1) + 1, dtype=np.int64)
        np.maximum.at(longest, tree, length)
        self.lengths, self.trees = longest[tree], tree
        self.place = np.zeros(len(tree), np.int64) if place is None else place
        self.step_size, self.seed, self.epoch = step_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = np.lexsort((self.place, rng.permutation(self.trees.max() + 1)[self.trees]))
        width = self.WINDOW * self.step_size
        for start in range(0, len(order), width):
            window = order[start : start + width]
            window[:] = window[np.argsort(self.lengths[window], kind="stable")]
        full = len(order) // self.step_size * self.step_size
        steps = rng.permutation(order[:full].reshape(-1, self.step_size))
        return iter([*steps.ravel().tolist(), *order[full:].tolist()])


def examples_of(stage: Stage, data: RoleData) -> tuple[Ints, Ints]:
    """(tokens, tree) of every row, [n] each; a row is a completion in SFT, or one of DPO's rows."""
    length = np.array(
        [len(p) + len(c) for p, c in zip(data.prompts, data.completions, strict=True)]
    )
    if stage == "sft":
        return length, data.trees
    return length[data.links].max(1), data.trees[data.links[:, 0]]


def sampler_of(stage: Stage, data: RoleData, step_size: int, seed: int) -> TreeSampler:
    """The order of a stage's rows.

    Where DPO learns from pairs and labelled completions, those that share completions follow each
    other, so that a step forwards them once.
    """
    both = stage == "dpo" and len(data.pairs) and len(data.labelled)
    return TreeSampler(
        *examples_of(stage, data), step_size, seed, data.links.min(1) if both else None
    )


def check_data(stage: Stage, data: RoleData) -> None:
    """Raises MaltError for no rows, empty sequences, and pairs whose prompts differ."""
    lengths = {len(data.prompts), len(data.completions), len(data.trees), len(data.nodes)}
    if len(lengths) != 1:
        raise ValueError(f"prompts, completions, trees and nodes differ in length: {lengths}")
    if not data.rows(stage):
        what = "examples" if stage == "sft" else "pairs or labelled outputs"
        raise MaltError(f"there are no {what} for {stage} to train on: sample more questions")
    for node, prompt, completion in zip(data.nodes, data.prompts, data.completions, strict=True):
        if not len(prompt) or not len(completion):
            raise MaltError(
                f"node {node} has {len(prompt)} prompt and {len(completion)} completion tokens, "
                "and cannot be trained on: leave it out"
            )
    for chosen, rejected in data.pairs if stage == "dpo" else ():
        a, b = data.prompts[chosen], data.prompts[rejected]
        if a is not b and not np.array_equal(a, b):
            raise MaltError(
                f"nodes {data.nodes[chosen]} and {data.nodes[rejected]} are a pair with different "
                "prompts: pair siblings only"
            )


def check_lengths(data: RoleData, config: Any, max_length: int | None) -> int:
    """The longest sequence that is allowed, in tokens; config: of the base model.

    Raises MaltError for sequences over max_length or the context, and for unknown tokens.
    """
    context, known = context_length(config), config.get_text_config().vocab_size
    limit = context if max_length is None else min(max_length, context)
    source = "the model's context" if limit == context else "max_length"
    for node, prompt, completion in zip(data.nodes, data.prompts, data.completions, strict=True):
        if len(prompt) + len(completion) > limit:
            raise MaltError(
                f"node {node} has {len(prompt)} prompt and {len(completion)} completion tokens, "
                f"more than {source} of {limit}: raise that, or sample with a lower max_tokens"
            )
        top = max(int(prompt.max()), int(completion.max()))
        if top >= known:
            raise MaltError(
                f"node {node} holds token {top}, but the model knows {known}: "
                "use the tokenizer that belongs to the base model"
            )
    return limit
