"""A task made in Python, from rows, prompts and a grader."""

from collections.abc import Iterable, Mapping
from typing import Any

from malt_fast.grading.custom import Custom, is_custom, load_custom
from malt_fast.grading.verdicts import grader_of
from malt_fast.tasks.checks import check_ids
from malt_fast.tasks.task import Question, Task
from malt_fast.tasks.wording import RolePrompt
from malt_fast.utils.errors import MaltError

Rows = Iterable[Mapping[str, Any]]


def make_task(
    name: str,
    train: Rows,
    test: Rows,
    prompts: Mapping[str, str | RolePrompt],
    grader: str | Custom,
    *,
    chat: bool = True,
) -> Task:
    """A task from rows.

    train, test: rows with `question`, `answer` and an optional `id`; a custom grader gets whole
    rows. prompts: one per role, with {question} and the names of earlier roles. grader: a name,
    `module:function`, or a function of (completion, row) that returns a score from 0 to 1. chat:
    whether prompts go through the model's chat template. Raises MaltError for unsuitable rows.
    """
    grader = _grader_name(grader)
    split = {"train": train, "test": test}
    made = {k: [_question(k, i, row, grader) for i, row in enumerate(v)] for k, v in split.items()}
    for kind, questions in made.items():
        if len({question.id for question in questions}) < len(questions):
            raise MaltError(
                f"two rows of {kind} have the same id: make ids unique, or leave them out"
            )
    check_ids(made["train"], made["test"])
    worded = {k: RolePrompt(None, v) if isinstance(v, str) else v for k, v in prompts.items()}
    return Task(name, made["train"], made["test"], worded, chat, grader)


def _question(split: str, i: int, row: Mapping[str, Any], grader: str) -> Question:
    needed = ["question"] if is_custom(grader) else ["question", "answer"]
    for column in needed:
        if not str(row.get(column, "")).strip():
            raise MaltError(f"row {i} of {split} has no {column}: add it, as text")
    name, gold = str(row.get("id", f"{split}-{i}")), str(row.get("answer", ""))
    return Question(name, str(row["question"]), gold, dict(row) if is_custom(grader) else {})


def _grader_name(grader: str | Custom) -> str:
    """The name of a grader, under which other processes find it. Raises MaltError if none does."""
    if isinstance(grader, str):
        if is_custom(grader):
            load_custom(grader)
            return grader
        return grader_of(grader)
    name = f"{getattr(grader, '__module__', '')}:{getattr(grader, '__name__', '')}"
    try:
        found: Custom | None = load_custom(name)
    except MaltError:
        found = None
    if found is not grader:
        raise MaltError(
            f"the grader {name} cannot be imported by that name: define it by `def` in a module"
        )
    return name
