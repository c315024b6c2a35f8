"""How fast does a role train on packs of prefix trees, against plain rows and against TRL?

Same model, LoRA, AdamW, data, and examples a step for everybody, reference log-probs given. On a
CPU contenders take turns step by step in one process, so a busy moment hits all, and losses
compare. The h100 preset is a model of Llama-3.1-8B's shape with random weights, in bfloat16 with
gradient checkpointing: no room for two, so one contender comes after another, after a step that
counts for nothing. Its model FLOPs: 4 a weight and position (forward, and backward through frozen
weights), attention as each layout sees it left out, nothing for recomputing.

- trees, rows: malt-fast, by `--train.packing`
- DPO: TRL's DPOTrainer, a step in one padded batch, or in micro-batches of 4 pairs (less padding).
  TRL 1.16 always computes log-probs in chunks, without logits; its Liger option is for GPUs.
- SFT: TRL's SFTTrainer, a step in one padded batch, or packed (bfd, no padding), a pack a forward.

The workload has the paper's shape: n outputs of each role under each of the one above, lognormal
lengths with means of 150 (question), 300, 200 and 300 tokens, leaves right with probability 1/2,
all sibling pairs. Token positions are those of policy forward passes, padding included; TRL's also
in the random order in which it would take the pairs by itself.

    python benchmarks/bench_training.py --json benchmarks/results/training.json
    python benchmarks/bench_training.py --preset h100 --json benchmarks/results/training_gpu.json
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import torch
import trl
from common import environment, gpu, peak_growth, print_table, summary, write_json
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from malt_fast.config.schema import DPOStageConfig, LoraConfig, StageConfig
from malt_fast.forest.role_data import RoleData, Stage
from malt_fast.training.adapters import load_model
from malt_fast.training.arguments import training_arguments
from malt_fast.training.batches import TreeSampler, examples_of
from malt_fast.training.packing import Packer, Packing
from malt_fast.training.stage import Layout
from malt_fast.training.trainer import StageTrainer
from malt_fast.utils.quiet import quiet

MEANS = {"question": 150, "generator": 300, "verifier": 200, "refiner": 300}
ROLES = ["generator", "verifier", "refiner"]
SPREAD = 0.4  # sigma of the lognormal lengths
VOCABULARY = 4096  # of the tiny model, and of all random text
LORA = LoraConfig(r=16, lora_alpha=16)
TRL_PACK = 4096  # tokens: longer packs are slower on a CPU, where their mask is dense
BETA, LEARNING_RATE = 0.1, 1e-4


@dataclass(frozen=True)
class Setting:
    device: str
    dtype: str
    model: dict[str, int]  # of LlamaConfig
    steps: int
    size: int  # pairs, or examples, a step
    stages: tuple[str, ...]

    @property
    def lean(self) -> dict[str, bool]:
        gpu = self.device == "cuda"
        return {"bf16": gpu, "gradient_checkpointing": gpu}


PRESETS = {
    "cpu": Setting(
        "cpu",
        "float32",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
        steps=30,
        size=8,
        stages=("dpo-refiner", "dpo-verifier", "sft-refiner"),
    ),
    "h100": Setting(
        "cuda",
        "bfloat16",
        {
            "vocab_size": 128256,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
        },
        steps=6,
        size=16,
        stages=("dpo-refiner",),
    ),
}

# ---- workload ----


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
    """The pairs, or examples, of each step, as malt-fast takes them."""
    length, tree = examples_of(stage, data)
    order = np.array(list(TreeSampler(length, tree, size, seed=0)))
    return np.split(order, range(size, len(order), size))


def positions(data: RoleData, pairs_a_step: int, pack_tokens: int) -> dict[str, float]:
    """Token positions a pair in policy forward passes."""
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
    """Their chosen completions, for SFT."""
    chosen = np.unique(data.pairs[:, 0])
    prompts, completions = ([rows[i] for i in chosen] for rows in (data.prompts, data.completions))
    none = np.zeros((0, 2), np.int64)
    return RoleData(prompts, completions, none, data.trees[chosen], data.nodes[chosen])


# ---- contenders ----


def random_model(folder: Path, setting: Setting) -> str:
    config = LlamaConfig(
        **setting.model,
        max_position_embeddings=8192,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
        dtype=setting.dtype,
    )
    torch.manual_seed(0)
    with torch.device(setting.device):
        model = LlamaForCausalLM(config).to(getattr(torch, setting.dtype))
    model.save_pretrained(folder)
    return str(folder)


def tokenizer() -> PreTrainedTokenizerFast:
    words = {f"<{i}>": i for i in range(VOCABULARY)}
    model = Tokenizer(models.WordLevel(words, unk_token="<2>"))
    return PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<1>", pad_token="<0>")


Step = Callable[[np.ndarray], float]  # indices of pairs -> loss, after an update


def malt_fast(
    stage: Stage, layout: Layout, base: str, data: RoleData, args: argparse.Namespace, folder: Path
) -> tuple[Step, np.ndarray]:
    """A step of our trainer, and for DPO the reference log-probs of all completions."""
    setting: Setting = args.setting
    common = {"learning_rate": LEARNING_RATE, "per_device_train_batch_size": setting.size}
    dpo = stage == "dpo"
    kind = partial(DPOStageConfig, beta=BETA) if dpo else StageConfig
    settings = kind(**common, **setting.lean)
    arguments = training_arguments(settings, folder, setting.device, 0)
    packing = Packing(layout, args.pack_tokens, setting.size, setting.device)
    packer = Packer(stage, data, packing)
    model = load_model(base, None, LORA, dtype=setting.dtype, seed=0, layout=layout)
    trainer = StageTrainer(packer, model, settings, arguments)
    logp = np.full(len(data), np.nan, np.float32)
    if dpo:
        every = np.unique(data.pairs)
        logp[every] = trainer._reference_logps(model, every, True)
        trainer._ref_logp = torch.from_numpy(logp).to(setting.device)
    optimizer = adamw(model)

    def step(indices: np.ndarray) -> float:
        loss = trainer.training_step(model, trainer._thread.submit(packer, indices.tolist()))
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step, logp


def trl_dpo(
    base: str,
    data: RoleData,
    logp: np.ndarray,
    pairs_a_batch: int,
    setting: Setting,
    folder: Path,
) -> Step:
    """A step of TRL's DPOTrainer in micro-batches; the adapter starts as ours does."""
    rows = [
        {
            "prompt_ids": data.prompts[c].tolist(),
            "chosen_ids": data.completions[c].tolist(),
            "rejected_ids": data.completions[r].tolist(),
            "ref_chosen_logps": float(logp[c]),
            "ref_rejected_logps": float(logp[r]),
        }
        for c, r in data.pairs
    ]
    trainer = tokenised(trl.DPOTrainer)(
        load_model(base, None, LORA, dtype=setting.dtype, seed=0).peft_model,
        args=trl.DPOConfig(str(folder), beta=BETA, **trl_arguments(pairs_a_batch, setting)),
        train_dataset=datasets.Dataset.from_list(rows[:1]),
        processing_class=tokenizer(),
    )
    trainer.precompute_ref_logps = True  # and they are given: it would compute them once a pair
    parts = partial(np.split, indices_or_sections=range(pairs_a_batch, 1 << 10, pairs_a_batch))
    return trl_step(
        trainer,
        lambda indices: [
            (trainer.data_collator([rows[i] for i in part]), len(part) / len(indices))
            for part in parts(indices)
            if len(part)
        ],
    )


