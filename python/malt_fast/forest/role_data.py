"""The training data of one stage of one role: prompts, completions and pairs as tokens.

Prompts are built from the sampled segments: the tokens trained on are the tokens sampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from malt_fast._core.forest import Credit, Forest
from malt_fast.config.schema import Config
from malt_fast.forest.preferences import (
    Ids,
    select_examples,
    select_labelled,
    select_pairs,
)
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.task import Question

Stage = Literal["sft", "dpo"]
Ints = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.int32]
NO_PAIRS: Ints = np.zeros((0, 2), np.int64)


@dataclass(frozen=True)
class RoleData:
    """The data of one stage of one role: M completions, and for DPO what it learns from them.

    Its rows are P pairs of completions, then L labelled completions.
    """

    prompts: list[Tokens]  # one per completion; equal prompts may be one array
    completions: list[Tokens]  # with the end token
    pairs: Ints  # [P, 2]: indices of chosen and rejected completions; [0, 2] for SFT
    trees: Ints  # [M]: the question of each completion, counted from 0; a tree shares prefixes
    nodes: Ints  # [M]: the node of each completion, for messages
    labelled: Ints = field(default_factory=lambda: NO_PAIRS)
    """[L, 2]: a completion, and 1 if it is desirable, 0 if not"""

    def __len__(self) -> int:
        return len(self.completions)

    def rows(self, stage: Stage) -> int:
        """How many rows the stage trains on: examples in SFT, pairs and labelled ones in DPO."""
        return len(self.completions if stage == "sft" else self.links)

    def tokens(self, stage: Stage) -> int:
        """Tokens of all rows, each with its whole prompts."""
        parts = zip(self.prompts, self.completions, strict=True)
        lengths = np.array([len(prompt) + len(completion) for prompt, completion in parts], int)
        if stage == "sft":
            return int(lengths.sum())
        return int(lengths[self.pairs].sum() + lengths[self.labelled[:, 0]].sum())

    @cached_property
    def links(self) -> Ints:
        """[P + L, 2]: the two completions of each row of DPO; of a labelled one itself, twice."""
        return np.concatenate([self.pairs, self.labelled[:, [0, 0]]])


def role_data(
    forest: Forest,
    credit: Credit,
    level: int,
    questions: Sequence[Question],
    prompts: Prompts,
    config: Config,
    stage: Stage,
) -> RoleData:
    """The training data of one stage for the role of `level`; `questions`: one per tree.

    SFT: one completion per example; an output sampled twice counts twice unless preferences.dedup.
    DPO: every (prompt, completion) once, however many pairs and labels share it.
    """
    if stage == "dpo":
        loss = config.train.dpo.for_role(config.chain[level - 1])
        given = (forest, credit, level, questions, prompts, config)
        return preference_data(*given, pairs=loss.on_pairs is not None, labels=loss.on_labels)
    ids = select_examples(forest, credit, level, config.preferences, config.seed)
    trees = trees_of(forest, ids)
    rows = prompted(forest, level, questions, prompts, ids, trees)
    asked, said = [prompt for prompt, _ in rows], [completion for _, completion in rows]
    return RoleData(asked, said, NO_PAIRS, trees, ids.astype(np.int64))


def preference_data(
    forest: Forest,
    credit: Credit,
    level: int,
    questions: Sequence[Question],
    prompts: Prompts,
    config: Config,
    *,
    pairs: bool,
    labels: bool,
) -> RoleData:
    """The data of a role's DPO stage: its pairs, its labelled outputs, or both."""
    prefs, nodes = config.preferences, NO_PAIRS.astype(np.uint32)
    if pairs:
        nodes = np.stack(select_pairs(forest, credit, level, prefs, config.seed), axis=1)
    named, label = nodes[:0, 0], np.zeros(0, np.int8)
    if labels:
        named, label = select_labelled(forest, credit, level, prefs)
    ids, index = np.unique(np.concatenate([nodes.ravel(), named]), return_inverse=True)
    trees = trees_of(forest, ids)
    rows = prompted(forest, level, questions, prompts, ids, trees)
    first, place = _unique(rows)
    index = place[index]
    return RoleData(
        prompts=[rows[i][0] for i in first],
        completions=[rows[i][1] for i in first],
        pairs=index[: nodes.size].reshape(-1, 2),
        trees=trees[first],
        nodes=ids[first].astype(np.int64),
        labelled=np.stack([index[nodes.size :], label.astype(np.int64)], axis=1),
    )


def trees_of(forest: Forest, ids: Ids) -> Ints:
    """The question of each node, counted from 0."""
    roots = np.flatnonzero(forest.level == 0)
    return np.searchsorted(roots, forest.roots()[ids]).astype(np.int64)


def prompted(
    forest: Forest,
    level: int,
    questions: Sequence[Question],
    prompts: Prompts,
    ids: Ids,
    trees: Ints,
) -> list[tuple[Tokens, Tokens]]:
    """(prompt, completion) of each node of `ids`; equal prompts are one array."""
    parents, asked = forest.parent[ids], np.unique(trees).tolist()
    encoded = prompts.encode_questions(questions[tree].text for tree in asked)
    tokens = dict(zip(asked, encoded, strict=True))
    by_parent: dict[int, Tokens] = {}
    by_bytes: dict[bytes, Tokens] = {}
    for tree, parent in zip(trees.tolist(), parents.tolist(), strict=True):
        if parent not in by_parent:
            prompt = prompts.build(level, tokens[tree], segments_above(forest, parent))
            by_parent[parent] = by_bytes.setdefault(prompt.tobytes(), prompt)
    return [
        (by_parent[parent], forest.tokens_of(node))
        for parent, node in zip(parents.tolist(), ids.tolist(), strict=True)
    ]


def segments_above(forest: Forest, node: int) -> list[Tokens]:
    """The outputs on the path from the question, which is left out, to `node`, included."""
    segments: list[Tokens] = []
    while forest.level[node]:
        segments.append(forest.tokens_of(node))
        node = int(forest.parent[node])
    return segments[::-1]


def _unique(rows: list[tuple[Tokens, Tokens]]) -> tuple[list[int], npt.NDArray[np.int64]]:
    """The first index of every distinct row, and for each row its place among these."""
    seen: dict[tuple[int, bytes], int] = {}
    first: list[int] = []
    place = []
    for i, (prompt, completion) in enumerate(rows):
        place.append(seen.setdefault((id(prompt), completion.tobytes()), len(first)))
        if place[-1] == len(first):
            first.append(i)
    return first, np.array(place, np.int64)
