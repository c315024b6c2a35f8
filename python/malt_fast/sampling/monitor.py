"""Signs that a run goes wrong, told early, each once, with what to do about it.

While trees grow: outputs cut off, leaves without an answer, siblings that never differ; and what
the trees yield so far. While a role trains: log-probs of chosen outputs that collapse, an adapter
that changes nothing.

A sign is told only when chance hardly explains it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from malt_fast import _core
from malt_fast.engines import Completion
from malt_fast.forest.forest import Forest
from malt_fast.grading.custom import is_custom
from malt_fast.grading.verdicts import EQUAL
from malt_fast.sampling.expand import Slot, complete, reserve
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.task import Question

SEEN = 200  # outputs of a role, or leaves, before a share of them is told
BLOCKS = 90  # of siblings: if one in twenty differed, 99 % of such rows would show one that does
GRADED = 2000  # leaves that are graded as they come, by the C++ core alone
COUNTED = 200  # trees at least, evenly spread, whose yield is counted as they end


Tell = Callable[[str, str], None]  # kind, text


# ---- rules: a text, or nothing ----


def truncated(role: str, cut: int, outputs: int) -> str:
    """Most outputs of a role end by max_tokens."""
    if outputs < SEEN or cut <= outputs / 2:
        return ""
    return (
        f"{cut:,} of the first {outputs:,} outputs of the {role} are cut off: raise "
        f"sampling.max_tokens, or sampling.roles.{role}.max_tokens"
    )


def unanswered(without: int, leaves: int) -> str:
    """Most leaves state no answer."""
    if leaves < SEEN or without <= leaves / 2:
        return ""
    return (
        f"{without:,} of the first {leaves:,} last outputs end without an answer: raise "
        "sampling.max_tokens, or see that the last role's prompt asks for the marker that the "
        "grader looks for (docs/grading.md)"
    )


def unmixed(role: str, mixed: int, blocks: int, right: float) -> str:
    """No siblings of the last role differ, so that nothing is learnt by comparing them."""
    if blocks < BLOCKS or mixed:
        return ""
    return (
        f"in none of the first {blocks:,} groups of the {role}'s outputs is one right and another "
        f"wrong ({100 * right:.0f} % are right): raise sampling.temperature, or choose questions "
        f"that are {'harder' if right > 0.5 else 'easier'}"
    )


# ---- watching trees grow ----

Count = Callable[[Forest], Mapping[str, int]]  # of a graded tree, by what it is a number of


@dataclass
class Growth:
    """Counts what comes, and tells a sign once; grades some leaves with the core."""

    questions: Sequence[Question]
    shape: Sequence[Slot]
    chain: Sequence[str]
    prompts: Prompts
    grader: str
    tell: Tell
    count: Count
    outputs: Counter[int] = field(default_factory=Counter)  # by level
    cut: Counter[int] = field(default_factory=Counter)
    leaves: int = 0
    without: int = 0  # of them, that state no answer
    right: int = 0
    outcomes: dict[int, bool] = field(default_factory=dict)  # of leaves of trees not counted yet
    blocks: dict[int, list[bool]] = field(default_factory=dict)  # leaf outcomes by parent node
    whole: int = 0  # blocks whose outputs are all there
    mixed: int = 0
    trees: dict[int, list[Completion]] = field(default_factory=dict)  # that grow and will count
    grown: dict[int, list[Completion]] = field(default_factory=dict)  # not counted yet
    ended: int = 0  # trees, of all
    counted: int = 0
    found: Counter[str] = field(default_factory=Counter)  # in those
    told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.size = 1 + len(self.shape)
        self.children = Counter(slot.parent for slot in self.shape)
        self.levels = [0, *(slot.role for slot in self.shape)]  # of a tree's nodes
        self.every = max(1, len(self.questions) // COUNTED)  # trees, of which one is counted

    def see(self, completions: Sequence[Completion]) -> None:
        good = [one for one in completions if one.finish_reason != "error"]
        self.outputs.update(map(self._level, good))
        self.cut.update(self._level(one) for one in good if one.finish_reason == "length")
        if not is_custom(self.grader):
            if self.leaves < GRADED:
                self._sort([one for one in good if self._is_leaf(one)][: GRADED - self.leaves])
            for one in good:
                tree = one.id // self.size
                if tree % self.every == 0:
                    self.trees.setdefault(tree, []).append(one)
        self._tell()

    def end(self, tree: int) -> None:
        """Nothing more will come of a tree; those that count are counted some at a time."""
        self.ended += 1
        outputs = self.trees.pop(tree, [])
        if len(outputs) == len(self.shape):
            self.grown[tree] = outputs
        if self.grown and (4 * len(self.grown) > self.counted or self.ended == len(self.questions)):
            self._count()

    def shown(self, trees: int) -> str:
        """For people, once `trees` have ended: what those yield, and how many groups differ."""
        facts = []
        if self.counted:
            share, about = trees / self.counted, "about " * (trees > self.counted)
            counts = [f"{round(n * share):,} {what}" for what, n in list(self.found.items())]
            facts.append(f"so far {about}{', '.join(counts)}")
        if self.whole:
            facts.append(f"{100 * self.mixed / self.whole:.0f} % of groups mixed")
        return " · ".join(facts)

    def _level(self, one: Completion) -> int:
        return self.levels[one.id % self.size]

    def _is_leaf(self, one: Completion) -> bool:
        return self._level(one) == len(self.chain)

    def _grade(self, leaves: Sequence[Completion]) -> tuple[int, list[bool]]:
        """How many state no answer, and which are right."""
        texts = [self.prompts.decode(one.tokens) for one in leaves]
        answers = _core.extract_answers(self.grader, texts)
        golds = [self.questions[one.id // self.size].gold for one in leaves]
        found = [answer or "" for answer in answers]
        verdicts = _core.compare_answers(self.grader, golds, found).tolist()
        pairs = zip(answers, verdicts, strict=True)
        right = [answer is not None and verdict == EQUAL for answer, verdict in pairs]
        return answers.count(None), right

    def _sort(self, leaves: Sequence[Completion]) -> None:
        """Grade leaves, and count blocks that are whole by them."""
        without, outcomes = self._grade(leaves) if leaves else (0, [])
        self.leaves += len(leaves)
        self.without += without
        for one, right in zip(leaves, outcomes, strict=True):
            self.right += right
            if one.id // self.size % self.every == 0:
                self.outcomes[one.id] = right
            parent = self.shape[one.id % self.size - 1].parent
            block = self.blocks.setdefault(one.id // self.size * self.size + parent + 1, [])
            block.append(right)
            if len(block) == self.children[parent] and len(block) > 1:
                self.whole += 1
                self.mixed += len(set(block)) > 1

    def _count(self) -> None:
        """Add up what whole trees yield."""
        trees, outcomes = [], list[tuple[int, bool]]()  # by id in a forest of these trees
        for index, (tree, outputs) in enumerate(self.grown.items()):
            move = (index - tree) * self.size
            leaves = [one for one in outputs if self._is_leaf(one)]
            unknown = [one for one in leaves if one.id not in self.outcomes]
            known = [one.id for one in leaves if one.id in self.outcomes]
            outcomes += [(id + move, self.outcomes.pop(id)) for id in known]
            if unknown:
                ids = (one.id + move for one in unknown)
                outcomes += zip(ids, self._grade(unknown)[1], strict=True)
            trees += [replace(one, id=one.id + move) for one in outputs]
        forest = reserve(len(self.grown), self.shape)
        complete(forest, trees)
        nodes, right = (np.array(column) for column in zip(*outcomes, strict=True))
        forest.set_outcomes(nodes.astype(np.uint32), right.astype(np.uint8))
        self.found.update(self.count(forest))
        self.counted += len(self.grown)
        self.grown.clear()

    def _tell(self) -> None:
        signs = {
            f"truncated {role}": truncated(role, self.cut[level], self.outputs[level])
            for level, role in enumerate(self.chain, 1)
        }
        signs["unanswered"] = unanswered(self.without, self.leaves)
        share = self.right / max(1, self.leaves)
        signs["unmixed"] = unmixed(self.chain[-1], self.mixed, self.whole, share)
        for kind, text in signs.items():
            if text and kind not in self.told:
                self.told.add(kind)
                self.tell(kind, text)