def trl_sft(base: str, data: RoleData, packed: bool, setting: Setting, folder: Path) -> Step:
    """A step of TRL's SFTTrainer, in one padded batch or a pack at a time."""
    rows = [
        {
            "input_ids": np.concatenate([p, c]).tolist(),
            "labels": [-100] * len(p) + c.tolist(),
        }
        for p, c in zip(data.prompts, data.completions, strict=True)
    ]
    trainer = tokenised(trl.SFTTrainer)(
        load_model(base, None, LORA, dtype=setting.dtype, seed=0).peft_model,
        args=trl.SFTConfig(str(folder), packing=packed, **trl_arguments(1, setting)),
        train_dataset=datasets.Dataset.from_list(rows[:1]),
        processing_class=tokenizer(),
    )

    def batches(indices: np.ndarray) -> list[tuple[Any, float]]:
        mine = [rows[i] for i in indices]
        if not packed:
            return [(trainer.data_collator(mine), 1.0)]
        total = sum(len(data.completions[i]) for i in indices)
        packs = trl.pack_dataset(datasets.Dataset.from_list(mine), TRL_PACK, "bfd")
        collated = [trainer.data_collator([pack]) for pack in packs]
        return [(batch, (batch["labels"] >= 0).sum().item() / total) for batch in collated]

    return trl_step(trainer, batches)


