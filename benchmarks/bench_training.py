"""Speed of training a role on packs of prefix trees, against plain rows and against TRL.

All contenders have the same model, LoRA, AdamW, data and examples per step, and are given the
reference log-probs. On a CPU they take turns step by step in one process, so that a busy moment
hits all and losses can be compared. The h100 preset is a model of Llama-3.1-8B's shape with random
weights, in bfloat16 under autocast. Memory has no room for two, so the contenders run one after
another, each after the steps with the longest pack and the longest rows. They are measured with
every method of activation checkpointing (none, selective, full; TRL has none and full), and with
Liger's fused layers (RMSNorm, RoPE, SwiGLU) or without, if liger-kernel is installed. The tiny
preset is the same on a CPU, without Liger, to test the program. Model FLOPs: 4 per weight and
position (forward, and backward through frozen weights), without attention and recomputation.

- trees, rows: malt-fast with this `--train.packing`
- DPO: TRL's DPOTrainer, a step as one padded batch, or in micro-batches of 4 pairs (less padding).
  TRL 1.16 always computes log-probs in chunks, without logits.
- SFT: TRL's SFTTrainer, a step as one padded batch, or packed (bfd, no padding), a pack per forward

The workload has the paper's shape: n outputs of each role per output above, lognormal lengths with
means of 150 (question), 300, 200 and 300 tokens, leaves correct with probability 1/2, all sibling
pairs. Token positions are those of policy forward passes, padding included; for TRL also in the
random order that it uses by default.

    python benchmarks/bench_training.py --json benchmarks/results/training.json
    python benchmarks/bench_training.py --preset h100 --json benchmarks/results/training_gpu.json
    python benchmarks/bench_training.py --preset h100 --profile step.txt

The preset smollm2 trains a real model on pairs of real text (real_pairs.py):

    python benchmarks/bench_training.py --preset smollm2 --base CHECKPOINT \\
        --solutions example_model_solutions.jsonl --json benchmarks/results/training_real.json
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from common import environment, gpu, peak_growth, print_table, summary, write_json
from real_pairs import refinement_pairs
from training_contenders import Setting, Step, Way, malt_fast, random_model, trl_dpo, trl_sft
from training_profile import operations
from training_workload import VOCABULARY, model_flops, order_of, positions, positives, workload

from malt_fast.forest.role_data import RoleData, Stage
from malt_fast.training.packing import Packer, Packing
from malt_fast.training.stage import METHODS, Layout, Method
from malt_fast.utils.quiet import quiet

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
        methods=METHODS,
        in_turns=False,
    ),
    "tiny": Setting(
        "cpu",
        "bfloat16",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
        },
        steps=2,
        size=4,
        stages=("dpo-refiner", "sft-refiner"),
        micro=(0, 2),
        methods=METHODS,
        in_turns=False,
    ),
    "smollm2": Setting(
        "cpu",
        "float32",
        {
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
        },
        steps=4,
        size=8,
        stages=("dpo-refiner",),
        layouts=("trees",),  # 8 rows at once, or more pairs of TRL's, take over 16 GB
        micro=(2, 1),
    ),
}

# ---- measuring ----


def makers(
    stage: Stage, data: RoleData, args: argparse.Namespace, folder: Path, *, rivals: bool = True
) -> dict[str, Callable[[], Step]]:
    setting: Setting = args.setting
    base, held = args.base or random_model(folder / "base", setting), {}

    def ours(layout: Layout, way: Way) -> Step:
        where = folder / f"{layout}-{way.method}"
        step, held["logp"] = malt_fast(stage, layout, way, base, data, args, where)
        return step

    def dpo(size: int, way: Way) -> Step:
        where = folder / f"trl{size}-{way.method}"
        return trl_dpo(base, data, held["logp"], size, way, setting, where)

    def sft(packed: bool, way: Way) -> Step:
        return trl_sft(base, data, packed, way, setting, folder / f"trl{packed}-{way.method}")

    others: dict[str, Callable[[Way], Step]] = {
        f"TRL, batches of {n}" if n else "TRL": partial(dpo, n or setting.size)
        for n in setting.micro
    }
    if stage == "sft":
        others = {"TRL, padded": partial(sft, False), "TRL, packed": partial(sft, True)}
    all_ours = {layout: partial(ours, layout) for layout in setting.layouts}
    theirs: list[Method] = [method for method in setting.methods if method != "selective"]
    liger = setting.device == "cuda" and find_spec("liger_kernel") is not None
    return {
        name
        + (f", {method}" if len(setting.methods) > 1 else "")
        + (", Liger" if fused else ""): partial(make, Way(method, fused))
        for contenders, methods in ((all_ours, setting.methods), (others, theirs))
        for name, make in contenders.items()
        if rivals or contenders is all_ours
        for method in methods
        for fused in ((False, True) if liger else (False,))
    }


def steps_of(
    stage: Stage, role: str, args: argparse.Namespace
) -> tuple[RoleData, list[np.ndarray]]:
    """The data, and the indices of each step."""
    setting: Setting = args.setting
    if args.solutions:
        data = refinement_pairs(args.solutions, args.base, 2 * setting.steps * setting.size)
    else:
        a_tree = {"verifier": 3, "refiner": 9}[role]  # examples at least, with 3 outputs per node
        data = workload(role, 3, 2 * setting.steps * setting.size // a_tree + 2, seed=0)
    if stage == "sft":
        data = positives(data)
    order = order_of(stage, data, setting.size)
    return data, [s for s in order if len(s) == setting.size][: setting.steps]


def measure(stage: Stage, role: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    setting: Setting = args.setting
    data, steps = steps_of(stage, role, args)
    make = makers(stage, data, args, folder)
    if setting.in_turns:
        seconds, losses, peak = in_turns(make, steps)
    else:
        warm_up = longest_steps(stage, data, steps, args)
        seconds, losses, peak = one_after_another(make, warm_up, steps, setting.device)
    rival = next(name for name in losses if name.startswith("TRL"))
    packs = min((s for name, s in seconds.items() if name.startswith("trees")), key=sum)
    flops = model_flops(stage, data, steps, setting.model, args.pack_tokens)
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
        "model_flops_per_s": flops / sum(packs),
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


def one_after_another(
    make: dict[str, Callable[[], Step]],
    warm_up: list[np.ndarray],
    steps: list[np.ndarray],
    device: str,
) -> Measured:
    seconds: dict[str, list[float]] = {name: [] for name in make}
    losses: dict[str, list[float]] = {name: [] for name in make}
    peak = {}
    for name, each in make.items():
        step = each()
        try:
            for indices in warm_up:
                step(indices)
            peak[name] = peak_of(partial(step, warm_up[0]), device)
            for indices in steps:
                start = time.perf_counter()
                losses[name].append(step(indices))  # .item() synchronises with the GPU
                seconds[name].append(time.perf_counter() - start)
        except torch.OutOfMemoryError:
            print(f"{name}: out of memory, left out")
            del seconds[name], losses[name]
        del step
        gc.collect()
        torch.cuda.empty_cache()
    return seconds, losses, peak


def peak_of(function: Callable[[], object], device: str) -> int:
    """Peak bytes while the function runs: of a GPU with the weights, of a CPU without."""
    if device == "cpu":
        return peak_growth(function)
    torch.cuda.reset_peak_memory_stats()
    function()
    return torch.cuda.max_memory_allocated()


def longest_steps(
    stage: Stage, data: RoleData, steps: list[np.ndarray], args: argparse.Namespace
) -> list[np.ndarray]:
    """The steps with the largest pack and with the largest batch of rows.

    After them no step is longer than all before, for which a GPU's memory would be allocated anew.
    """
    setting, found = args.setting, []
    for layout in ("trees", "rows"):
        packing = Packing(layout, args.pack_tokens, setting.size, setting.device)
        packer = Packer(stage, data, packing)
        found.append(max(steps, key=lambda step: packer.longest(step.tolist())))
    return found


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
    parser.add_argument("--steps", type=int, help="instead of the preset's")
    parser.add_argument("--layers", type=int, help="of the model, instead of the preset's")
    parser.add_argument("--pack-tokens", type=int, default=16384)
    every = [f"{stage}-{role}" for stage in ("dpo", "sft") for role in ("refiner", "verifier")]
    parser.add_argument("--only", nargs="*", choices=every)
    parser.add_argument("--base", help="checkpoint of the preset smollm2")
    parser.add_argument("--solutions", type=Path, help="of the preset smollm2: real_pairs.py")
    parser.add_argument("--methods", nargs="*", choices=METHODS, help="instead of the preset's")
    parser.add_argument("--profile", type=Path, help="write tables of our operations here, only")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if (args.preset == "smollm2") != bool(args.base and args.solutions):
        parser.error("--preset smollm2, --base and --solutions belong together")
    args.setting = PRESETS[args.preset]
    if args.steps:
        args.setting = replace(args.setting, steps=args.steps)
    if args.layers:
        fewer = args.setting.model | {"num_hidden_layers": args.layers}
        args.setting = replace(args.setting, model=fewer)
    if args.methods:
        args.setting = replace(args.setting, methods=tuple(args.methods))
    if args.profile:
        with tempfile.TemporaryDirectory() as folder, quiet():
            write_profile(args, Path(folder))
        return
    counts = {} if args.solutions else synthetic_positions(args.pack_tokens)
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


def write_profile(args: argparse.Namespace, folder: Path) -> None:
    tables = []
    for only in args.only or args.setting.stages:
        stage, role = cast(tuple[Stage, str], only.split("-"))
        data, steps = steps_of(stage, role, args)
        ours = makers(stage, data, args, folder / only, rivals=False)
        warm_up = longest_steps(stage, data, steps, args)
        tables += operations(only, ours, warm_up, steps[0], args.setting.device)
    args.profile.write_text("\n".join(tables))


def synthetic_positions(pack_tokens: int) -> dict[str, dict[str, float]]:
    """Token positions per pair of each way to batch, by shape of the trees; printed."""
    counts = {
        f"{role}, n = {n}, {size} pairs": positions(
            workload(role, n, questions, seed=1), size, pack_tokens
        )
        for role in ("refiner", "verifier")
        for size in (8, 16)
        for n, questions in ((3, 60), (5, 20), (8, 6))
    }
    show_positions(counts)
    return counts


def show_positions(counts: dict[str, dict[str, float]]) -> None:
    names = list(next(iter(counts.values())))
    rows = []
    for key, value in counts.items():
        ratios = [value[name] / value["trees"] for name in (names[2], names[-1])]
        cells = [*(f"{value[name]:.0f}" for name in names), *(f"{ratio:.2f}" for ratio in ratios)]
        rows.append([key, "", *cells])
    header = ["token positions per pair", "", *names, "TRL / trees", "without padding"]
    print_table("policy forward passes, by pairs per step", header, rows)


if __name__ == "__main__":
    main()
