"""What the suite `paper` adds: the paper's protocol, tables and curves, from the same outputs.

The published figures of paper.yaml are added where model, task, chain and votes are the paper's.
"""

from pathlib import PurePath
from typing import Any

import numpy as np

from malt_fast.config.schema import PACKAGE, Config, EvaluateConfig
from malt_fast.config.yaml_files import read_yaml
from malt_fast.evaluation.curves import majority_at_k, pass_at_k
from malt_fast.evaluation.design import EvaluationDesign
from malt_fast.evaluation.judge import Bools, Judged
from malt_fast.evaluation.result import Ablations, Curve, EvaluationResult, Published, Subsets
from malt_fast.evaluation.scores import all_voted_right, flips, turns
from malt_fast.evaluation.shape import Used
from malt_fast.evaluation.statistics import bootstrap_means
from malt_fast.evaluation.systems import System, steps_of

SUBSETS, SIZE = 4, 100  # random subsets of test questions


def published(config: Config) -> Published | None:
    """The paper's figures for this model on this task, if it has any."""
    usual = (Config.model_fields["chain"].default, EvaluateConfig.model_fields["votes"].default)
    if config.model.roles or (config.chain, config.evaluate.votes) != usual:
        return None
    model = PurePath(config.model.name_or_path).name.removeprefix("Meta-")  # its older name
    tables = read_yaml(PACKAGE / "evaluation" / "paper.yaml").get(model, {})
    figures = tables.get(config.task.name)
    return Published.model_validate(figures) if figures else None


def subset_figures(right: Bools, seed: int) -> Subsets | None:
    """Accuracy on four random subsets of 100 questions; None if there are fewer questions."""
    if len(right) < SIZE:
        return None
    draws = [np.random.default_rng([seed, i]) for i in range(SUBSETS)]
    means = [right[rng.choice(len(right), SIZE, replace=False)].mean() for rng in draws]
    return Subsets(
        mean=float(np.mean(means)),
        population_std=float(np.std(means)),
        sample_std=float(np.std(means, ddof=1)),
    )


def paper_figures(
    result: EvaluationResult, judged: Judged, design: EvaluationDesign, config: Config
) -> EvaluationResult:
    """The `result` of scores.summarise with the figures of the suite `paper`."""
    chain, votes, malt = config.chain, config.evaluate.votes, result.malt
    right = all_voted_right(judged, design, config)
    moved = f"SA -> {malt}"
    shares, intervals = flips(right["SA"], right[malt])
    whole = [steps_of(chain, "base"), steps_of(chain, "sft"), steps_of(chain, "final")]
    voted = {
        name: turns(judged, used, design.questions, config)
        for name, (system, used) in design.systems.items()
        if system.steps in whole and system.votes == votes
    }
    systems = [
        system.model_copy(update={"subsets": subset_figures(right[system.name], config.seed)})
        for system in result.systems
    ]
    curves = {name: curve(judged, *pool, config) for name, pool in design.pools.items()}
    added: dict[str, Any] = {
        "suite": "paper",
        "systems": systems,
        "published": published(config),
        "flips": result.flips | {moved: shares},
        "flips_ci95": result.flips_ci95 | {moved: intervals},
        "turns": result.turns | voted,
        "ablations": ablations(design, malt, votes),
        "curves": curves,
    }
    return result.model_copy(update=added)


def ablations(design: EvaluationDesign, malt: str, votes: int) -> Ablations:
    """The voting systems with an untrained role, and those with some roles; `malt` comes last."""
    systems = [system for system, _ in design.systems.values()]
    partial = [system for system in systems if system.present and system.votes == votes]
    partial.sort(key=lambda system: system.name == malt)
    return Ablations(
        untrained={system.untrained: system.name for system in systems if system.untrained},
        present={system.present: system.name for system in partial if system.present},
    )


def curve(judged: Judged, system: System, used: Used, config: Config) -> Curve:
    """Means over questions for k = 1 .. passes of a pool, with bootstrap intervals."""
    answers, right = judged.answers[:, used[:, -1]], judged.right[:, used[:, -1]]
    votes = list(range(1, len(used) + 1))
    values = [majority_at_k(answers, right), pass_at_k(right)]
    random_state = {"resamples": config.evaluate.bootstrap, "seed": config.seed}
    ends = bootstrap_means(np.concatenate(values, axis=1), **random_state).T.tolist()
    majority, at_least_one = (value.mean(0).tolist() for value in values)
    return Curve(
        votes=votes,
        calls=[k * len(system.steps) for k in votes],
        majority=majority,
        majority_ci95=ends[: len(votes)],
        pass_at_k=at_least_one,
        pass_ci95=ends[len(votes) :],
    )