def tokenised(trainer: type) -> type:
    """The trainer, given rows of token ids, which it would tokenise."""
    return type("Tokenised", (trainer,), {"_prepare_dataset": lambda self, dataset, *_: dataset})


def trl_arguments(batch: int, setting: Setting) -> dict[str, Any]:
    return setting.lean | {
        "use_cpu": setting.device == "cpu",
        "report_to": [],
        "per_device_train_batch_size": batch,
        "max_length": None if batch > 1 else TRL_PACK,
        "disable_tqdm": True,
    }


def trl_step(trainer: Any, batches_of: Callable[[np.ndarray], list[tuple[Any, float]]]) -> Step:
    """A step over batches, each with its share of the loss, which is a mean."""
    optimizer = adamw(trainer.model)
    trainer.model.train()

    def step(indices: np.ndarray) -> float:
        total = 0.0
        for batch, share in batches_of(indices):
            with trainer.compute_loss_context_manager():
                loss = share * trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch))
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step


def adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0, fused=True)


# ---- measuring ----


def makers(
    stage: Stage, data: RoleData, args: argparse.Namespace, folder: Path
) -> dict[str, Callable[[], Step]]:
    setting: Setting = args.setting
    base, held = random_model(folder / "base", setting), {}

    def ours(layout: Layout) -> Step:
        step, held["logp"] = malt_fast(stage, layout, base, data, args, folder / layout)
        return step

    def dpo(size: int) -> Step:
        return trl_dpo(base, data, held["logp"], size, setting, folder / f"trl{size}")

    def sft(packed: bool) -> Step:
        return trl_sft(base, data, packed, setting, folder / f"trl{packed}")

    rivals = {"TRL": partial(dpo, setting.size), "TRL, batches of 4": partial(dpo, 4)}
    if stage == "sft":
        rivals = {"TRL, padded": partial(sft, False), "TRL, packed": partial(sft, True)}
    return {"trees": partial(ours, "trees"), "rows": partial(ours, "rows")} | rivals


