"""The paper's own figures: its protocol, tables and curves from one evaluation's answers.

What paper.yaml tells was published; it stands beside ours where model and task are the same.
"""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from malt_fast.config.schema import PACKAGE, Config, EvaluateConfig
from malt_fast.config.yaml_files import read_yaml
from malt_fast.evaluation.curves import majority_at_k, pass_at_k
from malt_fast.evaluation.scores import (
    Bools,
    Judged,
    flip_figures,
    right_answers,
    turns,
)
from malt_fast.evaluation.statistics import bootstrap_means
from malt_fast.evaluation.systems import (
    System,
    Used,
    present,
    steps_of,
)
from malt_fast.tasks.task import Question

SUBSETS, SIZE = 4, 100  # of test questions, drawn at random


def published(config: Config) -> dict[str, Any] | None:
    """What the paper reports of this model on this task, if it does."""
    usual = (Config.model_fields["chain"].default, EvaluateConfig.model_fields["votes"].default)
    if config.model.roles or (config.chain, config.evaluate.votes) != usual:
        return None
    model = PurePath(config.model.name_or_path).name.removeprefix("Meta-")  # its older name
    found: dict[str, Any] | None = (
        read_yaml(PACKAGE / "evaluation" / "paper.yaml").get(model, {}).get(config.task.name)
    )
    return found


def subset_figures(right: Bools, seed: int) -> dict[str, float] | None:
    """Accuracy on four random subsets of 100 questions; None if there are not as many."""
    if len(right) < SIZE:
        return None
    draws = [np.random.default_rng([seed, i]) for i in range(SUBSETS)]
    means = [right[rng.choice(len(right), SIZE, replace=False)].mean() for rng in draws]
    return {
        "mean": float(np.mean(means)),
        "population_std": float(np.std(means)),
        "sample_std": float(np.std(means, ddof=1)),
    }


def paper_figures(
    result: dict[str, Any],
    judged: Judged,
    systems: Sequence[System],
    used: Sequence[Used],
    pools: Sequence[tuple[System, Used]],
    questions: Sequence[Question],
    config: Config,
    extra: Sequence[str],
) -> dict[str, Any]:
    """`result` of scores.summarise with what the suite `paper` adds. extra: wordings there are."""
    chain, votes = config.chain, config.evaluate.votes
    right = right_answers(judged, systems, used, questions, config)
    names = {(system.steps, system.votes): system.name for system in systems}
    malt = result["paired"][0]["a"]
    shares, intervals = flip_figures(right["SA"], right[malt])
    voted = {
        system.name: turns(judged, slots, chain, questions, config)
        for system, slots in zip(systems, used, strict=True)
        if system.steps in [steps_of(chain, training) for training in ("base", "sft", "final")]
        and system.votes == votes
    }
    rows = present(chain, votes, extra).items()
    curves = {system.name: curve(judged, system, slots, config) for system, slots in pools}
    for row in result["systems"]:
        row["subsets"] = subset_figures(right[row["name"]], config.seed)
    return result | {
        "suite": "paper",
        "published": published(config),
        "flips": result["flips"] | {f"SA -> {malt}": shares},
        "flips_ci95": result["flips_ci95"] | {f"SA -> {malt}": intervals},
        "turns": result["turns"] | voted,
        "ablations": {
            "untrained": {s.name.rpartition("-")[2]: s.name for s in systems if " -" in s.name},
            "present": {label: names[system.steps, system.votes] for label, system in rows},
        },
        "curves": curves,
    }


def curve(judged: Judged, system: System, slots: Used, config: Config) -> dict[str, Any]:
    """Means over questions at k = 1 .. passes of a pool, with intervals."""
    answers, right = judged.answers[:, slots[:, -1]], judged.right[:, slots[:, -1]]
    votes = list(range(1, len(slots) + 1))
    values = {"majority": majority_at_k(answers, right), "pass": pass_at_k(right)}
    random_state = {"resamples": config.evaluate.bootstrap, "seed": config.seed}
    ends = bootstrap_means(np.concatenate(list(values.values()), axis=1), **random_state)
    figures: dict[str, Any] = {"votes": votes, "calls": [k * len(system.steps) for k in votes]}
    for i, (name, value) in enumerate(values.items()):
        mine = ends[:, i * len(votes) : (i + 1) * len(votes)]
        figures |= {name: value.mean(0).tolist(), f"{name}_ci95": mine.T.tolist()}
    return figures
