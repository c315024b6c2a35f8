"""The trees of a run as data for the page: one index per forest, and chunks of fifty trees.

    index  {id, question, gold, value, right, graded, flags}: a list per column, an entry per tree
    chunk  [tree]; a tree is {text, answer, value, label, state, tokens, outcome, examples, pairs,
           passed}; passed: by node the text that later roles read of it, if it is another one

Nodes count from 0 within a tree, without its question, in the order of `parents`.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from markupsafe import Markup

from malt_fast import _core
from malt_fast._core.forest import NO_NODE, UNGRADED
from malt_fast.results.opened_run import RoleForest
from malt_fast.results.viewer_data import (
    CHUNK,
    MOST,
    ViewerData,
    extracted,
    numbers,
    packed,
    prompt_parts,
    states,
)
from malt_fast.utils.errors import Problems

MIXED, MENDED, SPOILT, PAIRED = 1, 2, 4, 8  # flags of a tree
EQUAL = 1  # of _core.answers.compare_answers


def tree_data(opened: Sequence[RoleForest]) -> tuple[ViewerData | None, Problems]:
    """The forests that were opened, each once; None without any."""
    forests: dict[int, list[RoleForest]] = {}
    for one in opened:
        forests.setdefault(id(one.forest), []).append(one)
    if not forests:
        return None, []
    views = [ForestView(roles) for roles in forests.values()]
    hidden = [
        f"trees of {view.name}: only the first {MOST:,} of {view.all_trees:,} are shown"
        for view in views
        if view.all_trees > view.trees
    ]
    return ViewerData([view.meta() for view in views], _chunks(views)), hidden


def _chunks(views: Sequence["ForestView"]) -> Iterator[tuple[str, Markup]]:
    for number, view in enumerate(views):
        for i, trees in enumerate(view.chunks()):
            yield f"trees-{number}-{i}", packed(trees)
        yield f"trees-{number}-index", packed(view.index())


class ForestView:
    """A forest as the page shows it: its trees, and what roles learn from them."""

    def __init__(self, roles: Sequence[RoleForest]) -> None:
        """roles: those that learned from this forest, in one round."""
        first = roles[0]
        self.roles, self.questions, self.prompts = roles, first.questions, first.prompts
        self.config, self.task = first.config, first.task
        self.forest, self.value, self.label = first.forest, first.credit.value, first.credit.label
        self.all_trees, self.size = len(first.questions), first.forest.tree_size
        self.trees = min(self.all_trees, MOST)
        self.parents = self.forest.parent[1 : self.size].astype(np.int64) - 1  # -1: the question
        self.outcome = self.forest.outcome
        self.draft = _drafts(self.parents.tolist())
        self.flags = np.zeros(self.trees, np.int64)
        self.examples: dict[int, list[int]] = {}  # nodes by tree
        self.pairs: dict[int, list[tuple[int, int]]] = {}
        decode = self.prompts.decode
        self.text = lru_cache(1 << 16)(lambda raw: decode(np.frombuffer(raw, np.int32)))
        self._find_learned()
        self._find_mixed()

    @property
    def name(self) -> str:
        first = self.roles[0]
        own = first.config.train.regenerate == "sequential"
        return f"round {first.round}{f', forest of the {first.role}' if own else ''}"

    def meta(self) -> dict[str, Any]:
        chain, tree = list(self.config.chain), self.config.tree
        return {
            "name": self.name,
            "chain": chain,
            "prompts": [prompt_parts(self.prompts, level) for level in range(1, len(chain) + 1)],
            "positive": f"{'at least' if tree.inclusive else 'above'} {tree.threshold:g}",
            "parents": self.parents.tolist(),
            "level": self.forest.level[1 : self.size].tolist(),
            "trees": self.trees,
            "chunk": CHUNK,
            "learns": [one.role for one in self.roles],
        }

    def index(self) -> dict[str, Any]:
        """Of all trees; call it after `chunks`, which finds some of the flags."""
        questions = self.questions[: self.trees]
        roots = np.arange(self.trees) * self.size
        leaves = self.outcome.reshape(self.all_trees, self.size)[: self.trees]
        return {
            "id": [question.id for question in questions],
            "question": [question.text for question in questions],
            "gold": [question.gold for question in questions],
            "value": numbers(self.value[roots]),
            "right": np.count_nonzero(leaves == 1, axis=1).tolist(),
            "graded": np.count_nonzero(leaves != UNGRADED, axis=1).tolist(),
            "flags": self.flags.tolist(),
        }

    def chunks(self) -> Iterator[list[dict[str, Any]]]:
        for begin in range(0, self.trees, CHUNK):
            yield [self._tree(t) for t in range(begin, min(begin + CHUNK, self.trees))]

    def _find_learned(self) -> None:
        """Nodes that are examples, and pairs, of the roles that learn from this forest."""
        for one in self.roles:
            for node in one.examples.tolist():
                self.examples.setdefault(node // self.size, []).append(node % self.size - 1)
            on_pairs, _ = one.config.learns(one.role)
            for chosen, rejected in one.pairs.tolist() if on_pairs else ():
                pair = (chosen % self.size - 1, rejected % self.size - 1)
                self.pairs.setdefault(chosen // self.size, []).append(pair)
        self.flags[[tree for tree in self.pairs if tree < self.trees]] |= PAIRED

    def _find_mixed(self) -> None:
        """Trees in which the labels of some siblings differ."""
        parent = self.forest.parent
        below = parent != NO_NODE
        good, bad = (np.unique(parent[below & (self.label == value)]) for value in (1, 0))
        mixed = np.unique(np.intersect1d(good, bad) // self.size)
        self.flags[mixed[mixed < self.trees]] |= MIXED

    def _tree(self, tree: int) -> dict[str, Any]:
        forest, ids = self.forest, range(tree * self.size + 1, (tree + 1) * self.size)
        nodes = slice(ids.start, ids.stop)
        texts = [self.text(forest.tokens_of(node).tobytes()) for node in ids]
        replies = self._replies(ids) if self.prompts.marks_thoughts else texts
        answers = extracted(self.config, self.task, replies, self.questions[tree].text)
        self._find_flips(tree, answers)
        return {
            "text": texts,
            "answer": answers,
            "value": numbers(self.value[nodes]),
            "label": self.label[nodes].tolist(),
            "state": states(forest.state[nodes], forest.finish[nodes]),
            "tokens": forest.token_len[nodes].tolist(),
            "outcome": [None if o == UNGRADED else o for o in self.outcome[nodes].tolist()],
            "examples": self.examples.get(tree, []),
            "pairs": self.pairs.get(tree, []),
            "passed": self._passed(ids, texts),
        }

    def _replies(self, ids: range) -> list[str]:
        level, tokens_of = self.forest.level, self.forest.tokens_of
        return [self.prompts.reply(int(level[node]), tokens_of(node)) for node in ids]

    def _passed(self, ids: range, texts: Sequence[str]) -> dict[int, str]:
        """By node the text that later roles read, of those with thoughts that they do not."""
        if not self.prompts.marks_thoughts:
            return {}
        read = self.prompts.passed_text
        level = self.forest.level
        found = (
            (i, read(int(level[node]), self.forest.tokens_of(node))) for i, node in enumerate(ids)
        )
        return {i: text for i, text in found if text != texts[i]}

    def _find_flips(self, tree: int, answers: Sequence[str | None]) -> None:
        """Whether a draft that states an answer becomes right, or wrong, on the way to a leaf."""
        stated = {d: answer for d in set(self.draft) if (answer := answers[d]) is not None}
        if not stated:
            return
        golds = [self.questions[tree].gold] * len(stated)
        equal = (
            _core.answers.compare_answers(self.task.grader, golds, list(stated.values())) == EQUAL
        )
        right = dict(zip(stated, equal.tolist(), strict=True))
        outcomes = self.outcome[tree * self.size + 1 : (tree + 1) * self.size].tolist()
        for draft, outcome in zip(self.draft, outcomes, strict=True):
            if outcome != UNGRADED and draft in right and right[draft] != (outcome == 1):
                self.flags[tree] |= MENDED if outcome else SPOILT


def _drafts(parents: Sequence[int]) -> list[int]:
    """The node of level 1 that each node descends from, or is."""
    drafts = list(range(len(parents)))
    for node, parent in enumerate(parents):
        if parent >= 0:  # parents come before their children
            drafts[node] = drafts[parent]
    return drafts
