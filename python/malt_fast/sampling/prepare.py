"""Makes a set-up from a config, and checks that its parts fit together."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from malt_fast.config.requirements import check_requirements
from malt_fast.config.schema import Config
from malt_fast.models.context import context_length, context_setting
from malt_fast.models.end_tokens import end_tokens
from malt_fast.models.loading import check_base
from malt_fast.models.plain_text import most_tokens
from malt_fast.models.tokenizer import load_tokenizer
from malt_fast.runs.directory import check_folder
from malt_fast.runs.loggers import loggers_of
from malt_fast.runs.run import Run, open_run
from malt_fast.sampling.engine_choice import check_engine, check_installed, choose
from malt_fast.sampling.prompt_texts import prompt_texts
from malt_fast.sampling.setup import Setup, base_configs, questions_file
from malt_fast.sampling.warm_data import warm_data
from malt_fast.sampling.waves import check_budget
from malt_fast.tasks.load import load_task
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.rows import check_paths
from malt_fast.tasks.task import Task
from malt_fast.utils import distributed
from malt_fast.utils.environment import environment
from malt_fast.utils.errors import MaltError


def prepare(config: Config) -> Setup:
    """The set-up of a training run. Raises MaltError for any mistake, before a folder is made."""
    loggers_of(config.report_to)
    check_requirements(config)
    if config.run is not None and distributed.is_leader():
        check_folder(config.run)
    setup = load_setup(config)
    check_budget(config, len(setup.task.train))
    if config.train.use_liger_kernel:
        from malt_fast.models.liger import check_liger  # imports torch

        for base, model_config in base_configs(setup).items():
            check_liger(base, model_config, config.model.device)
    return replace(setup, demonstrations=warm_data(setup))


@contextmanager
def start_run(setup: Setup) -> Iterator[Run]:
    """The run directory of a set-up, with everything written there that its results start from."""
    with open_run(setup.config, "train") as run:
        run.note("questions.jsonl", questions_file(setup))
        run.note("prompts.json", setup.prompts.as_json().encode())
        run.note("prompts.txt", prompt_texts(setup).encode())
        sizes = {"train": len(setup.task.train), "held_out": len(setup.task.test)}
        run.log("questions", **sizes, odd=setup.task.report)
        run.say(f"questions: {sizes['train']:,} to train on, {sizes['held_out']:,} held out")
        run.note("environment.json", f"{json.dumps(environment(), indent=2)}\n".encode())
        run.say("engine: {} ({})".format(*choose(setup.config)))
        for join in setup.evaluation_prompts.joined():
            run.warn(join)
        yield run


def load_setup(config: Config, *, questions: bool = True, task: Task | None = None) -> Setup:
    """Load the task, the tokenizer and the prompts, and check that they fit the models.

    questions: whether to read the task's questions. task: used instead of the config's task.
    """
    check_installed(config)
    if questions and task is None:
        check_paths(config.task)
    for base in dict.fromkeys(map(config.base_model, config.chain)):
        check_base(base)
    side_by_side = len(config.chain) if config.train.side_by_side else 1
    workers = max(distributed.process_count(), config.engine.replicas, side_by_side)
    check_device(config.model.device, workers)
    task = task or load_task(config, questions=questions)
    prompts = load_prompts(config, task)
    setup = Setup(config, task, prompts)
    check_lengths(setup)
    check_engine(setup)
    return setup


def load_prompts(config: Config, task: Task) -> Prompts:
    """The prompts of the chain. Raises MaltError if its base models have different tokenizers."""
    model, name = config.model, config.base_model()
    trusted = model.trust_remote_code
    tokenizer = load_tokenizer(name, model.chat_template, trusted)
    vocabulary = tokenizer.get_vocab()
    ends: list[int] = []  # roles read each other: the end token of one ends the output of all
    for base, role in {config.base_model(role): role for role in config.chain}.items():
        own = tokenizer if base == name else load_tokenizer(base, None, trusted)
        if own.get_vocab() != vocabulary:
            raise MaltError(
                f"model.roles.{role} = '{base}' has another tokenizer than '{name}', and roles "
                "pass tokens to each other: choose base models of one family"
            )
        ends += end_tokens(base, own, trusted)
    return Prompts(
        config.chain,
        task.prompts,
        tokenizer,
        chat=task.chat,
        extra_end_ids=ends,
        template_arguments=model.template_arguments,
        pass_thinking=model.pass_thinking,
    )


def check_device(device: str, workers: int) -> None:
    """Raises MaltError for a device that this machine does not have."""
    if not device.startswith("cuda"):
        return
    import torch  # slow, and a mistake should be told at once

    if device.startswith("cuda:") and workers > 1:
        raise MaltError(
            f"model.device = '{device}' names one GPU for {workers} processes: use auto"
        )
    if not torch.cuda.is_available():
        raise MaltError(f"model.device = '{device}', but there is no GPU here: use cpu or auto")


def check_lengths(setup: Setup) -> None:
    """Raises MaltError for prompts that leave no room to answer, or hold unknown tokens."""
    configs = base_configs(setup)
    short = min(configs, key=lambda base: context_length(configs[base]))
    small = min(configs, key=lambda base: configs[base].get_text_config().vocab_size)
    context, known = context_length(configs[short]), configs[small].get_text_config().vocab_size
    if (end := min(setup.prompts.end_ids)) >= known:
        raise MaltError(
            f"the end token {end} is beyond the {known} tokens that '{small}' knows, so no output "
            "would end: give the tokenizer that belongs to the model"
        )
    tokenizer, prompts = setup.prompts.tokenizer, setup.evaluation_prompts
    nothing = np.empty(0, np.int32)
    around = [  # a question is in each of them once
        prompts.build(number, nothing, [nothing] * len(prompts.sources(number)))
        for number in prompts.numbers.values()
    ]
    questions, longest = [*setup.task.train, *setup.task.test], max(map(len, around))
    if max(tokenizer.get_vocab().values()) < known:  # then only lengths matter
        questions = [q for q in questions if longest + most_tokens(q.text) >= context]
    texts = (question.text for question in questions)
    for question, tokens in zip(questions, prompts.encode_questions(texts), strict=True):
        if (length := longest + len(tokens)) >= context:
            raise MaltError(
                f"question '{question.id}' makes a prompt of {length} tokens, but '{short}' reads "
                f"{context} ({context_setting(configs[short])} in its config.json): remove the "
                "question or choose a model with a longer context"
            )
        if (top := int(max(part.max(initial=0) for part in [tokens, *around]))) >= known:
            name = tokenizer.convert_ids_to_tokens(top)
            raise MaltError(
                f"the prompts hold the token {name!r} ({top}), but '{small}' knows {known} tokens: "
                "give the tokenizer that belongs to the model"
            )
