"""evaluation.json, typed: the figures of an evaluation and the settings they were measured with.

Shares are fractions of 1, and a `ci95` is the 95 % interval (low, high) of the figure beside it.
Systems are named as in systems.py.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from malt_fast.evaluation.statistics import Interval
from malt_fast.utils.files import read_checked, write_checked

Flip = Literal["wrong_to_right", "right_to_right", "wrong_to_wrong", "right_to_wrong"]
FLIPS: tuple[Flip, ...] = get_args(Flip)
EveryFlip = Field(min_length=len(FLIPS))


class Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Subsets(Figures):
    """Accuracy over the paper's random subsets of questions."""

    mean: float
    population_std: float
    sample_std: float


class SystemResult(Figures):
    name: str
    accuracy: float
    ci95: Interval
    n: int  # questions
    calls_per_question: float
    tokens_per_question: float  # sampled, without prompts
    training_sampled: int = 0  # tokens of the trees that its roles learned from
    training_tokens: int = 0  # that its roles were trained on, with prompts, in all passes
    turns: list[str] = []  # names of the prompts of a pass
    passes: list[list[int]] = []  # by pass and turn: a slot of outputs.py
    subsets: Subsets | None = None


class Difference(Figures):
    """Accuracy of `a` minus that of `b`, paired by question."""

    a: str
    b: str
    difference: float
    ci95: Interval
    p_value: float


class Turn(Figures):
    """The answers found in one role's outputs."""

    role: str
    answered: float  # share of questions for which any pass states an answer
    accuracy: float  # of the vote
    ci95: Interval


class Curve(Figures):
    """One entry for each number of votes k = 1, 2, ... taken from a pool of passes."""

    votes: list[int]
    calls: list[int]  # per question
    majority: list[float]  # maj@k
    majority_ci95: list[Interval]
    pass_at_k: list[float] = Field(validation_alias="pass", serialization_alias="pass")
    pass_ci95: list[Interval]


class Ablations(Figures):
    """Names of the systems in which some of the roles are trained."""

    untrained: dict[str, str] = {}  # by the one role without training
    present: dict[str, str] = {}  # by the initials of the roles in the chain: "G+V"


class Published(Figures):
    """The paper's figures for this model and task, in percent (paper.yaml)."""

    systems: dict[str, Annotated[list[float], Field(min_length=1, max_length=2)]]  # mean, std
    turns: dict[str, float] = {}
    flips: dict[Flip, float] = {}


class EvaluationResult(Figures):
    task: str
    seed: int
    suite: Literal["standard", "paper"] = "standard"
    malt: str  # name of the fully trained, voting system, which all others are compared with
    relative_gain: float | None  # of `malt` over SA; None where SA is never right
    systems: list[SystemResult]
    paired: list[Difference]  # `malt` minus each other system
    flips: dict[str, Annotated[dict[Flip, float], EveryFlip]]  # first to last answer of a pass
    flips_ci95: dict[str, Annotated[dict[Flip, Interval], EveryFlip]]
    turns: dict[str, list[Turn]]
    grading: dict[str, dict[str, Any]] = {}  # grading.report's figures by role
    published: Published | None = None
    ablations: Ablations = Ablations()
    curves: dict[str, Curve] = {}
    settings: dict[str, Any] = {}  # those that an evaluation may change, by dotted name
    made_from: str = ""  # design.evaluation_fingerprint
    sampled_from: str = ""  # design.sampling_fingerprint
    outputs: str = ""  # checksum of evaluation.jsonl

    def system(self, name: str) -> SystemResult:
        return {system.name: system for system in self.systems}[name]

    @property
    def accuracy(self) -> dict[str, float]:
        """The share of questions that each system answers correctly."""
        return {system.name: system.accuracy for system in self.systems}


def write_result(path: Path, result: EvaluationResult) -> None:
    write_checked(path, result.model_dump(mode="json", by_alias=True))


def read_result(path: Path) -> EvaluationResult:
    """Raises FileNotFoundError, and ValueError for a damaged file or one of another version."""
    return EvaluationResult.model_validate(read_checked(path))
