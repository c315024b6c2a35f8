"""What no single setting of a config can tell: names, counts and sources that must fit together."""

import math
from typing import TYPE_CHECKING

from malt_fast.errors import MaltError, nearest
from malt_fast.grading import GRADERS, is_custom

LONGEST = 64  # bytes of a role's name: folders and files are called after it

if TYPE_CHECKING:
    from malt_fast.config import Config, TaskConfig


def check(config: "Config") -> None:
    """Raises MaltError for the first mistake."""
    chain, roles = config.chain, len(config.chain)
    if len(set(chain)) != roles:
        raise MaltError(f"chain = {chain} names a role twice: give every role a name of its own")
    for role in chain:
        if not role.isidentifier() or role == "question" or len(role.encode()) > LONGEST:
            raise MaltError(
                f"chain holds '{role[:LONGEST]}', which cannot name a role: use letters, digits "
                f"and _, at most {LONGEST} of them"
            )
    if math.prod(config.tree.branching) > 1_000_000:
        raise MaltError(
            f"tree.branching = {config.tree.branching} makes {math.prod(config.tree.branching):,} "
            "leaves a question: keep it to a million"
        )
    if len(config.tree.branching) != roles:
        example = ",".join("3" * roles)
        raise MaltError(
            f"tree.branching = {config.tree.branching} has {len(config.tree.branching)} numbers "
            f"for a chain of {roles}: give one a role, for example --tree.branching {example}"
        )
    _check_roles(config)
    _check_sources(config)
    _check_secrets(config)
    _check_task(config.task)
    if config.train.dpo.loss_type != "sigmoid" and config.train.dpo.label_smoothing > 0:
        raise MaltError(
            f"train.dpo.label_smoothing has no meaning for the {config.train.dpo.loss_type} loss: "
            "set it to 0 or train.dpo.loss_type to sigmoid"
        )


def _check_roles(config: "Config") -> None:
    named = {
        "train.dpo_roles": config.train.dpo_roles or [],
        "model.roles": config.model.roles,
        "sampling.roles": config.sampling.roles,
        "evaluate.sampling.roles": config.evaluate.sampling.roles,
        "train.sft.roles": config.train.sft.roles,
        "train.dpo.roles": config.train.dpo.roles,
    }
    for key, roles in named.items():
        for role in roles:
            if role not in config.chain:
                raise MaltError(
                    f"{key} names '{role}', which the chain lacks: {nearest(role, config.chain)}"
                )


def _check_sources(config: "Config") -> None:
    if config.engine.name == "replay" and config.engine.path is None:
        raise MaltError("the replay engine needs recordings: give --engine.path FILE.jsonl")
    if config.engine.name == "openai" and config.engine.base_url is None:
        raise MaltError(
            "the openai engine needs a server: give --engine.base_url http://HOST:PORT/v1"
        )


def _check_secrets(config: "Config") -> None:
    """Settings are written to config.yaml and shown to people: the environment is the place."""
    if "hf_token" in config.engine.vllm:
        raise MaltError(
            "engine.vllm.hf_token would be written to config.yaml: set HF_TOKEN instead"
        )
    address = (config.engine.base_url or "").partition("//")[2].partition("/")[0]
    if "@" in address:
        raise MaltError(
            "engine.base_url holds a password, which would be written to config.yaml: set "
            "OPENAI_API_KEY instead"
        )


def _check_task(task: "TaskConfig") -> None:
    if task.name == "arithmetic" and (task.path or task.test_path):
        raise MaltError(
            "the arithmetic task reads no file: give --task.name gsm8k, math, csqa or jsonl with "
            "--task.path"
        )
    if task.name == "arithmetic" and task.subset_seed is not None:
        raise MaltError("the arithmetic task makes its questions: leave task.subset_seed out")
    if task.name != "arithmetic" and task.path is None:
        raise MaltError(f"the {task.name} task needs questions: give --task.path FILE.jsonl")
    for key in ("question_column", "answer_column"):
        changed = getattr(task, key) != type(task).model_fields[key].default
        if changed and task.name not in ("gsm8k", "jsonl"):
            raise MaltError(
                f"task.{key} is for gsm8k and jsonl, and {task.name} has columns of its own: "
                "leave it out"
            )
    _check_grader(task)


def _check_grader(task: "TaskConfig") -> None:
    known = ", ".join(GRADERS)
    if task.grader is None and task.name == "jsonl":
        raise MaltError(
            f"the jsonl task needs a grader: give --task.grader {known} or package.module:function"
        )
    if task.grader is None or task.grader in GRADERS:
        return
    if not is_custom(task.grader):
        raise MaltError(
            f"task.grader = '{task.grader}' is no grader ({nearest(task.grader, GRADERS)}): give "
            f"{known}, or a function of your own as package.module:function"
        )
    module, _, function = task.grader.partition(":")
    if not all(name.isidentifier() for name in [*module.split("."), function]):
        raise MaltError(
            f"task.grader = '{task.grader}' does not name a function: write package.module:function"
        )
