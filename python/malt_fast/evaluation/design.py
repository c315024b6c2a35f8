"""What an evaluation samples, and which system uses which part of it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from malt_fast.config.schema import Config
from malt_fast.engines import Policies
from malt_fast.evaluation.paper import paper_figures
from malt_fast.evaluation.scores import judge, summarise
from malt_fast.evaluation.systems import (
    System,
    Training,
    Used,
    build_shape,
    paper_systems,
    pools,
    systems_of,
)
from malt_fast.forest.forest import Forest
from malt_fast.sampling.expand import Slot
from malt_fast.sampling.grade import grading_fingerprint
from malt_fast.sampling.sample import OnDone, fingerprint, sample
from malt_fast.sampling.setup import Setup
from malt_fast.store.store import Ints, Samples
from malt_fast.tasks.task import Question
from malt_fast.utils.errors import MaltError


@dataclass(frozen=True)
class Compared:
    """What an evaluation samples, and who uses which part of it."""

    questions: Sequence[Question]
    systems: list[System]
    pools: list[System]  # of the curves
    shape: list[Slot]
    slots: list[Used]  # of systems, then of pools


def compare(setup: Setup, policies: dict[Training, Policies]) -> Compared:
    """Raises MaltError where there is nothing to ask."""
    config = setup.config
    questions = setup.task.test[: config.evaluate.limit]
    if not questions:
        raise MaltError(
            "there are no held-out questions to evaluate on: give --task.test_path FILE.jsonl"
        )
    chain, votes, rounds = config.chain, config.evaluate.votes, config.train.rounds
    systems, curves = systems_of(chain, votes, rounds), []
    if config.evaluate.suite == "paper":
        systems = paper_systems(chain, votes, list(setup.task.extra), rounds)
        curves = pools(chain, config.evaluate.calls)
    shape, slots = build_shape([*systems, *curves], setup.evaluation_prompts.numbers, policies)
    return Compared(questions, systems, curves, shape, slots)


def _seed(config: Config) -> str:
    return f"{config.seed}/evaluate"


def evaluation_fingerprint(setup: Setup, compared: Compared) -> str:
    """Of all that evaluation.json depends on."""
    config, questions = setup.config, compared.questions
    parts = [
        fingerprint(setup, questions, compared.shape, _seed(config), evaluating=True),
        grading_fingerprint(setup, questions),
        config.evaluate.model_dump_json(),
        config.seed,
        config.chain,
    ]
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def sample_systems(
    setup: Setup, samples: Samples, compared: Compared, on_done: OnDone | None = None
) -> tuple[Forest, Ints, dict[str, float]]:
    """The outputs of all systems to all questions."""
    return sample(
        setup,
        samples,
        compared.questions,
        compared.shape,
        _seed(setup.config),
        evaluating=True,
        on_done=on_done,
    )


def measure(setup: Setup, compared: Compared, forest: Forest) -> dict[str, Any]:
    """What evaluation.json says of the outputs of `sample_systems`."""
    config, questions, systems = setup.config, compared.questions, compared.systems
    used, pooled = compared.slots[: len(systems)], compared.slots[len(systems) :]
    graded = (setup.task.grader, config.task.min_score)
    judged = judge(forest, compared.shape, questions, setup.prompts.decode, *graded)
    result = summarise(judged, systems, used, questions, config) | {"task": setup.task.name}
    names = setup.evaluation_prompts.names
    result["grading"] = {names[n - 1]: told for n, told in judged.grading.items()}
    if config.evaluate.suite == "paper":
        curves, extra = list(zip(compared.pools, pooled, strict=True)), list(setup.task.extra)
        result = paper_figures(result, judged, systems, used, curves, questions, config, extra)
    return result
