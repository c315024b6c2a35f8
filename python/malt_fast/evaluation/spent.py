"""What the training of a run took: tokens sampled for its forests, tokens in its training steps."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from malt_fast.evaluation.result import EvaluationResult
from malt_fast.evaluation.systems import System
from malt_fast.forest.file import read_forest
from malt_fast.runs.metrics import is_number, read_lines
from malt_fast.store.store import open_store


@dataclass(frozen=True)
class Spent:
    """Tokens, an output that several forests share once."""

    sampled: int
    forests: Mapping[str, int]  # by file, without its suffix: round-0/forest
    trained: Mapping[str, int]  # by stage, `sft/ROLE` or `dpo/ROLE`: over all rounds


def tokens_spent(folder: Path) -> Spent:
    """Counts what the files of a run say; what is missing or damaged counts as nothing."""
    forests, used = {}, [np.zeros(0, np.int64)]
    paths = sorted(folder.glob("round-*/forest*.arrows"))
    store = open_store(folder / "samples", writable=False) if paths else None
    for path in paths if store is not None else ():
        assert store is not None
        file = read_forest(path, store)
        if file is not None:
            rows = file.rows[(file.rows >= 0) & (file.rows < store.next_row)]
            forests[f"{path.parent.name}/{path.stem}"] = int(store.rows().length[rows].sum())
            used.append(rows)
    rows = np.unique(np.concatenate(used))
    sampled = int(store.rows().length[rows].sum()) if store is not None else 0
    return Spent(sampled, forests, trained_tokens(folder))


def trained_tokens(folder: Path) -> dict[str, int]:
    """Tokens in the training steps of each stage: a packed prefix once, and each epoch anew."""
    last: dict[tuple[object, str], float] = {}  # by round and stage: the run of it that ended
    for line in read_lines(folder / "metrics.jsonl")[0]:
        if is_number(line.get("num_tokens")) and line.get("step") == line.get("max_steps"):
            last[line.get("round"), line["stage"]] = line["num_tokens"]
    totals: dict[str, int] = {}
    for (_, stage), tokens in last.items():
        totals[stage] = totals.get(stage, 0) + int(tokens)
    return totals


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
