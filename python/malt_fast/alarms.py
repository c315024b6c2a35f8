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
from malt_fast.expand import Slot, complete, reserve
from malt_fast.forest import Forest
from malt_fast.grading import EQUAL, is_custom
from malt_fast.roles import Prompts
from malt_fast.tasks import Question

SEEN = 200  # outputs of a role, or leaves, before a share of them is told
BLOCKS = 90  # of siblings: if one in twenty differed, 99 % of such rows would show one that does
GRADED = 2000  # leaves that are graded as they come, by the C++ core alone
COUNTED = 200  # trees at least, evenly spread, whose yield is counted as they end
FALL = 10.0  # nats a chosen output may lose, or half of what it has


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


def collapsing(role: str, first: Mapping[str, float], now: Mapping[str, float]) -> str:
    """DPO widens its margins by making chosen outputs unlikely, rejected ones more so."""
    try:
        before, after, margin = first["logps/chosen"], now["logps/chosen"], now["rewards/margins"]
    except KeyError:
        return ""
    if margin <= 0 or before - after <= max(FALL, abs(before) / 2):
        return ""
    return (
        f"chosen outputs of the {role} lose probability ({before:.1f} to {after:.1f} nats) while "
        "margins grow: raise train.dpo.beta or train.dpo.rpo_alpha, or lower "
        "train.dpo.learning_rate"
    )


def ineffective(stage: str, role: str) -> str:
    return (
        f"{stage} {role}: the adapter changes nothing, its B matrices are all zero: raise "
        f"train.{stage}.learning_rate or its number of steps"
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
    trees: dict[int, list[Completion]] = field(default_factory=dict)  # not counted yet
    counted: int = 0  # trees
    found: Counter[str] = field(default_factory=Counter)  # in those
    told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.size = 1 + len(self.shape)
        self.children = Counter(slot.parent for slot in self.shape)

    def see(self, completions: Sequence[Completion]) -> None:
        good = [one for one in completions if one.finish_reason != "error"]
        for one in good:
            level = self._level(one)
            self.outputs[level] += 1
            self.cut[level] += one.finish_reason == "length"
        if not is_custom(self.grader):
            leaves = [one for one in good if self._is_leaf(one)][: max(0, GRADED - self.leaves)]
            self._sort(leaves)
            for one in good:
                if self._is_counted(one.id // self.size):
                    self.trees.setdefault(one.id // self.size, []).append(one)
        self._tell()

    def end(self, tree: int) -> None:
        """Nothing more will come of a tree."""
        outputs = self.trees.pop(tree, [])
        if len(outputs) == len(self.shape):
            self._count(tree, outputs)
            self.counted += 1

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

    def _is_counted(self, tree: int) -> bool:
        return tree % max(1, len(self.questions) // COUNTED) == 0

    def _level(self, one: Completion) -> int:
        return self.shape[one.id % self.size - 1].role

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
            if self._is_counted(one.id // self.size):
                self.outcomes[one.id] = right
            parent = self.shape[one.id % self.size - 1].parent
            block = self.blocks.setdefault(one.id // self.size * self.size + parent + 1, [])
            block.append(right)
            if len(block) == self.children[parent] and len(block) > 1:
                self.whole += 1
                self.mixed += len(set(block)) > 1

    def _count(self, tree: int, outputs: Sequence[Completion]) -> None:
        """Add up what a whole tree yields."""
        leaves = [one for one in outputs if self._is_leaf(one)]
        unknown = [one for one in leaves if one.id not in self.outcomes]
        outcomes = {one.id: self.outcomes.pop(one.id, False) for one in leaves}
        if unknown:
            outcomes |= zip((one.id for one in unknown), self._grade(unknown)[1], strict=True)
        forest, first = reserve(1, self.shape), tree * self.size
        complete(forest, [replace(one, id=one.id - first) for one in outputs])
        nodes = np.fromiter(outcomes, np.uint32) - np.uint32(first)
        forest.set_outcomes(nodes, np.array(list(outcomes.values()), np.uint8))
        self.found.update(self.count(forest))

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
