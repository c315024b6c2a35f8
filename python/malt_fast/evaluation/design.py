"""What an evaluation samples, and which outputs each system uses."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from malt_fast._core.forest import Forest
from malt_fast.config.schema import Config
from malt_fast.engines import Policies
from malt_fast.evaluation.shape import Used, build_shape
from malt_fast.evaluation.systems import System, Training, paper_systems, pools, systems_of
from malt_fast.sampling.expand import Slot
from malt_fast.sampling.grade import grading_fingerprint
from malt_fast.sampling.sample import OnDone, fingerprint, sample
from malt_fast.sampling.setup import Setup
from malt_fast.store.store import Ints, Samples
from malt_fast.tasks.task import Question
from malt_fast.utils.errors import MaltError


@dataclass(frozen=True)
class EvaluationDesign:
    """What an evaluation samples, and which outputs each system uses."""

    questions: Sequence[Question]
    shape: list[Slot]  # sampled under every question
    systems: dict[str, tuple[System, Used]]  # by name, in the order of the tables
    pools: dict[str, tuple[System, Used]]  # of the curves


def design_evaluation(setup: Setup, policies: dict[Training, Policies]) -> EvaluationDesign:
    """Raises MaltError if there are no held-out questions."""
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
    shape, used = build_shape([*systems, *curves], setup.evaluation_prompts.numbers, policies)
    own = {system.name: (system, slots) for system, slots in zip(systems, used, strict=False)}
    of_curves = zip(curves, used[len(systems) :], strict=True)
    pooled = {system.name: (system, slots) for system, slots in of_curves}
    return EvaluationDesign(questions, shape, own, pooled)


def sampling_seed(config: Config) -> str:
    return f"{config.seed}/evaluate"


def sampling_fingerprint(setup: Setup, design: EvaluationDesign) -> str:
    """Hash of everything the sampled tokens depend on."""
    seed = sampling_seed(setup.config)
    return fingerprint(setup, design.questions, design.shape, seed, evaluating=True)


def evaluation_fingerprint(setup: Setup, design: EvaluationDesign) -> str:
    """Hash of everything evaluation.json depends on."""
    config = setup.config
    parts = [
        sampling_fingerprint(setup, design),
        grading_fingerprint(setup, design.questions),
        config.evaluate.model_dump_json(),
        config.seed,
        config.chain,
    ]
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def sample_systems(
    setup: Setup, samples: Samples, design: EvaluationDesign, on_done: OnDone | None = None
) -> tuple[Forest, Ints, dict[str, float]]:
    """The outputs of all systems to all questions, as `sample` returns them."""
    return sample(
        setup,
        samples,
        design.questions,
        design.shape,
        sampling_seed(setup.config),
        evaluating=True,
        on_done=on_done,
    )
