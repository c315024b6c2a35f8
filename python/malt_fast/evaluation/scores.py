"""From judged outputs to figures: majority votes and ties, accuracies, paired differences."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from malt_fast.config.schema import Config
from malt_fast.evaluation.design import EvaluationDesign
from malt_fast.evaluation.judge import Bools, Ints, Judged
from malt_fast.evaluation.result import Difference, EvaluationResult, Flip, SystemResult, Turn
from malt_fast.evaluation.shape import Used
from malt_fast.evaluation.statistics import Interval, mcnemar, paired_bootstrap, wilson
from malt_fast.evaluation.systems import System, steps_of
from malt_fast.tasks.task import Question


def vote(answers: Sequence[int], rng: random.Random | None = None) -> int:
    """Index of the first output with the most frequent answer; -1 if no output has an answer.

    answers: equal numbers are equal answers, -1 is none. Of tied answers the first seen wins, or
    one drawn by `rng`.
    """
    counts = Counter(answer for answer in answers if answer >= 0)
    if not counts:
        return -1
    most = max(counts.values())
    tied = [answer for answer, n in counts.items() if n == most]
    return answers.index(rng.choice(tied) if rng else tied[0])


def voted(
    judged: Judged, used: Used, questions: Sequence[Question], tie_seed: int | None = None
) -> Ints:
    """int[questions]: the slot of the first output with a system's voted answer, -1 for no answer.

    tie_seed: draw among tied answers by a hash of it and the question; None: the first seen wins.
    """
    last = used[:, -1]
    won = np.full(len(questions), -1, np.int64)
    for q, question in enumerate(questions):
        rng = None if tie_seed is None else random.Random(f"{tie_seed}/{question.id}")
        winner = vote(judged.answers[q, last].tolist(), rng)
        if winner >= 0:
            won[q] = last[winner]
    return won


def voted_right(
    judged: Judged, used: Used, questions: Sequence[Question], tie_seed: int | None = None
) -> Bools:
    """bool[questions]: is a system's voted answer right? Arguments are as of `voted`."""
    won = voted(judged, used, questions, tie_seed)
    right: Bools = (won >= 0) & judged.right[np.arange(len(won)), won]
    return right


def tie_seed(config: Config) -> int | None:
    return config.seed if config.evaluate.tie_break == "random" else None


def all_voted_right(judged: Judged, design: EvaluationDesign, config: Config) -> dict[str, Bools]:
    """`voted_right` of every system, by its name."""
    return {
        name: voted_right(judged, used, design.questions, tie_seed(config))
        for name, (_, used) in design.systems.items()
    }


def score(system: System, right: Bools, used: Used, judged: Judged) -> SystemResult:
    n = len(right)
    return SystemResult(
        name=system.name,
        accuracy=float(right.mean()),
        ci95=wilson(int(right.sum()), n),
        n=n,
        calls_per_question=float(used.size),
        tokens_per_question=float(judged.tokens[:, used.ravel()].sum() / n),
        turns=[step.prompt for step in system.steps],
        passes=used.tolist(),
    )


def paired_difference(
    a: str, b: str, right: dict[str, Bools], *, resamples: int, seed: int
) -> Difference:
    return Difference(
        a=a,
        b=b,
        difference=float(right[a].mean() - right[b].mean()),
        ci95=paired_bootstrap(right[a], right[b], resamples=resamples, seed=seed),
        p_value=mcnemar(right[a], right[b]),
    )


def flips(before: Bools, after: Bools) -> tuple[dict[Flip, float], dict[Flip, Interval]]:
    """Shares of questions by whether they are right before and after, and their intervals."""
    counts: dict[Flip, Any] = {
        "wrong_to_right": np.sum(~before & after),
        "right_to_right": np.sum(before & after),
        "wrong_to_wrong": np.sum(~before & ~after),
        "right_to_wrong": np.sum(before & ~after),
    }
    n = len(before)
    shares: dict[Flip, float] = {flip: float(count / n) for flip, count in counts.items()}
    return shares, {flip: wilson(int(count), n) for flip, count in counts.items()}


def turns(judged: Judged, used: Used, questions: Sequence[Question], config: Config) -> list[Turn]:
    """Accuracy of the votes after each role's turn, from the answers in that role's outputs."""
    figures = []
    for step, role in enumerate(config.chain):
        right = voted_right(judged, used[:, : step + 1], questions, tie_seed(config))
        answered = (judged.answers[:, used[:, step]] >= 0).any(1)
        figures.append(
            Turn(
                role=role,
                answered=float(answered.mean()),
                accuracy=float(right.mean()),
                ci95=wilson(int(right.sum()), len(right)),
            )
        )
    return figures


def summarise(judged: Judged, design: EvaluationDesign, config: Config) -> EvaluationResult:
    """The figures of either suite: MALT with votes against every other system."""
    settings, chain, systems = config.evaluate, tuple(config.chain), design.systems
    right = all_voted_right(judged, design, config)
    final = (steps_of(chain, "final"), settings.votes)
    malt = next(name for name, (s, _) in systems.items() if (s.steps, s.votes) == final)
    random_state = {"resamples": settings.bootstrap, "seed": config.seed}
    alone, best = float(right["SA"].mean()), float(right[malt].mean())
    passes = {  # single passes of the whole chain
        name: used
        for name, (system, used) in systems.items()
        if system.votes == 1 < len(chain) and tuple(step.prompt for step in system.steps) == chain
    }
    moved = {
        name: flips(judged.right[:, used[0, 0]], judged.right[:, used[0, -1]])
        for name, used in passes.items()
    }
    return EvaluationResult(
        task=config.task.name,
        seed=config.seed,
        malt=malt,
        relative_gain=best / alone - 1 if alone else None,
        systems=[score(s, right[n], used, judged) for n, (s, used) in systems.items()],
        paired=[paired_difference(malt, n, right, **random_state) for n in right if n != malt],
        flips={name: shares for name, (shares, _) in moved.items()},
        flips_ci95={name: intervals for name, (_, intervals) in moved.items()},
        turns={n: turns(judged, used, design.questions, config) for n, used in passes.items()},
    )
