"""From a config to what sampling needs: task, prompts, engine; sampling and grading with them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from malt_fast import processes
from malt_fast.config import Config
from malt_fast.engines import Engine, Policy, SamplingParams
from malt_fast.errors import MaltError
from malt_fast.expand import Slot, expand
from malt_fast.forest import DONE, Forest
from malt_fast.grading import grade
from malt_fast.roles import Prompts, load_tokenizer
from malt_fast.tasks import Question, Task, load_task

Policies = dict[str, Policy]  # who answers for each role


@dataclass(frozen=True)
class Setup:
    """What every stage of a run shares."""

    config: Config
    task: Task
    prompts: Prompts

    def base(self) -> Policies:
        """Every role as its bare base model."""
        return {role: Policy(self.config.base_model(role)) for role in self.config.chain}

    def params(self, *, evaluating: bool = False) -> list[SamplingParams]:
        """Sampling parameters of each role, in chain order."""
        settings = [
            self.config.sampling_for(role, evaluating=evaluating) for role in self.config.chain
        ]
        return [
            SamplingParams(**s.model_dump(), stop_token_ids=self.prompts.end_ids) for s in settings
        ]


def load_setup(config: Config) -> Setup:
    """Load the task, the tokenizer and the prompts, and check that they fit the models."""
    check_device(config.model.device)
    task = load_task(config)
    name = config.base_model()
    tokenizer = load_tokenizer(name, config.model.chat_template)
    vocabulary = tokenizer.get_vocab()
    ends: list[int] = []  # roles read each other: a token that ends one's output ends all
    for base, role in {config.base_model(role): role for role in config.chain}.items():
        own = tokenizer if base == name else load_tokenizer(base)
        if own.get_vocab() != vocabulary:
            raise MaltError(
                f"model.roles.{role} = '{base}' has another tokenizer than '{name}', and roles "
                "pass tokens to each other: choose base models of one family"
            )
        ends += end_ids(base, own)
    prompts = Prompts(config.chain, task.prompts, tokenizer, chat=task.chat, extra_end_ids=ends)
    setup = Setup(config, task, prompts)
    check_lengths(setup)
    return setup


def check_device(device: str) -> None:
    """Raises MaltError for a device that this machine lacks."""
    import torch

    if device.startswith("cuda:") and processes.count() > 1:
        raise MaltError(
            f"model.device = '{device}' names one GPU for {processes.count()} processes: use auto"
        )
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise MaltError(f"model.device = '{device}', but there is no GPU here: use cpu or auto")


def check_loggers(report_to: list[str]) -> None:
    """Raises MaltError for a logger that is unknown or not installed."""
    from transformers.integrations import get_reporting_integration_callbacks

    alone = report_to[0] if report_to in (["none"], ["all"]) else report_to
    try:
        for logger in get_reporting_integration_callbacks(alone):
            # Made as Trainer will make it, which opens nothing yet. One that fails half-way must
            # not stumble over its own __del__, as MLflow's and Neptune's do.
            type(logger.__name__, (logger,), {"__del__": lambda self: None})()
    except Exception as error:  # each raises its own kind, saying what to install
        reason, _, fix = " ".join(str(error).split()).rstrip(".").partition(". ")
        fix = fix[:1].lower() + fix[1:] or "choose from these, or give --report_to none"
        raise MaltError(f"report_to = {report_to} is not possible ({reason}): {fix}") from None


def end_ids(model: str, tokenizer: Any) -> list[int]:
    """End tokens that the tokenizer and the model's generation config name, if they do."""
    from transformers import GenerationConfig

    try:
        ids = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:
        ids = None
    named = [tokenizer.eos_token_id, *(ids if isinstance(ids, list) else [ids])]
    return [i for i in named if i is not None]


def check_lengths(setup: Setup) -> None:
    """Raises MaltError for a question that leaves the first role no room to answer."""
    from malt_fast.adapters import load_config

    model = setup.config.base_model(setup.config.chain[0])
    config = load_config(model).get_text_config()
    context = getattr(config, "max_position_embeddings", None) or 1 << 62
    for question in [*setup.task.train, *setup.task.test]:
        length = len(setup.prompts.build(1, setup.prompts.encode_question(question.text), []))
        if length >= context:
            raise MaltError(
                f"question '{question.id}' makes a prompt of {length} tokens, but '{model}' reads "
                f"{context}: remove the question or choose a model with a longer context"
            )


@contextmanager
def open_engine(setup: Setup) -> Iterator[Engine]:
    """The engine that the config names, closed on the way out."""
    config = setup.config.engine
    engine: Engine
    if config.name == "replay":
        from malt_fast.engines.replay import ReplayEngine

        assert config.path is not None
        engine = ReplayEngine.from_jsonl(config.path, setup.prompts.tokenizer)
    else:
        from malt_fast.engines.hf import HFEngine

        engine = HFEngine(
            dtype=setup.config.model.dtype,
            device=setup.config.model.device,
            batch_size=config.batch_size,
        )
    try:
        yield engine
    finally:
        engine.close()


def sample(
    setup: Setup,
    questions: Sequence[Question],
    shape: Sequence[Slot],
    seed: str,
    *,
    evaluating: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Forest:
    """Sample a shape under every question."""
    params = setup.params(evaluating=evaluating)
    with open_engine(setup) as engine:
        return expand(questions, shape, setup.prompts, params, engine, seed, on_progress)


def grade_leaves(
    setup: Setup, forest: Forest, questions: Sequence[Question]
) -> npt.NDArray[np.bool_]:
    """Set the outcome of every finished output of the last role; returns the verdicts."""
    leaves = np.flatnonzero((forest.level == len(setup.config.chain)) & (forest.state == DONE))
    trees = forest.roots()[leaves] // (len(forest) // len(questions))
    texts = [setup.prompts.decode(forest.tokens_of(int(leaf))) for leaf in leaves]
    right = grade(setup.task.grader, texts, [questions[int(t)].gold for t in trees])
    forest.set_outcomes(leaves.astype(np.uint32), right.astype(np.uint8))
    return right
