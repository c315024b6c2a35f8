"""What the training of a run took: tokens sampled for its forests, and tokens trained on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from malt_fast.config.schema import Config
from malt_fast.evaluation.result import EvaluationResult
from malt_fast.evaluation.systems import System
from malt_fast.forest.datasets import KINDS
from malt_fast.forest.file import read_forest
from malt_fast.store.store import open_store


@dataclass(frozen=True)
class Spent:
    """Tokens, an output that several forests share once."""

    sampled: int
    forests: Mapping[str, int]  # by file, without its suffix: round-0/forest
    trained: Mapping[str, int]  # by stage, as `sft/ROLE`: over all rounds


def tokens_spent(folder: Path, config: Config) -> Spent:
    """Counts what the files of a run say; what is missing or damaged counts as nothing."""
    trained = trained_tokens(folder, config)
    paths = sorted(folder.glob("round-*/forest*.arrows"))
    if not paths:
        return Spent(0, {}, trained)
    store = open_store(folder / "samples", writable=False)
    length, used, forests = store.rows().length, np.zeros(store.next_row, np.bool_), {}
    for path in paths:
        if (file := read_forest(path, store)) is not None:
            rows = file.rows[(file.rows >= 0) & (file.rows < len(length))]
            forests[f"{path.parent.name}/{path.stem}"] = int(length[rows].sum())
            used[rows] = True
    return Spent(int(length[used].sum()), forests, trained)


def trained_tokens(folder: Path, config: Config) -> dict[str, int]:
    """Tokens of each stage that a run trained, by the notes beside its training data."""
    totals: dict[str, int] = {}
    rounds = product([f"round-{i}" for i in range(config.train.rounds)], KINDS)
    places = [(name, stage, str(stage)) for name, stage in rounds]
    places += [("warm", "sft", "warm sft")] if config.train.warm_start else []
    for (name, stage, label), role in product(places, config.chain):
        files = [folder / name / "data" / role / f"{kind}.parquet" for kind in KINDS[stage]]
        learns = stage == "sft" or role in config.dpo_roles
        if learns and any(file.is_file() for file in files):
            key = f"{label}/{role}"
            totals[key] = totals.get(key, 0) + _noted(folder / name / role / f"{stage}.data.txt")
    return totals


def _noted(file: Path) -> int:
    """The tokens that a note of train_role.py says; 0 if it cannot be read."""
    try:
        return int(file.read_text(encoding="utf-8").split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def with_spent(
    result: EvaluationResult, systems: Iterable[System], spent: Spent
) -> EvaluationResult:
    """The result with what the training of each system took. systems: those of the result."""
    by_name = {system.name: system for system in systems}

    def add(name: str) -> dict[str, int]:
        steps = {(step.role, step.training) for step in by_name[name].steps}
        stages = {f"warm sft/{role}" for role, _ in steps}
        stages |= {f"sft/{role}" for role, training in steps if training != "base"}
        stages |= {f"dpo/{role}" for role, training in steps if training == "final"}
        learned = any(training != "base" for _, training in steps)
        return {
            "training_sampled": spent.sampled if learned else 0,
            "training_tokens": sum(spent.trained.get(stage, 0) for stage in stages),
        }

    rows = [one.model_copy(update=add(one.name)) for one in result.systems]
    return result.model_copy(update={"systems": rows})