def measure(stage: Stage, role: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    setting: Setting = args.setting
    examples_a_tree = {"verifier": 3, "refiner": 9}[role]  # at least, of three outputs a node
    data = workload(role, 3, 2 * setting.steps * setting.size // examples_a_tree + 2, seed=0)
    if stage == "sft":
        data = positives(data)
    order = order_of(stage, data, setting.size)
    steps = [s for s in order if len(s) == setting.size][: setting.steps]
    make = makers(stage, data, args, folder)
    run = one_after_another if setting.device == "cuda" else in_turns
    seconds, losses, peak = run(make, steps)
    rival = next(name for name in losses if name.startswith("TRL"))
    return {
        "stage": stage,
        "role": role,
        "steps": len(steps),
        "seconds": {
            name: summary(times) | {"total_s": sum(times)} for name, times in seconds.items()
        },
        "examples_per_s": {n: setting.size * len(s) / sum(s) for n, s in seconds.items()},
        "peak_bytes": peak,
        "losses": losses,
        "loss_apart_from_TRL": {
            name: float(np.abs(np.subtract(curve, losses[rival])).max())
            for name, curve in losses.items()
        },
        "model_flops_per_s": model_flops(stage, data, steps, args) / sum(seconds["trees"]),
    }


Measured = tuple[dict[str, list[float]], dict[str, list[float]], dict[str, int]]


def in_turns(make: dict[str, Callable[[], Step]], steps: list[np.ndarray]) -> Measured:
    contenders = {name: each() for name, each in make.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    losses: dict[str, list[float]] = {name: [] for name in contenders}
    for indices in steps:
        for name, step in contenders.items():
            start = time.perf_counter()
            losses[name].append(step(indices))
            seconds[name].append(time.perf_counter() - start)
    peak = {name: peak_growth(partial(step, steps[0])) for name, step in contenders.items()}
    return seconds, losses, peak


def one_after_another(make: dict[str, Callable[[], Step]], steps: list[np.ndarray]) -> Measured:
    seconds: dict[str, list[float]] = {name: [] for name in make}
    losses: dict[str, list[float]] = {name: [] for name in make}
    peak = {}
    for name, each in make.items():
        step = each()
        try:
            step(steps[0])
            torch.cuda.reset_peak_memory_stats()
            for indices in steps:
                start = time.perf_counter()
                losses[name].append(step(indices))  # .item() waits for the GPU
                seconds[name].append(time.perf_counter() - start)
            peak[name] = torch.cuda.max_memory_allocated()  # weights too
        except torch.OutOfMemoryError:
            print(f"{name}: out of memory, left out")
            del seconds[name], losses[name]
        del step
        gc.collect()
        torch.cuda.empty_cache()
    return seconds, losses, peak


def model_flops(
    stage: Stage, data: RoleData, steps: list[np.ndarray], args: argparse.Namespace
) -> float:
    """Of the packs: what their matrices need, forward and through them back."""
    m, packing = args.setting.model, Packing("trees", args.pack_tokens, 1, "cpu")
    packer = Packer(stage, data, packing)
    batches = [batch for step in steps for batch in packer(step.tolist()).batches]
    tokens = sum(batch.num_tokens for batch in batches)
    targets = sum(len(batch.rows.unique()) for batch in batches)
    h, head = m["hidden_size"], m["hidden_size"] // m["num_attention_heads"]
    attention = 2 * h * h + 2 * h * m["num_key_value_heads"] * head
    layer = attention + 3 * h * m["intermediate_size"]
    return 4.0 * (tokens * m["num_hidden_layers"] * layer + targets * h * m["vocab_size"])


def show(result: dict[str, Any]) -> None:
    speed = result["examples_per_s"]
    best = max(speed[name] for name in speed if name.startswith("TRL"))
    rows = [
        [
            name,
            "",
            f"{speed[name]:.2f}",
            f"{speed[name] / best:.2f}",
            f"{result['peak_bytes'][name] / 2**20:.0f}",
            f"{result['loss_apart_from_TRL'][name]:.1e}",
            f"{result['losses'][name][-1]:.4f}",
        ]
        for name in speed
    ]
    what = "pairs" if result["stage"] == "dpo" else "examples"
    header = ["", "", f"{what}/s", "of TRL's best", "peak MB", "loss apart", "last loss"]
    title = f"{result['role']}'s {result['stage'].upper()}, {result['steps']} steps"
    print_table(title, header, rows)
    print(f"trees: {result['model_flops_per_s'] / 1e12:.3g} TFLOP/s of the model\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--steps", type=int, help="fewer or more than the preset's")
    parser.add_argument("--layers", type=int, help="of the model, fewer than the preset's")
    parser.add_argument("--pack-tokens", type=int, default=16384)
    every = [f"{stage}-{role}" for stage in ("dpo", "sft") for role in ("refiner", "verifier")]
    parser.add_argument("--only", nargs="*", choices=every)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.setting = PRESETS[args.preset]
    if args.steps:
        args.setting = replace(args.setting, steps=args.steps)
    if args.layers:
        fewer = args.setting.model | {"num_hidden_layers": args.layers}
        args.setting = replace(args.setting, model=fewer)
    counts = {
        f"{role}, n = {n}, {size} pairs": positions(
            workload(role, n, questions, seed=1), size, args.pack_tokens
        )
        for role in ("refiner", "verifier")
        for size in (8, 16)
        for n, questions in ((3, 60), (5, 20), (8, 6))
    }
    show_positions(counts)
    results = []
    with tempfile.TemporaryDirectory() as folder, quiet():
        for only in args.only or args.setting.stages:
            stage, role = only.split("-")
            results.append(measure(cast(Stage, stage), role, args, Path(folder) / only))
            show(results[-1])
    if args.json:
        packages = ("malt-fast", "torch", "transformers", "peft", "trl")
        machine = environment(packages) | {"threads": torch.get_num_threads()}
        report = {
            "environment": machine | (gpu() if args.setting.device == "cuda" else {}),
            "settings": vars(args.setting) | {"pack_tokens": args.pack_tokens},
            "positions": counts,
            "training": results,
        }
        write_json(args.json, report)


def show_positions(counts: dict[str, dict[str, float]]) -> None:
    names = list(next(iter(counts.values())))
    rows = []
    for key, value in counts.items():
        ratios = [value[name] / value["trees"] for name in (names[2], names[-1])]
        cells = [*(f"{value[name]:.0f}" for name in names), *(f"{ratio:.2f}" for ratio in ratios)]
        rows.append([key, "", *cells])
    header = ["token positions a pair", "", *names, "TRL / trees", "without padding"]
    print_table("policy forward passes, by pairs a step", header, rows)


if __name__ == "__main__":
    main()
