"""Which engine a config means: told and checked before work is spent, opened when it is time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from malt_fast.cluster import check_ray
from malt_fast.config import Config, EngineConfig
from malt_fast.engines import Engine, Policy, SamplingParams
from malt_fast.errors import MaltError
from malt_fast.loading import load_config

if TYPE_CHECKING:
    from malt_fast.sampling import Setup

Name = Literal["hf", "vllm", "openai", "replay"]
INSTALL = "pip install 'malt-fast[vllm]'"


@dataclass(frozen=True)
class EngineSpec:
    """All that one engine of this process is made from; a worker elsewhere can make it too."""

    name: Literal["hf", "vllm"]
    settings: EngineConfig
    dtype: str
    device: str
    policies: tuple[Policy, ...]  # that requests will name
    max_model_len: int | None = None  # longest prompt and output; None is the model's context
    probes: Mapping[Policy, npt.NDArray[np.int32]] = field(default_factory=dict)  # prompts
    gpus: int = 0  # that one engine takes, of a cluster that has any
    trust_remote_code: bool = False  # whether a model may run code of its own

    def open(self) -> Engine:
        """Load the engine. Raises MaltError for what it refuses."""
        if self.name == "hf":
            from malt_fast.engines.hf import HFEngine

            return HFEngine(
                self.dtype, self.device, self.settings.batch_size, self.trust_remote_code
            )
        from malt_fast.engines.vllm import VLLMEngine

        return VLLMEngine(
            self.policies,
            dtype=self.dtype,
            max_model_len=self.max_model_len,
            probes=self.probes,
            settings=self.settings.vllm,
            trust_remote_code=self.trust_remote_code,
        )


def choose(config: Config) -> tuple[Name, str]:
    """The engine that samples, and why this one."""
    if config.engine.name != "auto":
        return config.engine.name, "as engine.name says"
    if config.model.roles:
        return "hf", "roles have base models of their own, and vLLM holds one"
    if find_spec("vllm") is None:
        return "hf", f"vLLM is not installed ({INSTALL})"
    from malt_fast.engines.vllm import runs_on_cpu

    if runs_on_cpu() or not _has_gpu(config):
        return "hf", "without a GPU it is faster than vLLM"
    return "vllm", "there is a GPU"


def _has_gpu(config: Config) -> bool:
    import torch

    return torch.cuda.is_available() and config.model.device != "cpu"


def gpus_of_engine(config: Config, name: Literal["hf", "vllm"]) -> int:
    """GPUs that one engine takes where there are any: a cluster may have what is missing here."""
    if config.model.device == "cpu":
        return 0
    if name == "hf":
        return 1
    from malt_fast.engines.vllm import runs_on_cpu

    parallel = [config.engine.vllm.get(f"{k}_parallel_size", 1) for k in ("tensor", "pipeline")]
    return 0 if runs_on_cpu() else math.prod(parallel)


def check_engine(setup: "Setup") -> None:
    """Raises MaltError for an engine that cannot do what the config asks of it."""
    config = setup.config
    name, _ = choose(config)
    if config.engine.replicas > 1:
        if name not in ("hf", "vllm"):
            raise MaltError(
                f"engine.replicas = {config.engine.replicas} is for engines of this program, not "
                f"for {name}: leave it out"
            )
        check_ray()
    if name == "vllm":
        _check_vllm(setup)
    if name == "openai":
        from malt_fast.engines.openai import check_server

        check_server(config.engine, config.base_model())


def _check_vllm(setup: "Setup") -> None:
    config = setup.config
    if find_spec("vllm") is None:
        raise MaltError(f"vLLM is not installed: {INSTALL}, or sample with --engine.name hf")
    if config.model.roles:
        raise MaltError(
            "vLLM holds one base model, but model.roles names others: leave them out, or sample "
            "with --engine.name hf"
        )
    from malt_fast.engines.vllm import check_settings

    check_settings(config.engine.vllm)
    asked, context = config.engine.vllm.get("max_model_len"), context_of(setup)
    if asked is not None and asked > context:
        raise MaltError(
            f"engine.vllm.max_model_len = {asked} is more than '{config.base_model()}' reads "
            f"({context}): lower it, or leave it out"
        )


def context_of(setup: "Setup") -> int:
    """Tokens that the first role's base model reads."""
    model = setup.config.model
    base = setup.config.base_model(setup.config.chain[0])
    config = load_config(base, model.trust_remote_code).get_text_config()
    return getattr(config, "max_position_embeddings", None) or 1 << 30


def longest(
    setup: "Setup", params: Sequence[SamplingParams], question_tokens: int | None = None
) -> int:
    """The longest prompt with its output that any wording may come to, cut to the context.

    question_tokens: of the longest question; unset: the task's own.
    """
    context = context_of(setup)
    if question_tokens is None:
        texts = {question.text for question in [*setup.task.train, *setup.task.test]}
        question_tokens = max(len(setup.wordings.encode_question(text)) for text in texts)
    question = np.zeros(question_tokens, np.int32)
    wordings = setup.wordings
    outputs = [np.zeros(min(p.max_tokens, context), np.int32) for p in params]
    lengths = [
        len(wordings.build(number, question, [outputs[i - 1] for i in wordings.sources(number)]))
        + len(output)
        for number, output in enumerate(outputs, 1)
    ]
    return min(context, max(lengths))


def open_engine(
    setup: "Setup",
    policies: Mapping[Policy, int],
    params: Sequence[SamplingParams],
    question_tokens: int | None = None,
) -> Engine:
    """The engine that the config names, for `policies`, each with a wording that it answers.

    question_tokens: of the longest question that will be asked; unset: the task's own.
    """
    config = setup.config
    settings, (name, _) = config.engine, choose(config)
    if name == "replay":
        from malt_fast.engines.replay import ReplayEngine

        assert settings.path is not None
        return ReplayEngine.from_jsonl(settings.path, setup.prompts.tokenizer)
    if name == "openai":
        from malt_fast.engines.openai import OpenAIEngine

        return OpenAIEngine(settings, list(policies))
    some = setup.task.train[0].text if setup.task.train else "How much is 12 + 34?"
    text = setup.prompts.encode_question(some)
    wordings = setup.wordings
    spec = EngineSpec(
        name=name,
        settings=settings,
        dtype=config.model.dtype,
        device=config.model.device,
        policies=tuple(policies),
        max_model_len=longest(setup, params, question_tokens) if name == "vllm" else None,
        probes={
            policy: wordings.build(number, text, [text[:1]] * len(wordings.sources(number)))
            for policy, number in policies.items()
        },
        gpus=gpus_of_engine(config, name),
        trust_remote_code=config.model.trust_remote_code,
    )
    if settings.replicas == 1:
        return spec.open()
    from malt_fast.engines.ray import RayEngine

    return RayEngine(spec, settings.replicas, settings.ray_address)
