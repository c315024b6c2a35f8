"""What each role learns from: its positive outputs (SFT) and its sibling pairs (DPO).

    forest, credit --examples/pairs--> node ids --role_data--> prompts and completions as tokens
                                            `--yield_rows--> how much there is

Prompts are put together again from the segments that were sampled; tokens trained on are the tokens
sampled. `write_datasets` is the one place where they become text, for other trainers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from rich.box import SIMPLE
from rich.table import Table

from malt_fast.config import Config, PreferencesConfig
from malt_fast.files import replacing
from malt_fast.forest import DONE, FAILED, Credit, Forest, examples, pairs
from malt_fast.roles import Prompts, Tokens

if TYPE_CHECKING:
    from malt_fast.batches import RoleData

Ids = npt.NDArray[np.uint32]
Stage = Literal["sft", "dpo"]


# ---- which nodes ----


def select_examples(
    forest: Forest, credit: Credit, level: int, prefs: PreferencesConfig, seed: int
) -> Ids:
    """Nodes that a role's SFT learns from, ascending. Outputs without a token teach nothing."""
    ids = examples(forest, credit, level, prefs.sft_source, prefs.dedup)
    ids = ids[forest.token_len[ids] > 0]
    return ids[_subset(path_keys(forest, seed)[ids], prefs.max_examples)]


def select_pairs(
    forest: Forest, credit: Credit, level: int, prefs: PreferencesConfig, seed: int
) -> tuple[Ids, Ids]:
    """(chosen, rejected) nodes of a role's DPO, in node order."""
    chosen, rejected = pairs(
        forest,
        credit,
        level,
        prefs.policy,
        seed,
        prefs.max_per_question or 0,
        Fraction(str(prefs.min_margin)).as_integer_ratio(),
        prefs.dedup,
    )
    spoken = (forest.token_len[chosen] > 0) & (forest.token_len[rejected] > 0)
    chosen, rejected = chosen[spoken], rejected[spoken]
    keys = path_keys(forest, seed)
    kept = _subset(_mix(keys[chosen], keys[rejected]), prefs.max_pairs)
    return chosen[kept], rejected[kept]


def path_keys(forest: Forest, seed: int) -> npt.NDArray[np.uint64]:
    """uint64[n]: a random number per node, from the seed and the node's path, not from its id."""
    parent, level = forest.parent, forest.level
    keys = np.zeros(len(forest), np.uint64)
    roots = np.flatnonzero(level == 0)
    keys[roots] = _mix(np.uint64(seed), np.arange(len(roots), dtype=np.uint64))
    for depth in range(1, int(level.max(initial=0)) + 1):
        ids = np.flatnonzero(level == depth)
        above = parent[ids]
        keys[ids] = _mix(keys[above], (ids - forest.first_child[above]).astype(np.uint64))
    return keys


