"""A probe: some questions sampled and graded, and a few timed steps of training."""

import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from malt_fast.config.schema import Config
from malt_fast.engines import Completion
from malt_fast.forest.forest import DONE, Credit, Forest
from malt_fast.forest.role_data import role_data
from malt_fast.planning.plan_file import Peaks, peaks_of, speed_before
from malt_fast.runs.run import Run
from malt_fast.sampling.expand import shape_from_branching
from malt_fast.sampling.grade import grade_leaves
from malt_fast.sampling.progress import SamplingFacts
from malt_fast.sampling.sample import sample
from malt_fast.sampling.setup import Setup
from malt_fast.tasks.prompts import Tokens
from malt_fast.training.stage import StageSpec
from malt_fast.utils.errors import MaltError

STEPS = 5  # of training that are timed


@dataclass(frozen=True)
class Steps:
    """A few timed steps of training."""

    token: float  # s, of SFT
    start: float  # s, to load, begin and save
    peaks: Peaks


@dataclass(frozen=True)
class Probe:
    """Some questions, grown and graded as the run will."""

    setup: Setup
    forest: Forest
    values: Credit
    questions: list[Tokens]  # of each tree
    rate: float | None  # sampled tokens a second; None where all was known, and no plan tells
    start: float  # s, until the engine had loaded and was at work
    grading: float  # s
    peaks: Peaks
    row_bytes: float  # of an output in the store
    scale: float  # questions of the run by those here

    @property
    def source(self) -> str:
        n = len(self.questions)
        return f"measured on {n:,} of {round(n * self.scale):,} questions"

    def nodes(self, level: int) -> npt.NDArray[np.intp]:
        return np.flatnonzero((self.forest.level == level) & (self.forest.state == DONE))


def take_probe(run: Run, setup: Setup, questions: int) -> Probe:
    """Sample and grade questions drawn from the run's; it will find their outputs."""
    config, every = setup.config, setup.task.train
    drawn = random.Random(f"plan/{config.seed}")
    some = [every[i] for i in sorted(drawn.sample(range(len(every)), min(questions, len(every))))]
    if not some:
        raise MaltError("there are no training questions to plan for: give --task.path FILE.jsonl")
    shape = shape_from_branching(config.tree.branching, [setup.base()[r] for r in config.chain])
    clock: list[tuple[float, int]] = []
    facts, begun = SamplingFacts(len(shape)), time.monotonic()
    with run.stage("probe", len(some) * len(shape), facts) as (shown, figures):

        def on_done(completions: Sequence[Completion], *more: Any) -> None:
            before = facts.sampled
            facts.see(shown, completions, *more)
            if facts.sampled > before:
                clock.append((time.monotonic(), facts.sampled - before))

        forest, _, _ = sample(
            setup, run.samples, some, shape, f"{config.seed}/round-0", on_done=on_done
        )
        figures |= {"trees": len(some), "tokens": int(forest.token_len.sum())}
    sampled = time.monotonic()
    grade_leaves(setup, forest, some)
    grading = time.monotonic() - sampled
    from malt_fast.forest.credit import assign_credit  # which plans long runs

    rate = steady_rate(clock)
    start = max(0.0, clock[0][0] - begun - clock[0][1] / rate) if rate else 0.0
    if rate is None:
        rate, start = speed_before(run.folder)
    store = run.samples.store
    size = sum(file.stat().st_size for file in store.folder.glob("samples-*.arrows"))
    return Probe(
        setup=setup,
        forest=forest,
        values=assign_credit(config.tree, forest),
        questions=[setup.prompts.encode_question(question.text) for question in some],
        rate=rate,
        start=start,
        grading=grading,
        peaks=peaks_of(figures),
        row_bytes=size / max(1, store.next_row),
        scale=len(every) / len(some),
    )


def steady_rate(clock: Sequence[tuple[float, int]]) -> float | None:
    """Tokens a second between the first and the last tenth, without the start and the stragglers.

    clock: when outputs came that were not known before, and their tokens.
    """
    if len(clock) < 3:
        return None
    when, tokens = np.array([t for t, _ in clock]), np.cumsum([n for _, n in clock])
    first, last = np.searchsorted(tokens, (0.1 * tokens[-1], 0.9 * tokens[-1])).tolist()
    if when[last] <= when[first]:
        return None
    return float((tokens[last] - tokens[first]) / (when[last] - when[first]))


def epochs(config: Config, stage: str, role: str, examples: float) -> float:
    """How often a stage sees its data."""
    args = getattr(config.train, stage).for_role(role)
    step = args.per_device_train_batch_size * args.gradient_accumulation_steps
    if args.max_steps > 0:
        return float(args.max_steps * step / examples)
    return float(args.num_train_epochs)


def training_tokens(probe: Probe, level: int, stage: Any) -> tuple[int, int, int]:
    """Of the probe's data, seen once: tokens as rows, tokens as packs, examples or pairs."""
    from malt_fast.training.batches import TreeSampler, examples_of
    from malt_fast.training.packing import Packer, Packing

    config, data = probe.setup.config, _data(probe, level, stage)
    args = getattr(config.train, stage).for_role(config.chain[level - 1])
    step = args.per_device_train_batch_size * args.gradient_accumulation_steps
    lengths = np.array(
        [len(p) + len(c) for p, c in zip(data.prompts, data.completions, strict=True)]
    )
    rows = int(lengths.sum() if stage == "sft" else lengths[data.pairs].sum())
    shape = Packing(
        "trees", config.train.pack_tokens, args.per_device_train_batch_size, "cpu", 0, 1
    )
    packer = Packer(stage, data, shape)
    order = list(TreeSampler(*examples_of(stage, data), step, config.seed))
    steps = [order[i : i + step] for i in range(0, len(order), step)]
    return rows, sum(packer(one).num_tokens for one in steps), len(order)


def _data(probe: Probe, level: int, stage: Any) -> Any:
    prompts, config = probe.setup.prompts, probe.setup.config
    return role_data(probe.forest, probe.values, level, probe.questions, prompts, config, stage)


def time_steps(run: Run, probe: Probe) -> Steps | None:
    """A few steps of SFT, of the last role that has data; None if there is none."""
    from malt_fast.training.train_stage import train_stage  # imports torch and peft

    config = probe.setup.config
    levels = [i for i in range(len(config.chain), 0, -1) if len(_data(probe, i, "sft").prompts)]
    if not levels:
        return None
    role, clock = config.chain[levels[0] - 1], list[tuple[float, float]]()
    spec = StageSpec.of(config, role, "sft", probe.setup.base()[role])
    few = {"max_steps": STEPS, "logging_steps": 1, "save_steps": 10 * STEPS}
    spec = replace(spec, args=spec.args.model_copy(update=few))
    with (
        run.stage("timed steps") as (_, figures),
        tempfile.TemporaryDirectory(dir=run.folder) as folder,
    ):
        train_stage(
            spec,
            _data(probe, levels[0], "sft"),
            Path(folder) / "sft",
            lambda line: clock.append((time.monotonic(), line["num_tokens"])),
        )
    (begun, before), *_, (ended, after) = clock[:STEPS]
    if after <= before:
        return None
    token = (ended - begun) / (after - before)
    return Steps(token, max(0.0, figures["seconds"] - after * token), peaks_of(figures))
