"""From a config to what sampling needs: task, prompts, engine; sampling and grading with them."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from malt_fast import processes
from malt_fast.config import Config
from malt_fast.engines import Policy, SamplingParams
from malt_fast.engines.adapter_files import content_name
from malt_fast.engines.choice import check_engine, context_of, open_engine
from malt_fast.errors import MaltError
from malt_fast.expand import Slot, answered, expand, reserve
from malt_fast.forest import DONE, Forest, load_forest, save_forest
from malt_fast.grade_report import report
from malt_fast.grading import RIGHT, grade_outputs
from malt_fast.roles import Prompts, load_tokenizer
from malt_fast.tasks import Question, Task, load_task
from malt_fast.wordings import Wordings

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


def load_setup(config: Config, *, questions: bool = True) -> Setup:
    """Load the task, the tokenizer and the prompts, and check that they fit the models.

    questions: whether to read the task's own; who answers others does without.
    """
    side_by_side = len(config.chain) if config.train.side_by_side else 1
    workers = max(processes.count(), config.engine.replicas, side_by_side)
    check_device(config.model.device, workers)
    task = load_task(config, questions=questions)
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
    check_engine(setup)
    return setup


def check_device(device: str, workers: int) -> None:
    """Raises MaltError for a device that this machine lacks."""
    import torch

    if device.startswith("cuda:") and workers > 1:
        raise MaltError(
            f"model.device = '{device}' names one GPU for {workers} processes: use auto"
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
    """Raises MaltError for a question that leaves some role no room to answer."""
    wordings, context = setup.wordings, context_of(setup)
    model, nothing = setup.config.base_model(setup.config.chain[0]), np.empty(0, np.int32)
    for question in [*setup.task.train, *setup.task.test]:
        tokens = wordings.encode_question(question.text)
        length = max(
            len(wordings.build(number, tokens, [nothing] * len(wordings.sources(number))))
            for number in wordings.numbers.values()
        )
        if length >= context:
            raise MaltError(
                f"question '{question.id}' makes a prompt of {length} tokens, but '{model}' reads "
                f"{context}: remove the question or choose a model with a longer context"
            )


def sample(
    setup: Setup,
    questions: Sequence[Question],
    shape: Sequence[Slot],
    seed: str,
    *,
    unfinished: Path,
    evaluating: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Forest, dict[str, float]]:
    """Sample a shape under every question; what the engine has to say about it.

    unfinished: a folder that takes what was sampled, in a file from which the same call goes on:
    when the engine fails, the user stops, or what comes after (grading, say) does, until
    `forget_unfinished`.
    """
    params = setup.params(evaluating=evaluating)
    levels = {slot.policy: slot.role for slot in shape}
    tokenizer = setup.prompts.fingerprint
    path = unfinished / f"unfinished-{_content(setup, questions, shape, params, seed)}.arrows"
    kept = path.is_file()
    forest = load_forest(path, tokenizer) if kept else reserve(len(questions), shape)
    with closing(open_engine(setup, levels, params)) as engine:
        try:
            expand(questions, shape, setup.wordings, params, engine, seed, on_progress, forest)
            return forest, engine.figures()
        finally:
            if answered(forest):
                save_forest(forest, path, tokenizer)


def forget_unfinished(folder: Path) -> None:
    """Delete what `sample` kept there, once the whole forest is in its place."""
    for path in folder.glob("unfinished-*.arrows"):
        path.unlink()


def _content(
    setup: Setup,
    questions: Sequence[Question],
    shape: Sequence[Slot],
    params: Sequence[SamplingParams],
    seed: str,
) -> str:
    """A name for all that the tokens of a forest depend on."""
    weights = {
        slot.policy: slot.policy.adapter and content_name(slot.policy.adapter) for slot in shape
    }
    parts = [
        setup.wordings.as_json(),
        seed,
        [(question.id, question.text) for question in questions],
        [(s.parent, s.role, s.path, s.reads, s.policy.base, weights[s.policy]) for s in shape],
        [asdict(p) for p in params],
    ]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()


def grade_leaves(setup: Setup, forest: Forest, questions: Sequence[Question]) -> dict[str, Any]:
    """Set the outcome of every finished output of the last role; a report of the verdicts."""
    leaves = np.flatnonzero((forest.level == len(setup.config.chain)) & (forest.state == DONE))
    trees = forest.roots()[leaves] // (len(forest) // len(questions))
    texts = [setup.prompts.decode(forest.tokens_of(int(leaf))) for leaf in leaves]
    asked, grader = [questions[int(tree)] for tree in trees], setup.task.grader
    verdicts = grade_outputs(grader, texts, asked, setup.config.task.min_score)
    forest.set_outcomes(leaves.astype(np.uint32), (verdicts == RIGHT).astype(np.uint8))
    return report(grader, texts, [question.gold for question in asked], verdicts)
