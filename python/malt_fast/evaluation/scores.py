"""From sampled outputs to figures: extract and grade, vote, score, compare, follow the turns.

Everything here works on one evaluation's forest; a question's outputs stand in a row, one column a
slot of the shape. An output that failed has no answer, and no answer is not right.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from malt_fast.config.schema import Config
from malt_fast.evaluation.statistics import (
    Interval,
    mcnemar,
    paired_bootstrap,
    wilson,
)
from malt_fast.evaluation.systems import System, Used, steps_of
from malt_fast.forest.forest import Forest
from malt_fast.grading.report import report
from malt_fast.grading.verdicts import RIGHT, grade_outputs, number_answers
from malt_fast.sampling.expand import Slot, slot_nodes
from malt_fast.tasks.task import Question

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Score:
    name: str
    accuracy: float
    ci95: Interval
    n: int
    calls_per_question: float
    tokens_per_question: float  # sampled ones


@dataclass(frozen=True, slots=True)
class Difference:
    """Accuracy of a minus that of b on the same questions."""

    a: str
    b: str
    difference: float
    ci95: Interval
    p_value: float


@dataclass(frozen=True, slots=True)
class Judged:
    """What every output says: [questions, slots]."""

    answers: npt.NDArray[np.int64]  # equal numbers in a row: equal answers; -1: none
    right: Bools
    tokens: npt.NDArray[np.int64]
    grading: dict[int, dict[str, Any]] = field(default_factory=dict)  # report of each wording


def judge(
    forest: Forest,
    shape: Sequence[Slot],
    questions: Sequence[Question],
    decode: Callable[[Any], str],
    grader: str,
    min_score: float = 0.5,
) -> Judged:
    """Extract and grade the answer of every output, whatever its role.

    min_score: from which an output is right, for a grader of one's own.
    """
    nodes = slot_nodes(forest, shape)
    rows, columns = np.nonzero(nodes >= 0)
    ids = nodes[rows, columns]
    texts = [decode(forest.tokens_of(int(i))) for i in ids]
    cases = dict.fromkeys(zip(texts, rows.tolist(), strict=True))  # each is graded once
    asked = [questions[q] for _, q in cases]
    graded = grade_outputs(
        grader,
        [text for text, _ in cases],
        [question.gold for question in asked],
        [question.row for question in asked],
        min_score,
    )
    verdict = dict(zip(cases, graded.tolist(), strict=True))
    told = np.array([verdict[case] for case in zip(texts, rows.tolist(), strict=True)], np.uint8)
    right = np.zeros(nodes.shape, np.bool_)
    right[rows, columns] = told == RIGHT
    tokens = np.zeros(nodes.shape, np.int64)
    tokens[rows, columns] = forest.token_len[ids]
    said: list[list[str | None]] = [[None] * len(shape) for _ in questions]
    for q, slot, text in zip(rows, columns, texts, strict=True):
        said[q][slot] = text
    role = np.array([slot.role for slot in shape])[columns]
    golds = [questions[q].gold for q in rows]
    grading = {}
    for number in np.unique(role).tolist():
        mine = np.flatnonzero(role == number)
        own, own_golds = [texts[i] for i in mine], [golds[i] for i in mine]
        grading[number] = report(grader, own, own_golds, told[mine]).figures()
    return Judged(number_answers(grader, said), right, tokens, grading)


def vote(answers: Sequence[int], rng: random.Random | None = None) -> int:
    """Index of the first answer that most agree with, -1 if there is none; a -1 does not vote.

    Of tied answers the first seen wins, or one drawn by `rng`.
    """
    counts = Counter(answer for answer in answers if answer >= 0)
    if not counts:
        return -1
    most = max(counts.values())
    tied = [answer for answer, n in counts.items() if n == most]
    return answers.index(rng.choice(tied) if rng else tied[0])


def verdicts(
    judged: Judged, used: Used, questions: Sequence[Question], tie_seed: int | None = None
) -> Bools:
    """bool[questions]: is a system's voted answer right?

    Of tied answers the first seen wins, or one drawn by a hash of `tie_seed` and the question.
    """
    last = used[:, -1]
    right = np.zeros(len(questions), np.bool_)
    for q, question in enumerate(questions):
        rng = None if tie_seed is None else random.Random(f"{tie_seed}/{question.id}")
        winner = vote(judged.answers[q, last].tolist(), rng)
        right[q] = winner >= 0 and judged.right[q, last[winner]]
    return right


def score(name: str, right: Bools, used: Used, judged: Judged) -> Score:
    n = len(right)
    return Score(
        name=name,
        accuracy=float(right.mean()),
        ci95=wilson(int(right.sum()), n),
        n=n,
        calls_per_question=float(used.size),
        tokens_per_question=float(judged.tokens[:, used.ravel()].sum() / n),
    )


def compare(a: str, b: str, right: dict[str, Bools], *, resamples: int, seed: int) -> Difference:
    return Difference(
        a=a,
        b=b,
        difference=float(right[a].mean() - right[b].mean()),
        ci95=paired_bootstrap(right[a], right[b], resamples=resamples, seed=seed),
        p_value=mcnemar(right[a], right[b]),
    )


def flips(before: Bools, after: Bools) -> dict[str, float]:
    """Shares of questions that are right before and after, or not."""
    return {
        "wrong_to_right": float(np.mean(~before & after)),
        "right_to_right": float(np.mean(before & after)),
        "wrong_to_wrong": float(np.mean(~before & ~after)),
        "right_to_wrong": float(np.mean(before & ~after)),
    }


def flip_figures(before: Bools, after: Bools) -> tuple[dict[str, float], dict[str, Interval]]:
    """`flips`, and their intervals."""
    shares, n = flips(before, after), len(before)
    return shares, {name: wilson(round(share * n), n) for name, share in shares.items()}


def turns(
    judged: Judged,
    used: Used,
    chain: Sequence[str],
    questions: Sequence[Question],
    config: Config,
) -> list[dict[str, Any]]:
    """After each role's turn: the share of questions with an answer, and of right (voted) ones."""
    figures = []
    for step, role in enumerate(chain, 1):
        right = verdicts(judged, used[:, :step], questions, tie_seed(config))
        answered = (judged.answers[:, used[:, step - 1]] >= 0).any(1)
        figures.append(
            {
                "role": role,
                "answered": float(answered.mean()),
                "accuracy": float(right.mean()),
                "ci95": wilson(int(right.sum()), len(right)),
            }
        )
    return figures


