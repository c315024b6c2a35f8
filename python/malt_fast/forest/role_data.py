"""The training data of one stage of one role: prompts, completions and pairs as tokens.

Prompts are built from the sampled segments: the tokens trained on are the tokens sampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from malt_fast._core.forest import Credit, Forest
from malt_fast.config.schema import Config
from malt_fast.forest.preferences import Ids, pair_weights, select_examples, select_pairs
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.task import Question

Stage = Literal["sft", "dpo"]
Ints = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.int32]


Floats = npt.NDArray[np.float64]
NO_PAIRS: Ints = np.zeros((0, 2), np.int64)


@dataclass(frozen=True)
class RoleData:
    """The data of one stage of one role: M completions and, for DPO, P pairs of them."""

    prompts: list[Tokens]  # one per completion; equal prompts may be one array
    completions: list[Tokens]  # with the end token
    pairs: Ints  # [P, 2]: indices of chosen and rejected completions; [0, 2] for SFT
    trees: Ints  # [M]: the question of each completion, counted from 0; a tree shares prefixes
    nodes: Ints  # [M]: the node of each completion, for messages
    weights: Floats | None = None  # [P]: of each pair's loss; None: 1

    def __len__(self) -> int:
        return len(self.completions)

    def rows(self, stage: Stage) -> int:
        """How many rows the stage trains on: examples in SFT, pairs in DPO."""
        return len(self.completions if stage == "sft" else self.pairs)


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
    DPO: every (prompt, completion) once, however many pairs share it.
    """
    prefs, seed, weights = config.preferences, config.seed, None
    if stage == "sft":
        ids = select_examples(forest, credit, level, prefs, seed)
        index = NO_PAIRS
    else:
        nodes = np.stack(select_pairs(forest, credit, level, prefs, seed), axis=1)
        weights = pair_weights(forest, credit, level, prefs, nodes)
        ids, inverse = np.unique(nodes, return_inverse=True)
        index = inverse.reshape(-1, 2).astype(np.int64)
    roots = np.flatnonzero(forest.level == 0)
    trees = np.searchsorted(roots, forest.roots()[ids])
    rows = prompted(forest, level, questions, prompts, ids, trees)
    if stage == "dpo":
        first, place = _unique(rows)
        ids, trees, rows, index = ids[first], trees[first], [rows[i] for i in first], place[index]
    return RoleData(
        prompts=[prompt for prompt, _ in rows],
        completions=[completion for _, completion in rows],
        pairs=index,
        trees=trees.astype(np.int64),
        nodes=ids.astype(np.int64),
        weights=weights,
    )


def prompted(
    forest: Forest,
    level: int,
    questions: Sequence[Question],
    prompts: Prompts,
    ids: Ids,
    trees: npt.NDArray[np.intp],
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
