"""The trees that are being sampled, as their node ids number them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from malt_fast import _core
from malt_fast.engines import Completion
from malt_fast.grading.custom import is_custom
from malt_fast.grading.verdicts import EQUAL
from malt_fast.sampling.expand import Slot
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.task import Question


@dataclass(frozen=True)
class SampledTrees:
    """One tree of the given shape per question; the id of a completion is its node."""

    questions: Sequence[Question]
    shape: Sequence[Slot]
    chain: Sequence[str]
    prompts: Prompts
    grader: str
    strict: bool = False  # whether answers count only behind a marker

    @property
    def size(self) -> int:
        """Nodes of a tree."""
        return 1 + len(self.shape)

    @property
    def can_grade(self) -> bool:
        """Whether leaves are graded here, by the C++ core: not for a custom grader."""
        return not is_custom(self.grader)

    @cached_property
    def children(self) -> Counter[int]:
        """How many children each slot has."""
        return Counter(slot.parent for slot in self.shape)

    @cached_property
    def levels(self) -> list[int]:
        """The level of each node of a tree."""
        return [0, *(slot.role for slot in self.shape)]

    def level(self, one: Completion) -> int:
        return self.levels[one.id % self.size]

    def leaves(self, some: Sequence[Completion]) -> list[Completion]:
        return [one for one in some if self.level(one) == len(self.chain)]

    def text(self, one: Completion) -> str:
        return self.prompts.decode(one.tokens)

    def grade(self, leaves: Sequence[Completion]) -> tuple[list[bool], list[bool]]:
        """Which leaves state an answer, and which of them are right."""
        if not leaves:
            return [], []
        texts = [self.prompts.reply(self.level(one), one.tokens) for one in leaves]
        asked = [self.questions[one.id // self.size] for one in leaves]
        answers = _core.answers.extract_answers(
            self.grader, texts, self.strict, [question.text for question in asked]
        )
        golds = [question.gold for question in asked]
        verdicts = _core.answers.compare_answers(
            self.grader, golds, [text or "" for text in answers]
        )
        answered = [answer is not None for answer in answers]
        equal = (verdicts == EQUAL).tolist()
        return answered, [a and e for a, e in zip(answered, equal, strict=True)]
