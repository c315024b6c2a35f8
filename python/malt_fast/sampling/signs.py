"""Signs that sampling goes wrong, each reported once and early, with what to do about it.

Outputs that are cut off, leaves without an answer, siblings that never differ. A sign is reported
only when chance hardly explains it.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from malt_fast.engines import Completion
from malt_fast.sampling.sampled_trees import SampledTrees

ENOUGH = 200  # outputs of a role, or leaves, before a share of them is judged
BLOCKS = 90  # of siblings: if one in twenty differed, 99 % of such rows would show one that does
GRADED = 2000  # leaves that are graded as they come

Warn = Callable[[str, str], None]  # text, kind


# ---- rules: the warning, or "" ----


def truncated(role: str, cut: int, outputs: int) -> str:
    """Most outputs of a role end by max_tokens."""
    if outputs < ENOUGH or cut <= outputs / 2:
        return ""
    return (
        f"{cut:,} of the first {outputs:,} outputs of the {role} are cut off: raise "
        f"sampling.max_tokens, or sampling.roles.{role}.max_tokens"
    )


def unanswered(without: int, leaves: int) -> str:
    """Most leaves state no answer."""
    if leaves < ENOUGH or without <= leaves / 2:
        return ""
    return (
        f"{without:,} of the first {leaves:,} last outputs end without an answer: raise "
        "sampling.max_tokens, or see that the last role's prompt asks for the marker that the "
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
    """Counts outputs as they come, and warns of each sign once."""

    def __init__(self, trees: SampledTrees, warn: Warn) -> None:
        self.trees, self.warn = trees, warn
        self.outputs: Counter[int] = Counter()  # by level
        self.cut: Counter[int] = Counter()  # by level
        self.leaves = self.without = self.right = 0  # graded; without an answer; right
        self.outcomes: dict[int, list[bool]] = defaultdict(list)  # of leaves, by parent node
        self.blocks = self.mixed = 0  # of siblings, complete; with different outcomes
        self.warned: set[str] = set()

    def see(self, outputs: Sequence[Completion]) -> None:
        self.outputs.update(map(self.trees.level, outputs))
        self.cut.update(self.trees.level(one) for one in outputs if one.finish_reason == "length")
        if self.trees.can_grade and self.leaves < GRADED:
            self._grade(self.trees.leaves(outputs)[: GRADED - self.leaves])
        for kind, text in self._signs().items():
            if text and kind not in self.warned:
                self.warned.add(kind)
                self.warn(text, kind)

    def _grade(self, leaves: Sequence[Completion]) -> None:
        without, outcomes = self.trees.grade(leaves)
        self.leaves += len(leaves)
        self.without += without
        self.right += sum(outcomes)
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
        signs = {
            f"truncated {role}": truncated(role, self.cut[level], self.outputs[level])
            for level, role in enumerate(self.trees.chain, 1)
        }
        signs["unanswered"] = unanswered(self.without, self.leaves)
        share = self.right / max(1, self.leaves)
        signs["unmixed"] = unmixed(self.trees.chain[-1], self.mixed, self.blocks, share)
        return signs
