"""The quality of a role's training data: signal, lengths, duplicates, truncation."""

from dataclasses import dataclass

import numpy as np

from malt_fast._core.forest import DONE, FINISH_LENGTH
from malt_fast.forest.yields import RoleYield, role_yield
from malt_fast.results.opened_run import Array, RoleForest


@dataclass(frozen=True)
class Quality:
    """Of one role in one round."""

    round: int
    counts: RoleYield
    outputs: int  # finished
    truncated: float  # share of the finished outputs that max_tokens ended
    pairs: int  # 0 for a role that does not learn from them
    silent: float  # share of questions without siblings whose labels differ
    length: dict[str, tuple[float, float, float]]  # label: 10 %, 50 %, 90 % quantile, tokens
    longer: tuple[float, float, float] | None  # chosen minus rejected, tokens: mean, 95 %


def measure_quality(source: RoleForest) -> Quality:
    forest, label, config = source.forest, source.credit.label, source.config
    ids = np.flatnonzero(forest.level == source.level)
    done = ids[forest.state[ids] == DONE]
    nodes = {"positive": ids[label[ids] == 1], "negative": ids[label[ids] == 0]}
    mixed = np.intersect1d(forest.parent[nodes["positive"]], forest.parent[nodes["negative"]])
    chosen, rejected = source.pairs.T
    longer = forest.token_len[chosen].astype(np.int64) - forest.token_len[rejected]
    learns, _ = config.learns(source.role)
    return Quality(
        round=source.round,
        counts=role_yield(forest, source.credit, source.level, source.role, config),
        outputs=len(done),
        truncated=float(np.mean(forest.finish[done] == FINISH_LENGTH)) if len(done) else 0.0,
        pairs=len(chosen) if learns else 0,
        silent=1 - len(np.unique(source.tree_of(mixed))) / len(source.questions),
        length={
            name: tuple(np.quantile(forest.token_len[some], (0.1, 0.5, 0.9)).tolist())
            for name, some in nodes.items()
            if len(some)
        },
        longer=_mean(longer) if len(longer) > 1 and learns else None,
    )


def _mean(values: Array) -> tuple[float, float, float]:
    """Mean and its 95 % interval, by the normal approximation."""
    mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean - 1.96 * error, mean + 1.96 * error
