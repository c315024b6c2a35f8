"""What a role's training data is like: signal, lengths, duplicates, truncation."""

from dataclasses import dataclass

import numpy as np

from malt_fast.forest.forest import DONE, FAILED, FINISH_LENGTH
from malt_fast.forest.preferences import select_examples, select_pairs
from malt_fast.results.opened_run import Trees


@dataclass(frozen=True)
class Quality:
    """Of one role in one round. Shares are of finished outputs where nothing else is said."""

    role: str
    round: int
    outputs: int  # finished
    failed: int
    truncated: float
    identical: float  # to an earlier sibling
    positive: float  # of those with a label
    mixed: float  # share of sibling blocks whose labels differ
    silent: float  # share of questions without a block whose labels differ
    examples: int
    pairs: int
    length: dict[str, tuple[float, float, float]]  # label: 10 %, 50 %, 90 % of tokens
    longer: tuple[float, float, float] | None  # chosen minus rejected, tokens: mean, 95 %


def quality(trees: Trees, seed: int = 0) -> Quality:
    forest, credit, level, config = trees.forest, trees.credit, trees.level, trees.config
    size = len(forest) // len(trees.questions)
    ids = np.flatnonzero(forest.level == level)
    state, length = forest.state, forest.token_len
    done = ids[state[ids] == DONE]
    label, parent = credit.label, forest.parent
    good, bad = ids[label[ids] == 1], ids[label[ids] == 0]
    blocks = np.unique(parent[done])
    mixed = np.intersect1d(parent[good], parent[bad])
    seen = {(int(parent[i]), forest.tokens_of(int(i)).tobytes()) for i in done.tolist()}
    chosen, rejected = select_pairs(forest, credit, level, config.preferences, config.seed)
    examples = select_examples(forest, credit, level, config.preferences, config.seed)
    more = length[chosen].astype(np.int64) - length[rejected]
    return Quality(
        role=trees.role,
        round=trees.round,
        outputs=len(done),
        failed=int(np.count_nonzero(state[ids] == FAILED)),
        truncated=float(np.mean(forest.finish[done] == FINISH_LENGTH)) if len(done) else 0.0,
        identical=1 - len(seen) / len(done) if len(done) else 0.0,
        positive=len(good) / max(1, len(good) + len(bad)),
        mixed=len(mixed) / max(1, len(blocks)),
        silent=1 - len(np.unique(mixed // size)) / len(trees.questions),
        examples=len(examples),
        pairs=len(chosen) if trees.role in config.dpo_roles else 0,
        length={
            name: tuple(np.quantile(length[nodes], (0.1, 0.5, 0.9)).tolist())
            for name, nodes in (("positive", good), ("negative", bad))
            if len(nodes)
        },
        longer=_mean(more, seed) if len(more) > 1 and trees.role in config.dpo_roles else None,
    )


def _mean(values: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Mean and its 95 % interval, by the normal approximation."""
    mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean - 1.96 * error, mean + 1.96 * error
