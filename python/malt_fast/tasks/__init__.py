"""Tasks: questions with gold answers, the wording for each role, and a grader.

A task is a module that makes the questions and a YAML file of the same name with `prompts:`,
`chat:`, `grader:`, `defaults:` (config values that suit it) and perhaps `extra:` (wordings that
only an evaluation uses).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from malt_fast.cli import read_yaml
from malt_fast.config import PACKAGE, Config
from malt_fast.errors import MaltError, nearest
from malt_fast.roles import RolePrompt, split_wording


@dataclass(frozen=True, slots=True)
class Question:
    id: str  # unique in the task
    text: str
    gold: str


@dataclass(frozen=True)
class Task:
    name: str
    train: list[Question]
    test: list[Question]
    prompts: dict[str, RolePrompt]  # one a role of the chain
    chat: bool  # render the prompts through the model's chat template
    grader: str
    extra: dict[str, RolePrompt] = field(default_factory=dict)  # see wordings.py


def load_task(config: Config) -> Task:
    """Questions, prompts and grader that a config names; raises MaltError before any work."""
    name = config.task.name
    own = read_yaml(PACKAGE / "tasks" / f"{name}.yaml")
    prompts, chat = _prompts(own["prompts"], Path(f"{name}.yaml")), bool(own["chat"])
    if config.task.prompts is not None:
        prompts, chat = _custom(config.task.prompts, prompts, chat)
    for role in config.chain:
        split_wording(config.chain, role, prompts)
    grader = config.task.grader or own["grader"]
    train, test = import_module(f"malt_fast.tasks.{name}").questions(config.task, grader)
    train, test = train[: config.task.limit], test[: config.task.test_limit]
    both = {q.id for q in train} & {q.id for q in test}
    if both:
        raise MaltError(
            f"the id '{min(both)}' is in both the training and the held-out questions: "
            "make ids unique, or leave --task.id_column out"
        )
    extra = _prompts(own["extra"], Path(f"{name}.yaml")) if "extra" in own else {}
    prompts = {role: prompts[role] for role in config.chain}
    return Task(name, train, test, prompts, chat, grader, extra)


def _custom(
    path: Path, prompts: dict[str, RolePrompt], chat: bool
) -> tuple[dict[str, RolePrompt], bool]:
    values = read_yaml(path)
    for key in values:
        if key not in ("prompts", "chat"):
            raise MaltError(f"{path} has the key '{key}': {nearest(str(key), ['prompts', 'chat'])}")
    chat = values.get("chat", chat)
    if not isinstance(chat, bool):
        raise MaltError(f"{path} has chat = {chat!r}, which must be true or false: correct it")
    return prompts | _prompts(values.get("prompts"), path), chat


def _prompts(values: Any, path: Path) -> dict[str, RolePrompt]:
    if not isinstance(values, Mapping) or not values:
        raise MaltError(
            f"{path} holds no prompts: write `prompts:` and a role with its text below it"
        )
    return {str(role): _prompt(role, value, path) for role, value in values.items()}


def _prompt(role: Any, value: Any, path: Path) -> RolePrompt:
    """A text is the user's turn; a mapping has `user` and perhaps `system`."""
    parts = {"user": value} if isinstance(value, str) else value
    if not isinstance(parts, Mapping) or "user" not in parts or parts.keys() - {"user", "system"}:
        raise MaltError(
            f"{path} has no usable prompt for '{role}': give a text, or `system:` and `user:`"
        )
    user, system = parts["user"], parts.get("system")
    if not isinstance(user, str) or not isinstance(system, str | None):
        raise MaltError(f"{path} has a prompt for '{role}' that is not text: put it in quotes")
    return RolePrompt(system, user)
