"""From a config to what sampling needs: task, prompts, engine; sampling and grading with them."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from malt_fast import __version__, interrupt, processes
from malt_fast.config import Config
from malt_fast.engines import Completion, Engine, Policy, SamplingParams
from malt_fast.engines.choice import check_engine, context_of, open_engine
from malt_fast.engines.stored import StoredEngine
from malt_fast.errors import MaltError
from malt_fast.expand import Slot, grow
from malt_fast.forest import DONE, Forest, build_forest
from malt_fast.grade_report import GradeReport, report
from malt_fast.grading import RIGHT, code_of, grade_outputs, is_custom
from malt_fast.identity import adapter_identity, content, model_identity
from malt_fast.roles import Prompts, load_tokenizer
from malt_fast.store import Ints, Store
from malt_fast.tasks import Question, Task, load_task
from malt_fast.wordings import Wordings

GRADED = 1 << 16  # outputs whose texts are in memory at once

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


def load_setup(config: Config, *, questions: bool = True, task: Task | None = None) -> Setup:
    """Load the task, the tokenizer and the prompts, and check that they fit the models.

    questions: whether to read the task's own; who answers others does without. task: one that is
    made already, instead of that which the config names.
    """
    side_by_side = len(config.chain) if config.train.side_by_side else 1
    workers = max(processes.count(), config.engine.replicas, side_by_side)
    check_device(config.model.device, workers)
    task = task or load_task(config, questions=questions)
    prompts = load_prompts(config, task)
    setup = Setup(config, task, prompts)
    check_lengths(setup)
    check_engine(setup)
    return setup


def load_prompts(config: Config, task: Task) -> Prompts:
    """The tokenizer, and the prompts of the chain. Raises MaltError if models have several."""
    name = config.base_model()
    trusted = config.model.trust_remote_code
    tokenizer = load_tokenizer(name, config.model.chat_template, trusted)
    vocabulary = tokenizer.get_vocab()
    ends: list[int] = []  # roles read each other: a token that ends one's output ends all
    for base, role in {config.base_model(role): role for role in config.chain}.items():
        own = tokenizer if base == name else load_tokenizer(base, None, trusted)
        if own.get_vocab() != vocabulary:
            raise MaltError(
                f"model.roles.{role} = '{base}' has another tokenizer than '{name}', and roles "
                "pass tokens to each other: choose base models of one family"
            )
        ends += end_ids(base, own)
    return Prompts(config.chain, task.prompts, tokenizer, chat=task.chat, extra_end_ids=ends)


def check_device(device: str, workers: int) -> None:
    """Raises MaltError for a device that this machine lacks."""
    import torch

    if device.startswith("cuda:") and workers > 1:
        raise MaltError(
            f"model.device = '{device}' names one GPU for {workers} processes: use auto"
        )
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise MaltError(f"model.device = '{device}', but there is no GPU here: use cpu or auto")


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


# Given what was settled since the last time: completions, and all nodes that failed.
OnDone = Callable[[list[Completion], list[int], Engine], None]


@dataclass(frozen=True, slots=True)
class Samples:
    """The store of a run, and those of other runs to take from."""

    store: Store
    others: Sequence[Store] = ()


def sample(
    setup: Setup,
    samples: Samples,
    questions: Sequence[Question],
    shape: Sequence[Slot],
    seed: str,
    *,
    evaluating: bool = False,
    on_done: OnDone | None = None,
) -> tuple[Forest, Ints, dict[str, float]]:
    """Sample a shape under every question, nothing that is known already.

    Returns the forest, the store's row of every node (-1: none), and what the engine has to say.
    Outputs are in the store as they come, so that the same call goes on after whatever stops it.
    Raises MaltError when the engine cannot go on, KeyboardInterrupt when a stop was asked for.
    """
    params, store = setup.params(evaluating=evaluating), samples.store
    policies = {slot.policy: slot.role for slot in shape}
    with row_map(store, len(questions) * (1 + len(shape))) as rows:
        engine = StoredEngine(
            store,
            samples.others,
            lambda: open_engine(setup, policies, params),
            identify(setup.config),
            setup.prompts.fingerprint,
            rows,
        )
        try:
            with closing(engine):
                for settled in grow(questions, shape, setup.wordings, params, engine, seed):
                    if any(settled) and on_done is not None:
                        on_done(*settled, engine)
                    interrupt.check()
                figures = engine.figures()
        except MaltError:
            interrupt.check()  # engines in other processes hear of it first
            raise
        finally:
            store.commit_all()
        parents = [slot.parent for slot in shape]
        forest = build_forest(parents, len(questions), rows, store)
        if forest is None:
            raise MaltError(
                f"{store.folder} does not give back what was written to it: check the disk"
            )
        return forest, np.array(rows), figures


@contextmanager
def row_map(store: Store, nodes: int) -> Iterator[Ints]:
    """int64[nodes] of -1, in a file without a name: it takes no memory that others need."""
    with TemporaryFile(dir=store.folder) as file:
        try:  # a full disk is told here, and not by a signal at the first write
            os.posix_fallocate(file.fileno(), 0, 8 * max(nodes, 1))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(store.folder)) from None
        rows = np.memmap(file, np.int64, "w+", shape=(max(nodes, 1),))[:nodes]
        rows[:] = -1
        yield rows


def identify(config: Config) -> Callable[[Policy], str]:
    """What tells the weights of a policy from any others, recordings being such weights."""
    if config.engine.name == "replay":
        assert config.engine.path is not None
        recorded = f"recorded {content(config.engine.path)}"
        return lambda policy: recorded
    dtype = config.model.dtype
    return cache(
        lambda policy: (
            f"{model_identity(policy.base)} {dtype} {adapter_identity(policy.adapter)}".strip()
        )
    )


def fingerprint(
    setup: Setup,
    questions: Sequence[Question],
    shape: Sequence[Slot],
    seed: str,
    *,
    evaluating: bool = False,
) -> str:
    """Of all that the tokens of a forest depend on."""
    weights = identify(setup.config)
    wordings = setup.wordings if evaluating else setup.prompts
    parts = [
        wordings.as_json(),
        setup.prompts.fingerprint,
        seed,
        [(question.id, question.text) for question in questions],
        [(s.parent, s.role, s.path, s.reads, weights(s.policy)) for s in shape],
        [asdict(p) for p in setup.params(evaluating=evaluating)],
    ]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def grading_fingerprint(setup: Setup, questions: Sequence[Question]) -> str:
    """Of what outcomes depend on beside the samples."""
    grader = setup.task.grader
    parts = [
        __version__,
        code_of(grader) if is_custom(grader) else grader,
        setup.config.task.min_score,
        [(question.gold, question.row) for question in questions],
    ]
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def grade_leaves(setup: Setup, forest: Forest, questions: Sequence[Question]) -> dict[str, Any]:
    """Set the outcome of every finished output of the last role; a report of the verdicts."""
    leaves = np.flatnonzero((forest.level == len(setup.config.chain)) & (forest.state == DONE))
    trees = forest.roots()[leaves] // (len(forest) // max(1, len(questions)))
    total = GradeReport(setup.task.grader)
    for begin in range(0, len(leaves), GRADED):
        some = leaves[begin : begin + GRADED]
        texts = [setup.prompts.decode(forest.tokens_of(int(leaf))) for leaf in some]
        asked = [questions[int(tree)] for tree in trees[begin : begin + GRADED]]
        verdicts = grade_outputs(setup.task.grader, texts, asked, setup.config.task.min_score)
        forest.set_outcomes(some.astype(np.uint32), (verdicts == RIGHT).astype(np.uint8))
        golds = [question.gold for question in asked]
        total += report(setup.task.grader, texts, golds, verdicts)
        interrupt.check()
    return total.figures()
