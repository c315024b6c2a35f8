"""Rules that involve several settings: names, counts and sources that must fit together."""

import math

from malt_fast.config.schema import Config
from malt_fast.config.stages import DPOStageConfig
from malt_fast.utils.errors import MaltError, nearest

LONGEST = 64  # bytes of the name of a role, which names folders and files


def check(config: Config) -> None:
    """Raises MaltError for the first mistake."""
    _check_chain(config.chain)
    _check_branching(config)
    _check_roles(config)
    _check_sources(config)
    _check_secrets(config)
    for dpo in (config.train.dpo, *map(config.train.dpo.for_role, config.chain)):
        _check_dpo(dpo)


def _check_dpo(dpo: DPOStageConfig) -> None:
    if dpo.on_pairs != "sigmoid" and dpo.label_smoothing > 0:
        raise MaltError(
            f"train.dpo.label_smoothing has no meaning for the {dpo.loss_type} loss: set it to "
            "0 or train.dpo.loss_type to sigmoid"
        )
    weights = (dpo.desirable_weight, dpo.undesirable_weight)
    if not dpo.on_labels and weights != (1, 1):
        raise MaltError(
            f"train.dpo.desirable_weight and undesirable_weight have no meaning for the "
            f"{dpo.loss_type} loss: set them to 1 or train.dpo.loss_type to kto"
        )
    if dpo.on_labels and not any(weights):
        raise MaltError(
            "train.dpo.desirable_weight and undesirable_weight are both 0, so that nothing is "
            "learned from labelled outputs: raise one of them"
        )
    if dpo.on_labels and dpo.per_device_train_batch_size * dpo.gradient_accumulation_steps == 1:
        raise MaltError(
            f"the {dpo.loss_type} loss compares the outputs of a step with each other: set "
            "train.dpo.per_device_train_batch_size to 2 or more"
        )


def _check_chain(chain: list[str]) -> None:
    if len(set(chain)) != len(chain):
        raise MaltError(f"chain = {chain} names a role twice: give every role a name of its own")
    for role in chain:
        if not role.isidentifier() or role == "question" or len(role.encode()) > LONGEST:
            raise MaltError(
                f"chain holds '{role[:LONGEST]}', which cannot name a role: use letters, digits "
                f"and _, at most {LONGEST} of them"
            )


def _check_branching(config: Config) -> None:
    branching, roles = config.tree.branching, len(config.chain)
    if math.prod(branching) > 1_000_000:
        raise MaltError(
            f"tree.branching = {branching} makes {math.prod(branching):,} leaves per question: "
            "keep it to a million"
        )
    if len(branching) != roles:
        numbers = "1 number" if len(branching) == 1 else f"{len(branching)} numbers"
        raise MaltError(
            f"tree.branching = {branching} has {numbers} for a chain of {roles}: "
            f"give one per role, for example --tree.branching {','.join('3' * roles)}"
        )
    if config.tree.allocation == "adaptive" and max(branching) == 1:
        raise MaltError(
            f"tree.allocation is adaptive, but tree.branching = {branching} leaves nothing to "
            f"choose: give more outputs per node, for example {','.join('3' * roles)}"
        )


def _check_roles(config: Config) -> None:
    named = {
        "train.dpo_roles": config.train.dpo_roles or [],
        "model.roles": config.model.roles,
        "model.pass_thinking": config.model.pass_thinking,
        "sampling.roles": config.sampling.roles,
        "evaluate.sampling.roles": config.evaluate.sampling.roles,
        "train.sft.roles": config.train.sft.roles,
        "train.dpo.roles": config.train.dpo.roles,
    }
    for key, roles in named.items():
        for role in roles:
            if role not in config.chain:
                hint = nearest(role, config.chain)
                raise MaltError(f"{key} names '{role}', which is not in the chain: {hint}")


def _check_sources(config: Config) -> None:
    if config.engine.name == "replay" and config.engine.path is None:
        raise MaltError("the replay engine needs recordings: give --engine.path FILE.jsonl")
    if config.engine.name == "openai" and config.engine.base_url is None:
        raise MaltError(
            "the openai engine needs a server: give --engine.base_url http://HOST:PORT/v1"
        )


def _check_secrets(config: Config) -> None:
    """Settings are written to config.yaml and shown; secrets come from the environment."""
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