def tie_seed(config: Config) -> int | None:
    return config.seed if config.evaluate.tie_break == "random" else None


def right_answers(
    judged: Judged,
    systems: Sequence[System],
    used: Sequence[Used],
    questions: Sequence[Question],
    config: Config,
) -> dict[str, Bools]:
    """Of each system: which questions its vote gets right."""
    return {
        system.name: verdicts(judged, slots, questions, tie_seed(config))
        for system, slots in zip(systems, used, strict=True)
    }


def summarise(
    judged: Judged,
    systems: Sequence[System],
    used: Sequence[Used],
    questions: Sequence[Question],
    config: Config,
) -> dict[str, Any]:
    """What evaluation.json holds; MALT with voting is compared with every other system."""
    settings, chain = config.evaluate, tuple(config.chain)
    slots = {system.name: slots for system, slots in zip(systems, used, strict=True)}
    right = right_answers(judged, systems, used, questions, config)
    final = steps_of(chain, "final")
    malt = next(s.name for s in systems if (s.steps, s.votes) == (final, settings.votes))
    whole = [s for s in systems if tuple(step.wording for step in s.steps) == chain]
    single = [system.name for system in whole if system.votes == 1 < len(chain)]
    random_state = {"resamples": settings.bootstrap, "seed": config.seed}
    paired = [compare(malt, name, right, **random_state) for name in right if name != malt]
    alone, best = float(right["SA"].mean()), float(right[malt].mean())
    moved = {
        name: flip_figures(judged.right[:, slots[name][0, 0]], judged.right[:, slots[name][0, -1]])
        for name in single
    }
    return {
        "task": config.task.name,
        "seed": config.seed,
        "relative_gain": best / alone - 1 if alone else None,
        "systems": [asdict(score(name, right[name], u, judged)) for name, u in slots.items()],
        "paired": [asdict(difference) for difference in paired],
        "flips": {name: shares for name, (shares, _) in moved.items()},
        "flips_ci95": {name: intervals for name, (_, intervals) in moved.items()},
        "turns": {name: turns(judged, slots[name], chain, questions, config) for name in single},
    }
