"""The trees of a run as data for the page: one index a forest, and chunks of fifty trees.

    index  {id, question, gold, value, right, flags}   a list a column, an entry a tree
    chunk  [tree]; a tree is {text, answer, value, label, state, tokens, outcome, examples, pairs}

Each is JSON, compressed and in base64, in a <script> of its own; trees.js opens one when it is
asked for. Nodes count from 0 within a tree, its question left out, in the order of `parents`.
"""

import base64
import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from malt_fast import _core
from malt_fast.forest.forest import (
    DONE,
    FAILED,
    FINISH_LENGTH,
    NO_NODE,
    UNGRADED,
)
from malt_fast.forest.preferences import select_examples, select_pairs
from malt_fast.grading.custom import is_custom
from malt_fast.results.html import as_json, element
from malt_fast.results.opened_run import Trees
from malt_fast.runs.metrics import Lacking
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.task import Task

CHUNK = 50  # trees: small enough to open while a reader waits
MOST = 20_000  # trees of a forest that are shown
MIXED, MENDED, SPOILT, PAIRED = 1, 2, 4, 8  # flags of a tree
EQUAL = 1  # of _core.answers.compare_answers

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Section:
    """The part of the page that shows trees; `data` comes one <script> at a time."""

    html: str
    css: str
    js: str
    data: Iterator[str]


def tree_section(
    run: Path, opened: Sequence[Trees], task: Task, lacking: Lacking
) -> Section | None:
    """Of the forests that were opened; None without any."""
    forests: dict[int, list[Trees]] = {}
    for one in opened:
        forests.setdefault(id(one.forest), []).append(one)
    if not forests:
        return None
    golds = _golds(run / "questions.jsonl")
    views = [View(list(roles), golds, task) for roles in forests.values()]
    meta = [view.meta() for view in views]
    for view in views:
        if view.whole > view.trees:
            lacking.append(f"trees of {view.name}: of {view.whole:,} the first {MOST:,} are shown")
    here = files("malt_fast.results")
    return Section(
        html=here.joinpath("trees.html").read_text(encoding="utf-8"),
        css=here.joinpath("trees.css").read_text(encoding="utf-8"),
        js=here.joinpath("trees.js").read_text(encoding="utf-8"),
        data=_scripts(meta, views),
    )


def _scripts(meta: list[dict[str, Any]], views: Sequence["View"]) -> Iterator[str]:
    yield element("script", as_json(meta), type="application/json", id="trees-meta")
    for number, view in enumerate(views):
        for i, trees in enumerate(view.chunks()):
            yield _packed(f"trees-{number}-{i}", trees)
        yield _packed(f"trees-{number}-index", view.index())


def _packed(name: str, value: Any) -> str:
    raw = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    data = gzip.compress(raw.encode("utf-8", "backslashreplace"), 6, mtime=0)
    text = base64.b64encode(data).decode()
    return element("script", text, type="application/octet-stream", id=name)


