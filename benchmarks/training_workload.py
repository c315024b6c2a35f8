"""The workload of bench_training.py: sibling pairs in trees of the paper's shape, random tokens."""

import numpy as np

from malt_fast.forest.role_data import RoleData, Stage
from malt_fast.training.batches import TreeSampler, examples_of
from malt_fast.training.packing import Packer, Packing
from malt_fast.training.stage import Layout

MEANS = {"question": 150, "generator": 300, "verifier": 200, "refiner": 300}
ROLES = ["generator", "verifier", "refiner"]
SPREAD = 0.4  # sigma of the lognormal lengths
VOCABULARY = 4096  # of the tiny model, and of the random tokens


def workload(role: str, n: int, questions: int, seed: int) -> RoleData:
    """The role's sibling pairs in `questions` trees of branching n; only completions in pairs."""
    rng = np.random.default_rng(seed)

    def segment(name: str) -> np.ndarray:
        length = max(2, int(rng.lognormal(np.log(MEANS[name]) - SPREAD**2 / 2, SPREAD)))
        return rng.integers(2, VOCABULARY, length).astype(np.int32)

    level = ROLES.index(role) + 1
    prompts: list[np.ndarray] = []
    completions: list[np.ndarray] = []
    pairs: list[tuple[int, int]] = []
    trees: list[int] = []
    for tree in range(questions):
        outcomes = rng.random((n,) * len(ROLES)) < 0.5
        value = outcomes.mean(axis=tuple(range(level, len(ROLES))))  # [n] * level
        above = [segment("question")]
        for name in ROLES[: level - 1]:
            above = [np.concatenate([prompt, segment(name)]) for prompt in above for _ in range(n)]
        for prompt, values in zip(above, value.reshape(-1, n), strict=True):
            good, bad = np.flatnonzero(values > 0.5), np.flatnonzero(values <= 0.5)
            if not len(good) or not len(bad):
                continue
            first = len(prompts)
            pairs += [(first + g, first + b) for g in good for b in bad]
            prompts += [prompt] * n
            completions += [np.append(segment(role), 1).astype(np.int32) for _ in range(n)]
            trees += [tree] * n
    return RoleData(prompts, completions, np.array(pairs), np.array(trees), np.arange(len(prompts)))


def order_of(stage: Stage, data: RoleData, size: int) -> list[np.ndarray]:
    """Indices of the pairs or examples of each step, in malt-fast's order."""
    length, tree = examples_of(stage, data)
    order = np.array(list(TreeSampler(length, tree, size, seed=0)))
    return np.split(order, range(size, len(order), size))


def positions(data: RoleData, pairs_a_step: int, pack_tokens: int) -> dict[str, float]:
    """Token positions per pair in forward passes of the policy."""
    steps = order_of("dpo", data, pairs_a_step)
    lengths = np.array(
        [len(p) + len(c) for p, c in zip(data.prompts, data.completions, strict=True)]
    )
    both = lengths[data.pairs]
    shuffled = np.random.default_rng(0).permutation(len(data.pairs))
    random_steps = np.split(shuffled, range(pairs_a_step, len(shuffled), pairs_a_step))

    def ours(layout: Layout) -> float:
        packer = Packer("dpo", data, Packing(layout, pack_tokens, pairs_a_step, "cpu"))
        batches = [batch for step in steps for batch in packer(step.tolist()).batches]
        return sum(batch.input_ids.numel() for batch in batches) / len(data.pairs)

    def padded(parts: list[np.ndarray]) -> float:
        return sum(2 * len(part) * both[part].max() for part in parts) / len(data.pairs)

    return {
        "trees": ours("trees"),
        "rows": ours("rows"),
        "TRL, random order": padded(random_steps),
        "TRL, our order": padded(steps),
        "TRL, without padding": both.sum() / len(data.pairs),
    }


def positives(data: RoleData) -> RoleData:
    """The chosen completions, for SFT."""
    chosen = np.unique(data.pairs[:, 0])
    prompts, completions = ([rows[i] for i in chosen] for rows in (data.prompts, data.completions))
    none = np.zeros((0, 2), np.int64)
    return RoleData(prompts, completions, none, data.trees[chosen], data.nodes[chosen])


def model_flops(
    stage: Stage, data: RoleData, steps: list[np.ndarray], m: dict[str, int], pack_tokens: int
) -> float:
    """FLOPs of the packs' matrix products, forward and backward; m: of LlamaConfig."""
    packer = Packer(stage, data, Packing("trees", pack_tokens, 1, "cpu"))
    batches = [batch for step in steps for batch in packer(step.tolist()).batches]
    tokens = sum(batch.num_tokens for batch in batches)
    targets = sum(len(batch.rows.unique()) for batch in batches)
    h, head = m["hidden_size"], m["hidden_size"] // m["num_attention_heads"]
    attention = 2 * h * h + 2 * h * m["num_key_value_heads"] * head
    layer = attention + 3 * h * m["intermediate_size"]
    return 4.0 * (tokens * m["num_hidden_layers"] * layer + targets * h * m["vocab_size"])
