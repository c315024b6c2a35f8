"""Signs that sampling goes wrong, each reported once and early, with what to do about it.

Outputs that are cut off or empty, leaves without an answer, siblings that never differ. A sign is
reported only when chance hardly explains it, with the ends of some outputs that show it.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from malt_fast.engines import Completion
from malt_fast.sampling.sampled_trees import SampledTrees
from malt_fast.utils.errors import one_line

ENOUGH = 100  # outputs of a role, or leaves, before a share of them is judged
BLOCKS = 90  # of siblings: if one in twenty differed, 99 % of such rows would show one that does
GRADED = 2000  # leaves that are graded as they come, and outputs of a role that are read
SHOWN = 3  # outputs in a warning
END = 100  # characters of each

Warn = Callable[[str, str], None]  # text, kind


# ---- rules: the warning, or "" ----


def most(part: int, whole: int) -> bool:
    """Whether most of enough outputs are so."""
    return whole >= ENOUGH and part > whole / 2


def truncated(role: str, cut: int, outputs: int, section: str = "sampling") -> str:
    """Most outputs of a role end by max_tokens. section: of the settings they are sampled with."""
    if not most(cut, outputs):
        return ""
    return (
        f"{cut:,} of the first {outputs:,} outputs of the {role} are cut off: raise "
        f"{section}.max_tokens, or {section}.roles.{role}.max_tokens"
    )


def empty(role: str, silent: int, outputs: int) -> str:
    """Most outputs of a role have no text."""
    if not most(silent, outputs):
        return ""
    return (
        f"{silent:,} of the first {outputs:,} outputs of the {role} are empty, as the model ends "
        f"its turn at once: reword the {role}'s prompt by task.prompts, or choose a model that "
        "was tuned to follow instructions by model.name_or_path"
    )


def unanswered(without: int, leaves: int, section: str = "sampling") -> str:
    """Most leaves state no answer."""
    if not most(without, leaves):
        return ""
    return (
        f"{without:,} of the first {leaves:,} last outputs end without an answer: raise "
        f"{section}.max_tokens, or see that the last role's prompt asks for the marker that the "
        "grader looks for (docs/grading.md)"
    )


def unmixed(role: str, mixed: int, blocks: int, right: float) -> str:
    """No siblings of the last role differ in outcome, so comparing them teaches nothing."""
    if blocks < BLOCKS or mixed:
        return ""
    return (
        f"in none of the first {blocks:,} groups of the {role}'s outputs is one right and another "
        f"wrong ({100 * right:.0f} % are right): raise sampling.temperature, or choose questions "
        f"that are {'harder' if right > 0.5 else 'easier'}"
    )


# ---- counts ----


class Signs:
    """Counts outputs as they come, and warns of each sign once.

    section: of the settings that the outputs are sampled with. siblings: whether those of one
    parent are comparable, as in training.
    """

    def __init__(
        self, trees: SampledTrees, warn: Warn, section: str = "sampling", *, siblings: bool = True
    ) -> None:
        self.trees, self.warn = trees, warn
        self.section, self.siblings = section, siblings
        self.outputs: Counter[int] = Counter()  # by level
        self.cut: Counter[int] = Counter()  # by level
        self.read: Counter[int] = Counter()  # by level: outputs whose text was looked at
        self.empty: Counter[int] = Counter()  # of those
        self.leaves = self.without = self.right = 0  # graded; without an answer; right
        self.outcomes: dict[int, list[bool]] = defaultdict(list)  # of leaves, by parent node
        self.blocks = self.mixed = 0  # of siblings, complete; with different outcomes
        self.ends: dict[str, list[str]] = defaultdict(list)  # of outputs that show a sign, by kind
        self.warned: set[str] = set()

    def see(self, completions: Sequence[Completion]) -> None:
        outputs = [one for one in completions if one.finish_reason != "error"]
        outputs = [one for one in outputs if self.trees.level(one) <= len(self.trees.chain)]
        for one in outputs:
            self._count(one)
        if self.trees.can_grade and self.leaves < GRADED:
            self._grade(self.trees.leaves(outputs)[: GRADED - self.leaves])
        for kind, text in self._signs().items():
            if text and kind not in self.warned:
                self.warned.add(kind)
                ends = self.ends[kind]
                self.warn("\n".join([text + "; some of them end in:" * bool(ends), *ends]), kind)

    def _count(self, one: Completion) -> None:
        level = self.trees.level(one)
        self.outputs[level] += 1
        if one.finish_reason == "length":
            self.cut[level] += 1
            self._keep(f"truncated {self.trees.chain[level - 1]}", one)
        if self.read[level] < GRADED:
            self.read[level] += 1
            self.empty[level] += not self.trees.text(one).strip()

    def _keep(self, kind: str, one: Completion) -> None:
        """Keep the end of an output for the warning of a kind."""
        if len(self.ends[kind]) < SHOWN:
            text = self.trees.text(one).strip()
            end = one_line(text[-END:]) or "(nothing)"
            self.ends[kind].append(f"  {'...' * (len(text) > END)}{end}")

    def _grade(self, leaves: Sequence[Completion]) -> None:
        answered, outcomes = self.trees.grade(leaves)
        self.leaves += len(leaves)
        self.without += answered.count(False)
        self.right += sum(outcomes)
        for one, has_answer in zip(leaves, answered, strict=True):
            if not has_answer:
                self._keep("unanswered", one)
        if self.siblings:
            self._compare(leaves, outcomes)

    def _compare(self, leaves: Sequence[Completion], outcomes: Sequence[bool]) -> None:
        """Count the blocks of siblings that are complete."""
        for one, right in zip(leaves, outcomes, strict=True):
            tree, node = divmod(one.id, self.trees.size)
            parent = self.trees.shape[node - 1].parent
            block = self.outcomes[tree * self.trees.size + 1 + parent]
            block.append(right)
            if len(block) == self.trees.children[parent] and len(block) > 1:
                self.blocks += 1
                self.mixed += len(set(block)) > 1

    def _signs(self) -> dict[str, str]:
        """The warning by kind, "" where there is none."""
        signs = {}
        for level, role in enumerate(self.trees.chain, 1):
            cut, outputs = self.cut[level], self.outputs[level]
            signs[f"truncated {role}"] = truncated(role, cut, outputs, self.section)
            signs[f"empty {role}"] = empty(role, self.empty[level], self.read[level])
        signs["unanswered"] = unanswered(self.without, self.leaves, self.section)
        share = self.right / max(1, self.leaves)
        signs["unmixed"] = unmixed(self.trees.chain[-1], self.mixed, self.blocks, share)
        return signs
