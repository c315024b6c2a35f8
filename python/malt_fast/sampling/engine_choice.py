"""The engine of a config: chosen and checked before any work, opened when it is needed."""

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Literal

from malt_fast.config.schema import Config
from malt_fast.engines import Engine, Policy, SamplingParams
from malt_fast.engines.spec import EngineSpec
from malt_fast.models.plain_text import Tokens
from malt_fast.models.supported import check_layers
from malt_fast.sampling.setup import Setup, base_configs, context_of, longest
from malt_fast.utils.errors import MaltError
from malt_fast.utils.installing import install_command
from malt_fast.utils.ray_cluster import check_ray

Name = Literal["hf", "vllm", "openai", "replay"]


def choose(config: Config) -> tuple[Name, str]:
    """The engine that samples, and the reason for it."""
    if config.engine.name != "auto":
        return config.engine.name, "as engine.name says"
    if config.model.roles:
        return "hf", "roles have base models of their own, and vLLM holds one"
    if find_spec("vllm") is None:
        return "hf", f"vLLM is not installed: {install_command('vllm')}"
    from malt_fast.engines.vllm import runs_on_cpu

    if runs_on_cpu() or not _has_gpu(config):
        return "hf", "without a GPU it is faster than vLLM"
    return "vllm", "there is a GPU"


def _has_gpu(config: Config) -> bool:
    import torch

    return torch.cuda.is_available() and config.model.device != "cpu"


def gpus_of_engine(config: Config, name: Literal["hf", "vllm"]) -> int:
    """GPUs that one engine takes, if there are any: a cluster may have them where this machine has
    none."""
    if config.model.device == "cpu":
        return 0
    if name == "hf":
        return 1
    from malt_fast.engines.vllm import runs_on_cpu

    parallel = [config.engine.vllm.get(f"{k}_parallel_size", 1) for k in ("tensor", "pipeline")]
    return 0 if runs_on_cpu() else math.prod(parallel)


def check_installed(config: Config) -> None:
    """Raises MaltError for an engine that is not here, or not for this chain. Loads nothing."""
    name = config.engine.name
    if name == "vllm" and find_spec("vllm") is None:
        raise MaltError(
            f"vLLM is not installed: {install_command('vllm')}, or sample with --engine.name hf"
        )
    if name == "vllm" and config.model.roles:
        raise MaltError(
            "vLLM holds one base model, but model.roles names others: leave them out, or sample "
            "with --engine.name hf"
        )
    if config.engine.replicas > 1:
        if name in ("openai", "replay"):
            raise MaltError(
                f"engine.replicas = {config.engine.replicas} is for engines that run here "
                f"(hf, vllm), not for {name}: leave it out"
            )
        check_ray()
    path = config.engine.path
    if name == "replay" and path is not None and not path.is_file():
        raise MaltError(f"engine.path = '{path}' is no file: give a JSONL file of recordings")


def check_engine(setup: Setup) -> None:
    """Raises MaltError if the engine cannot do what the config asks for."""
    config = setup.config
    name, _ = choose(config)
    if name == "hf":
        for base, model_config in base_configs(setup).items():
            check_layers(base, model_config)
    if name == "vllm":
        _check_vllm(setup)
    if name == "openai":
        from malt_fast.engines.openai import check_server

        check_server(config.engine, config.base_model())


def _check_vllm(setup: Setup) -> None:
    config = setup.config
    from malt_fast.engines.vllm import check_settings

    check_settings(config.engine.vllm)
    asked, context = config.engine.vllm.get("max_model_len"), context_of(setup)
    if asked is not None and asked > context:
        raise MaltError(
            f"engine.vllm.max_model_len = {asked} is more than '{config.base_model()}' reads "
            f"({context}): lower it, or leave it out"
        )


def open_engine(
    setup: Setup,
    policies: Mapping[Policy, int],
    params: Sequence[SamplingParams],
    question_tokens: int | None = None,
    *,
    load: bool = False,
) -> Engine:
    """The engine of the config, for `policies`, each with the number of a prompt that it answers.

    question_tokens: of the longest question that will be asked; None: of the task's questions.
    load: load all weights now, not when they are first needed.
    """
    config = setup.config
    settings, (name, _) = config.engine, choose(config)
    if name == "replay":
        from malt_fast.engines.replay import ReplayEngine

        assert settings.path is not None
        chain = setup.prompts

        def encode(depth: int, text: str, ended: bool) -> Tokens:
            return chain.encode_output(min(depth, len(chain.chain)), text, ended=ended)

        return ReplayEngine.from_jsonl(settings.path, encode)
    if name == "openai":
        from malt_fast.engines.openai import OpenAIEngine

        return OpenAIEngine(settings, list(policies))
    question = setup.task.train[0].text if setup.task.train else "How much is 12 + 34?"
    text = setup.prompts.encode_question(question)
    prompts = setup.evaluation_prompts
    spec = EngineSpec(
        name=name,
        settings=settings,
        dtype=config.model.dtype,
        device=config.model.device,
        policies=tuple(policies),
        max_model_len=longest(setup, params, question_tokens) if name == "vllm" else None,
        probes={
            policy: prompts.build(number, text, [text[:1]] * len(prompts.sources(number)))
            for policy, number in policies.items()
        },
        gpus=gpus_of_engine(config, name),
        trust_remote_code=config.model.trust_remote_code,
        load=load,
    )
    if settings.replicas == 1:
        return spec.open()
    from malt_fast.engines.ray import RayEngine

    return RayEngine(spec, settings.replicas, settings.ray_address)
