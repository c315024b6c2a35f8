"""A task: questions with gold answers, prompts and a grader."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from malt_fast.tasks.wording import RolePrompt

Report = dict[str, list[str]]  # kind of unusual question -> ids

EXTRA = {"direct": ("generator",), "debater": ("own", "first", "second")}
"""The names of extra prompts, and the outputs that each reads after the question."""


@dataclass(frozen=True, slots=True)
class Question:
    id: str  # unique in the task
    text: str
    gold: str
    row: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The row it was made from, for custom graders; else empty."""


@dataclass(frozen=True)
class Task:
    name: str
    train: list[Question]
    test: list[Question]
    prompts: dict[str, RolePrompt]  # one per role of the chain
    chat: bool  # whether prompts go through the model's chat template
    grader: str
    extra: dict[str, RolePrompt] = field(default_factory=dict)
    """direct: the last role without a verifier; it reads {question} and the first role's output
    as {generator}. debater: one of three that debate; it reads {question}, its {own} last answer
    and those of the other two, {first} and {second}."""
    report: Report = field(default_factory=dict)
