"""Signs that a run goes wrong, told early, each once, with what to do about it.

While trees grow: outputs cut off, leaves without an answer, siblings that never differ. While a
role trains: log-probs of chosen outputs that collapse, an adapter that changes nothing.

A sign is told only when chance hardly explains it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from malt_fast import _core
from malt_fast.engines import Completion
from malt_fast.expand import Slot
from malt_fast.grading import is_custom
from malt_fast.roles import Prompts
from malt_fast.tasks import Question

SEEN = 200  # outputs of a role, or leaves, before a share of them is told
BLOCKS = 90  # of siblings: if one in twenty differed, 99 % of such rows would show one that does
GRADED = 2000  # leaves that are graded while trees grow, by the C++ core alone
FALL = 10.0  # nats a chosen output may lose, or half of what it has
EQUAL, DIFFERENT = 1, 0  # of _core.compare_answers

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


@dataclass
class Growth:
    """Counts what comes, and tells a sign once. Grades leaves with the core, a few thousand."""

    questions: Sequence[Question]
    shape: Sequence[Slot]
    chain: Sequence[str]
    prompts: Prompts
    grader: str
    tell: Tell
    outputs: Counter[int] = field(default_factory=Counter)  # by level
    cut: Counter[int] = field(default_factory=Counter)
    leaves: int = 0
    without: int = 0  # of them, that state no answer
    right: int = 0
    blocks: dict[int, list[bool]] = field(default_factory=dict)  # leaf outcomes by parent node
    whole: int = 0  # blocks whose outputs are all there
    mixed: int = 0
    told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.size = 1 + len(self.shape)
        self.children = Counter(slot.parent for slot in self.shape)

    def see(self, completions: Sequence[Completion]) -> None:
        leaves: list[Completion] = []
        for one in completions:
            if one.finish_reason == "error":
                continue
            level = self.shape[one.id % self.size - 1].role
            self.outputs[level] += 1
            self.cut[level] += one.finish_reason == "length"
            if level == len(self.chain) and self.leaves + len(leaves) < GRADED:
                leaves.append(one)
        if leaves and not is_custom(self.grader):
            self._grade(leaves)
        self._tell()

    def _grade(self, leaves: Sequence[Completion]) -> None:
        texts = [self.prompts.decode(one.tokens) for one in leaves]
        answers = _core.extract_answers(self.grader, texts)
        golds = [self.questions[one.id // self.size].gold for one in leaves]
        found = [answer or "" for answer in answers]
        verdicts = _core.compare_answers(self.grader, golds, found).tolist()
        self.leaves += len(leaves)
        self.without += answers.count(None)
        for one, answer, verdict in zip(leaves, answers, verdicts, strict=True):
            right = answer is not None and verdict == EQUAL
            self.right += right
            parent = self.shape[one.id % self.size - 1].parent
            block = self.blocks.setdefault(one.id // self.size * self.size + parent + 1, [])
            block.append(right)
            if len(block) == self.children[parent] and len(block) > 1:
                self.whole += 1
                self.mixed += len(set(block)) > 1

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

    @property
    def shown(self) -> str:
        """For a progress bar: how many groups of siblings differ so far."""
        return f"{100 * self.mixed / self.whole:.0f} % mixed" if self.whole else ""