def _mix(
    a: npt.NDArray[np.uint64] | np.uint64, b: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """A hash of two numbers: the finaliser of splitmix64 (Steele et al. 2014), modulo 2^64."""
    with np.errstate(over="ignore"):
        x = a * np.uint64(0x9E3779B97F4A7C15) + b + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _subset(keys: npt.NDArray[np.uint64], limit: int | None) -> npt.NDArray[np.intp]:
    """Indices, ascending, of the `limit` smallest keys; all without a limit."""
    return np.sort(np.argsort(keys, kind="stable")[:limit])


# ---- their tokens ----


def role_data(
    forest: Forest,
    credit: Credit,
    level: int,
    questions: Sequence[Tokens],
    prompts: Prompts,
    prefs: PreferencesConfig,
    seed: int,
    stage: Stage,
) -> "RoleData":
    """One stage's training data for the role of `level`; `questions` are the segments of the roots.

    SFT: one completion an example; an output sampled twice counts twice unless prefs.dedup.
    DPO: every (prompt, completion) once, however many pairs share it.
    """
    from malt_fast.batches import RoleData

    if stage == "sft":
        ids = select_examples(forest, credit, level, prefs, seed)
        index = np.zeros((0, 2), np.int64)
    else:
        nodes = np.stack(select_pairs(forest, credit, level, prefs, seed), axis=1)
        ids, inverse = np.unique(nodes, return_inverse=True)
        index = inverse.reshape(-1, 2).astype(np.int64)
    roots = np.flatnonzero(forest.level == 0)
    trees = np.searchsorted(roots, forest.roots()[ids])
    rows = prompted(forest, level, questions, prompts, ids, trees)
    if stage == "dpo":
        first, place = _unique(rows)
        ids, trees, rows, index = ids[first], trees[first], [rows[i] for i in first], place[index]
    return RoleData(
        prompts=[prompt for prompt, _ in rows],
        completions=[completion for _, completion in rows],
        pairs=index,
        trees=trees.astype(np.int64),
        nodes=ids.astype(np.int64),
    )


def prompted(
    forest: Forest,
    level: int,
    questions: Sequence[Tokens],
    prompts: Prompts,
    ids: Ids,
    trees: npt.NDArray[np.intp],
) -> list[tuple[Tokens, Tokens]]:
    """(prompt, completion) of each node; equal prompts are one array."""
    parents = forest.parent[ids]
    by_parent: dict[int, Tokens] = {}
    by_bytes: dict[bytes, Tokens] = {}
    for tree, parent in zip(trees.tolist(), parents.tolist(), strict=True):
        if parent not in by_parent:
            prompt = prompts.build(level, questions[tree], segments_above(forest, parent))
            by_parent[parent] = by_bytes.setdefault(prompt.tobytes(), prompt)
    return [
        (by_parent[parent], forest.tokens_of(node))
        for parent, node in zip(parents.tolist(), ids.tolist(), strict=True)
    ]


def segments_above(forest: Forest, node: int) -> list[Tokens]:
    """Outputs on the path from the question (which is left out) to `node`, `node` included."""
    segments: list[Tokens] = []
    while forest.level[node]:
        segments.append(forest.tokens_of(node))
        node = int(forest.parent[node])
    return segments[::-1]


def _unique(rows: list[tuple[Tokens, Tokens]]) -> tuple[list[int], npt.NDArray[np.int64]]:
    """First indices of the distinct rows, and the place of each row among them."""
    seen: dict[tuple[int, bytes], int] = {}
    first: list[int] = []
    place = []
    for i, (prompt, completion) in enumerate(rows):
        place.append(seen.setdefault((id(prompt), completion.tobytes()), len(first)))
        if place[-1] == len(first):
            first.append(i)
    return first, np.array(place, np.int64)


# ---- how much there is ----


@dataclass(frozen=True)
class RoleYield:
    """What a forest offers one role. Shares are of sibling blocks, or of finished outputs."""

    role: str
    nodes: int
    failed: int
    positives: int
    negatives: int
    mixed: float  # share of blocks that hold a positive and a negative
    identical: float  # share of outputs whose tokens an earlier sibling already has
    examples: int
    pairs: int


def yield_rows(forest: Forest, credit: Credit, config: Config) -> list[RoleYield]:
    """The yield of every role of the chain, under the config's preferences and limits."""
    return [
        _role_yield(forest, credit, level, role, config)
        for level, role in enumerate(config.chain, 1)
    ]


def unlimited(config: Config) -> Config:
    """The config with no limit on how much is taken of the whole forest."""
    free = config.preferences.model_copy(update={"max_examples": None, "max_pairs": None})
    return config.model_copy(update={"preferences": free})


def tree_yield(forest: Forest, credit: Credit, config: Config) -> dict[str, int]:
    """What a few trees give each role to learn from: pairs, or examples where it gets no DPO."""
    rows = yield_rows(forest, credit, unlimited(config))
    return dict(
        (f"{row.role} pairs", row.pairs)
        if row.role in config.dpo_roles
        else (f"{row.role} examples", row.examples)
        for row in rows
    )


def _role_yield(forest: Forest, credit: Credit, level: int, role: str, config: Config) -> RoleYield:
    ids = np.flatnonzero(forest.level == level)
    done = ids[forest.state[ids] == DONE]
    good, bad = ids[credit.label[ids] == 1], ids[credit.label[ids] == 0]
    blocks = np.unique(forest.parent[done])
    mixed = np.intersect1d(forest.parent[good], forest.parent[bad])
    outputs = {(int(forest.parent[i]), forest.tokens_of(int(i)).tobytes()) for i in done}
    prefs, seed = config.preferences, config.seed
    return RoleYield(
        role=role,
        nodes=len(ids),
        failed=int(np.count_nonzero(forest.state[ids] == FAILED)),
        positives=len(good),
        negatives=len(bad),
        mixed=len(mixed) / max(len(blocks), 1),
        identical=1 - len(outputs) / len(done) if len(done) else 0.0,
        examples=len(select_examples(forest, credit, level, prefs, seed)),
        pairs=len(select_pairs(forest, credit, level, prefs, seed)[0]),
    )


def yield_table(rows: Sequence[RoleYield]) -> Table:
    """The yield as a table for the terminal."""
    caption = "mixed: sibling blocks with both labels; same: outputs identical to a sibling"
    table = Table(title="what the forest yields", caption=caption, box=SIMPLE, padding=0)
    table.add_column("role", no_wrap=True)
    names = ("outputs", "failed", "positive", "negative", "mixed", "same", "examples", "pairs")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        counts = [f"{n:,}" for n in (row.nodes, row.failed, row.positives, row.negatives)]
        shares = [f"{share:.1%}" for share in (row.mixed, row.identical)]
        table.add_row(row.role, *counts, *shares, f"{row.examples:,}", f"{row.pairs:,}")
    return table


# ---- for other trainers ----


def write_datasets(data: "RoleData", prompts: Prompts, folder: Path, stage: Stage) -> Path:
    """Write folder/{sft,dpo}.parquet, the rows of `as_dataset`; returns the file."""
    from datasets.utils.logging import (
        disable_progress_bar,
        enable_progress_bar,
        is_progress_bar_enabled,
    )

    rows = as_dataset(data, prompts, stage)
    folder.mkdir(parents=True, exist_ok=True)
    path, shown = folder / f"{stage}.parquet", is_progress_bar_enabled()
    disable_progress_bar()
    try:
        with replacing(path) as beside:
            rows.to_parquet(beside)
    finally:
        if shown:
            enable_progress_bar()
    return path


def as_dataset(data: "RoleData", prompts: Prompts, stage: Stage) -> Any:
    """A `datasets.Dataset` with TRL's columns as text.

    SFT: prompt, completion. DPO: prompt, chosen, rejected. A prompt keeps its control tokens, save
    a begin token that the tokenizer puts there by itself; an output loses its end token, which TRL
    puts back.
    """
    from datasets import Dataset, Features, Value

    wording = {id(prompt): prompt for prompt in data.prompts}
    worded = {key: prompt_text(prompts.tokenizer, prompt) for key, prompt in wording.items()}
    texts = [prompts.decode(completion) for completion in data.completions]
    asked = [worded[id(prompt)] for prompt in data.prompts]
    if stage == "sft":
        columns = {"prompt": asked, "completion": texts}
    else:
        chosen, rejected = data.pairs.T.tolist()
        columns = {
            "prompt": [asked[i] for i in chosen],
            "chosen": [texts[i] for i in chosen],
            "rejected": [texts[i] for i in rejected],
        }
    texts_only = Features({name: Value("string") for name in columns})
    return Dataset.from_dict(columns, features=texts_only)


def prompt_text(tokenizer: object, prompt: Tokens) -> str:
    """A prompt with its control tokens, save a begin token that the tokenizer adds by itself."""
    ids = prompt.tolist()
    own = tokenizer("")["input_ids"]  # type: ignore[operator]  # what the tokenizer adds by itself
    if own and ids[:1] == own[:1]:
        ids = ids[1:]
    text: str = tokenizer.decode(  # type: ignore[attr-defined]
        ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text
