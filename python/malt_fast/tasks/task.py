"""A task: questions with gold answers, prompts and a grader."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from malt_fast.tasks.prompts import RolePrompt

Report = dict[str, list[str]]  # what is odd about questions: their ids


EXTRA = {"direct": ("generator",), "debater": ("own", "first", "second")}  # what they read


@dataclass(frozen=True, slots=True)
class Question:
    id: str  # unique in the task
    text: str
    gold: str
    row: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What it was made from, for graders of one's own; else empty."""


@dataclass(frozen=True)
class Task:
    name: str
    train: list[Question]
    test: list[Question]
    prompts: dict[str, RolePrompt]  # one a role of the chain
    chat: bool  # render the prompts through the model's chat template
    grader: str
    extra: dict[str, RolePrompt] = field(default_factory=dict)
    """direct: the last role without a verification, who reads {question} and what the first role
    wrote as {generator}; debater: one of three who debate, who reads {question}, its {own} last
    answer and those of the other two, {first} and {second}."""
    report: Report = field(default_factory=dict)
