"""Loads the task of a config: questions with gold answers, a prompt per role, and a grader.

A task is a module that makes the questions and a YAML file of the same name with `prompts:`,
`extra:` (prompts that only an evaluation needs), `chat:`, `grader:` and `defaults:` (config values
that suit it).
"""

import logging
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from malt_fast.config.schema import PACKAGE, Config, TaskConfig
from malt_fast.config.yaml_files import read_yaml
from malt_fast.grading.custom import is_custom, load_custom
from malt_fast.tasks.checks import check_ids, decontaminate, subset, warn_of
from malt_fast.tasks.rules import check_task
from malt_fast.tasks.task import EXTRA, Question, Report, Task
from malt_fast.tasks.wording import RolePrompt, split_prompt
from malt_fast.utils.errors import MaltError, nearest

log = logging.getLogger(__name__)


def load_task(config: Config, *, questions: bool = True) -> Task:
    """The task of a config. Raises MaltError for any mistake in it.

    questions: whether to read the questions; prompts and grader do not need their files.
    """
    check_task(config.task)
    name = config.task.name
    own = read_yaml(PACKAGE / "tasks" / f"{name}.yaml")
    prompts, chat = _prompts(own["prompts"], Path(f"{name}.yaml")), bool(own["chat"])
    extra = _prompts(own["extra"], Path(f"{name}.yaml"))
    if config.task.prompts is not None:
        known = {*prompts, *config.chain}
        prompts, extra, chat = _custom(config.task.prompts, prompts, extra, chat)
        _warn_of_unused(config, prompts.keys() - known)
    for role in config.chain:
        split_prompt(config.chain, role, prompts)
    grader = config.task.grader or own["grader"]
    if is_custom(grader):
        load_custom(grader)  # raises MaltError if it cannot be loaded
    train, test, report = _questions(config.task, grader) if questions else ([], [], {})
    used = {role: prompts[role] for role in config.chain}
    return Task(name, train, test, used, chat, grader, extra, report)


def _questions(task: TaskConfig, grader: str) -> tuple[list[Question], list[Question], Report]:
    """The questions to use, and a report on the unusual ones among all questions."""
    module = import_module(f"malt_fast.tasks.{task.name}")
    train, test, report = module.questions(task, grader)
    check_ids(train, test)
    warn_of(report, len(train) + len(test) + len(report.get("no gold", [])))
    if task.name != "arithmetic":  # whose splits have no question in common
        train, report["contaminated"] = decontaminate(train, test, task.decontaminate)
    train = subset(train, task.limit, task.subset_seed)
    test = subset(test, task.test_limit, task.subset_seed)
    return train, test, {kind: ids for kind, ids in report.items() if ids}


# ---- prompts ----


def _custom(
    path: Path, prompts: dict[str, RolePrompt], extra: dict[str, RolePrompt], chat: bool
) -> tuple[dict[str, RolePrompt], dict[str, RolePrompt], bool]:
    """Prompts, extra prompts and `chat`, each replaced by what a file gives."""
    values = read_yaml(path)
    known = ["prompts", "extra", "chat"]
    for key in values:
        if key not in known:
            raise MaltError(f"{path} has the key '{key}': {nearest(str(key), known)}")
    chat = values.get("chat", chat)
    if not isinstance(chat, bool):
        raise MaltError(f"{path} has chat = {chat!r}, which must be true or false: correct it")
    if "prompts" in values or "extra" not in values:
        prompts = prompts | _prompts(values.get("prompts"), path)
    if "extra" in values:
        own = _prompts(values["extra"], path)
        _check_extra(own, path)
        extra = extra | own
    return prompts, extra, chat


def _warn_of_unused(config: Config, roles: Iterable[str]) -> None:
    for role in sorted(roles):
        log.warning(
            "%s has a prompt for '%s', which is not in the chain: %s",
            config.task.prompts,
            role,
            nearest(role, config.chain),
        )


def _check_extra(extra: Mapping[str, RolePrompt], path: Path) -> None:
    """Raises MaltError for extra prompts with unknown names or unknown fields."""
    for name in extra:
        if name not in EXTRA:
            raise MaltError(f"{path} has '{name}' below `extra:`: {nearest(name, EXTRA)}")
        split_prompt([*EXTRA[name], name], name, extra)


def _prompts(values: Any, path: Path) -> dict[str, RolePrompt]:
    if not isinstance(values, Mapping) or not values:
        raise MaltError(
            f"{path} holds no prompts: write `prompts:` and a role with its text below it"
        )
    return {str(role): _prompt(role, value, path) for role, value in values.items()}


def _prompt(role: Any, value: Any, path: Path) -> RolePrompt:
    """A text is the user's turn; a mapping has `user` and optionally `system`."""
    parts = {"user": value} if isinstance(value, str) else value
    if not isinstance(parts, Mapping) or "user" not in parts or parts.keys() - {"user", "system"}:
        raise MaltError(
            f"{path} has no usable prompt for '{role}': give a text, or `system:` and `user:`"
        )
    user, system = parts["user"], parts.get("system")
    if not isinstance(user, str) or not isinstance(system, str | None):
        raise MaltError(f"{path} has a prompt for '{role}' that is not text: put it in quotes")
    return RolePrompt(system, user)
