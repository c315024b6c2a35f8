"""What every stage of a run shares: settings, task and prompts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from malt_fast.config.schema import Config
from malt_fast.engines import Policies, Policy, SamplingParams
from malt_fast.models.loading import load_config
from malt_fast.tasks.evaluation_prompts import Wordings
from malt_fast.tasks.prompts import Prompts, Tokens
from malt_fast.tasks.task import Task


@dataclass(frozen=True)
class Setup:
    """What every stage of a run shares."""

    config: Config
    task: Task
    prompts: Prompts

    def base(self) -> Policies:
        """Every role as its bare base model."""
        return {role: Policy(self.config.base_model(role)) for role in self.config.chain}

    @cached_property
    def question_tokens(self) -> list[Tokens]:
        """The training questions as tokens, in order: the segments of the forest's roots."""
        return [self.prompts.encode_question(question.text) for question in self.task.train]

    @cached_property
    def wordings(self) -> Wordings:
        """The prompts, and the extra ones that the evaluation needs."""
        extra = self.task.extra if self.config.evaluate.suite == "paper" else {}
        return Wordings(self.prompts, extra, chat=self.task.chat)

    def params(self, *, evaluating: bool = False) -> list[SamplingParams]:
        """Sampling parameters of each role, in chain order; in evaluation of extra wordings too."""
        chain, wordings = self.config.chain, self.wordings
        extra = range(len(chain) + 1, len(wordings.names) + 1) if evaluating else ()
        roles = [*chain, *(wordings.role(number) for number in extra)]
        settings = [self.config.sampling_for(role, evaluating=evaluating) for role in roles]
        return [
            SamplingParams(**s.model_dump(), stop_token_ids=self.prompts.end_ids) for s in settings
        ]


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


def questions_text(setup: Setup) -> str:
    rows = [{"id": q.id, "text": q.text, "gold": q.gold} for q in setup.task.train]
    return "".join(f"{json.dumps(row)}\n" for row in rows)
