"""What every stage of a run shares: settings, task and prompts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

from malt_fast.config.schema import Config
from malt_fast.engines import Policies, Policy, SamplingParams
from malt_fast.forest.role_data import RoleData
from malt_fast.models.context import context_length
from malt_fast.models.loading import load_model_config
from malt_fast.tasks.evaluation_prompts import EvaluationPrompts
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.task import Task


@dataclass(frozen=True)
class Setup:
    """Settings, task and prompts, loaded once."""

    config: Config
    task: Task
    prompts: Prompts
    demonstrations: Mapping[str, RoleData] = field(default_factory=dict)
    """What roles learn before anything is sampled (train.warm_start); `prepare` reads it."""

    def base(self) -> Policies:
        """Every role as its bare base model."""
        return {role: Policy(self.config.base_model(role)) for role in self.config.chain}

    @cached_property
    def evaluation_prompts(self) -> EvaluationPrompts:
        """The prompts of the chain, and the extra ones that the evaluation needs."""
        extra = self.task.extra if self.config.evaluate.suite == "paper" else {}
        return EvaluationPrompts(self.prompts, extra)

    def params(self, *, evaluating: bool = False) -> list[SamplingParams]:
        """Sampling parameters by prompt: of the chain's roles, in evaluation of extra ones too."""
        prompts = self.evaluation_prompts
        numbers = range(1, len(prompts.names if evaluating else self.config.chain) + 1)
        roles = [prompts.role(number) for number in numbers]
        settings = [self.config.sampling_for(role, evaluating=evaluating) for role in roles]
        return [
            SamplingParams(**s.model_dump(), stop_token_ids=self.prompts.end_ids) for s in settings
        ]


def base_configs(setup: Setup) -> dict[str, Any]:
    """The configs of the chain's base models. Raises MaltError for one that is not supported."""
    bases = dict.fromkeys(setup.config.base_model(role) for role in setup.config.chain)
    trusted = setup.config.model.trust_remote_code
    return {base: load_model_config(base, trusted) for base in bases}


def context_of(setup: Setup) -> int:
    """The shortest context of the chain's base models, in tokens: roles read each other."""
    return min(map(context_length, base_configs(setup).values()))


def longest(
    setup: Setup, params: Sequence[SamplingParams], question_tokens: int | None = None
) -> int:
    """Tokens of the longest possible prompt with its output, at most the context.

    question_tokens: of the longest question; None: of the task's questions.
    """
    context = context_of(setup)
    if question_tokens is None:
        texts = (question.text for question in chain(setup.task.train, setup.task.test))
        question_tokens = max(map(len, setup.prompts.encode_questions(texts)))
    prompts = setup.evaluation_prompts
    question = setup.prompts.filler(question_tokens)
    outputs = [setup.prompts.filler(min(p.max_tokens, context)) for p in params]
    lengths = [
        len(prompts.build(number, question, [outputs[i - 1] for i in prompts.sources(number)]))
        + len(output)
        for number, output in enumerate(outputs, 1)
    ]
    return min(context, max(lengths))


def questions_file(setup: Setup) -> bytearray:
    """The training questions in the order of the trees, one JSON object per line."""
    out = bytearray()
    for q in setup.task.train:
        out += json.dumps({"id": q.id, "text": q.text, "gold": q.gold}).encode() + b"\n"
    return out