def _golds(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [str(json.loads(line).get("gold", "")) for line in lines]


class View:
    """A forest as the page shows it: what stands in its trees, and what the roles learn from it."""

    def __init__(self, roles: list[Trees], golds: Sequence[str], task: Task) -> None:
        first = roles[0]
        self.roles, self.golds, self.grader = roles, golds, task.grader
        self.forest, self.credit, self.questions = first.forest, first.credit, first.questions
        self.chain = first.config.chain
        self.whole = len(self.questions)
        self.trees = min(self.whole, MOST)
        self.size = len(self.forest) // self.whole  # nodes of a tree, its question included
        self.value, self.label = first.credit.value, first.credit.label
        self.parent, self.outcome = self.forest.parent, self.forest.outcome
        self.draft = _drafts(self.parent[1 : self.size].astype(np.int64) - 1)
        self.flags = np.zeros(self.trees, np.int64)
        self.examples: dict[int, list[int]] = {}  # nodes by tree
        self.pairs: dict[int, list[tuple[int, int]]] = {}
        self.text = lru_cache(1 << 16)(_decoder(first.prompts))
        self._choose()
        self._find_mixed()

    @property
    def name(self) -> str:
        whose = self.roles[0].role if self.roles[0].config.train.regenerate == "sequential" else ""
        return f"round {self.roles[0].round}{f', as the {whose} learnt from it' if whose else ''}"

    def meta(self) -> dict[str, Any]:
        parents = self.forest.parent[1 : self.size].astype(np.int64) - 1
        return {
            "name": self.name,
            "chain": list(self.chain),
            "parents": parents.tolist(),  # -1: the question
            "level": self.forest.level[1 : self.size].tolist(),
            "trees": self.trees,
            "chunk": CHUNK,
            "learns": [one.role for one in self.roles],
        }

    def _choose(self) -> None:
        """Which nodes are examples, and pairs, of the roles that learn from this forest."""
        for one in self.roles:
            prefs, seed = one.config.preferences, one.config.seed
            for node in select_examples(self.forest, self.credit, one.level, prefs, seed).tolist():
                self.examples.setdefault(node // self.size, []).append(node % self.size - 1)
            if one.role not in one.config.dpo_roles:
                continue
            pairs = select_pairs(self.forest, self.credit, one.level, prefs, seed)
            for chosen, rejected in zip(*(nodes.tolist() for nodes in pairs), strict=True):
                pair = (chosen % self.size - 1, rejected % self.size - 1)
                self.pairs.setdefault(chosen // self.size, []).append(pair)

    def _find_mixed(self) -> None:
        """Trees in which some siblings differ in their labels, and those that give pairs."""
        below = self.parent != NO_NODE
        good, bad = (np.unique(self.parent[below & (self.label == value)]) for value in (1, 0))
        mixed = np.unique(np.intersect1d(good, bad) // self.size)
        self.flags[mixed[mixed < self.trees]] |= MIXED
        paired = [tree for tree in self.pairs if tree < self.trees]
        self.flags[paired] |= PAIRED

    def index(self) -> dict[str, Any]:
        """Of all trees; after `chunks`, which finds flips."""
        questions = self.questions[: self.trees]
        roots = np.arange(self.trees) * self.size
        leaves = self.outcome.reshape(self.whole, self.size)[: self.trees]
        return {
            "id": [question["id"] for question in questions],
            "question": [question["text"] for question in questions],
            "gold": list(self.golds[: self.trees]),
            "value": _numbers(self.value[roots]),
            "right": np.count_nonzero(leaves == 1, axis=1).tolist(),
            "graded": np.count_nonzero(leaves != UNGRADED, axis=1).tolist(),
            "flags": self.flags.tolist(),
        }

    def chunks(self) -> Iterator[list[dict[str, Any]]]:
        for begin in range(0, self.trees, CHUNK):
            yield [self._tree(t) for t in range(begin, min(begin + CHUNK, self.trees))]

    def _tree(self, tree: int) -> dict[str, Any]:
        forest, nodes = self.forest, slice(tree * self.size + 1, (tree + 1) * self.size)
        texts = [
            self.text(forest.tokens_of(node).tobytes())
            for node in range(tree * self.size + 1, (tree + 1) * self.size)
        ]
        answers = self._answers(texts)
        self._find_flips(tree, answers)
        state, finish = forest.state[nodes], forest.finish[nodes]
        told = np.where(state == DONE, np.where(finish == FINISH_LENGTH, "cut", ""), "open")
        return {
            "text": texts,
            "answer": answers,
            "value": _numbers(self.value[nodes]),
            "label": self.label[nodes].tolist(),
            "state": np.where(state == FAILED, "failed", told).tolist(),
            "tokens": forest.token_len[nodes].tolist(),
            "outcome": [None if o == UNGRADED else o for o in self.outcome[nodes].tolist()],
            "examples": self.examples.get(tree, []),
            "pairs": self.pairs.get(tree, []),
        }

    def _answers(self, texts: Sequence[str]) -> list[str | None]:
        """What the grader reads in each; a grader of one's own tells nothing."""
        return [None] * len(texts) if is_custom(self.grader) else _extract(self.grader, texts)

    def _find_flips(self, tree: int, answers: Sequence[str | None]) -> None:
        """Whether a draft that states an answer becomes right, or wrong, on the way to a leaf."""
        if is_custom(self.grader):
            return
        said = [d for d in set(self.draft) if answers[d] is not None]
        golds, texts = [self.golds[tree]] * len(said), [str(answers[d]) for d in said]
        same = _core.answers.compare_answers(self.grader, golds, texts) == EQUAL
        right = dict(zip(said, same.tolist(), strict=True))
        outcomes = self.outcome[tree * self.size + 1 : (tree + 1) * self.size].tolist()
        for draft, outcome in zip(self.draft, outcomes, strict=True):
            if outcome != UNGRADED and draft in right and right[draft] != (outcome == 1):
                self.flags[tree] |= MENDED if outcome else SPOILT


def _drafts(parents: Array) -> list[int]:
    """The node of level 1 that every node stands below, or is."""
    above = list(range(len(parents)))
    for node, parent in enumerate(parents.tolist()):
        if parent >= 0:  # it stands before its children
            above[node] = above[parent]
    return above


def _decoder(prompts: Prompts) -> Any:
    return lambda raw: prompts.decode(np.frombuffer(raw, np.int32))


def _extract(grader: str, texts: Sequence[str]) -> list[str | None]:
    return _core.answers.extract_answers(grader, list(texts))


def _numbers(values: Array) -> list[float | None]:
    return [None if np.isnan(value) else round(value, 4) for value in values.tolist()]
