"""What a plan measures: some questions sampled and graded, and a few timed steps of training."""

import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from malt_fast._core.forest import DONE, Credit, Forest
from malt_fast.engines import Completion
from malt_fast.forest.credit import assign_credit
from malt_fast.forest.role_data import RoleData, Stage, role_data
from malt_fast.grading.custom import CustomGrader
from malt_fast.models.plain_text import Tokens
from malt_fast.planning.plan_file import Peaks, peaks_of, planned_speed
from malt_fast.runs.run import Run
from malt_fast.sampling.expand import shape_from_branching
from malt_fast.sampling.grade import custom_grader, grade_leaves
from malt_fast.sampling.progress import SamplingFacts
from malt_fast.sampling.sample import sample
from malt_fast.sampling.setup import Setup
from malt_fast.sampling.waves import Waves, allocation_of, most_outputs
from malt_fast.tasks.task import Question
from malt_fast.training.stage import Choice, StageSpec
from malt_fast.utils.errors import MaltError

STEPS = 5  # of training that are timed


@dataclass(frozen=True)
class Probe:
    """Some questions of a run, sampled and graded as the run will."""

    setup: Setup
    forest: Forest
    credit: Credit
    questions: list[Question]  # one per tree
    speed: float | None  # sampled tokens per second; None if unknown
    start: float  # s, until the engine had loaded and was at work
    grading: float  # s
    custom: CustomGrader | None  # as it was called
    waves: bool  # whether less than full trees were sampled
    peaks: Peaks
    row_bytes: float  # of an output in the store
    scale: float  # questions of the run per question here

    @property
    def source(self) -> str:
        n = len(self.questions)
        return f"measured on {n:,} of {round(n * self.scale):,} questions"

    @cached_property
    def tokens(self) -> list[Tokens]:
        """Of each question."""
        encode = self.setup.prompts.encode_questions
        return list(encode(question.text for question in self.questions))

    def nodes(self, level: int) -> npt.NDArray[np.intp]:
        """The finished outputs of a role."""
        return np.flatnonzero((self.forest.level == level) & (self.forest.state == DONE))

    def role_data(self, level: int, stage: Stage) -> RoleData:
        config, prompts = self.setup.config, self.setup.prompts
        return role_data(self.forest, self.credit, level, self.questions, prompts, config, stage)


def take_probe(run: Run, setup: Setup, questions: int) -> Probe:
    """Sample and grade questions drawn at random; the run will reuse their outputs."""
    config, n = setup.config, len(setup.task.train)
    if not n:
        raise MaltError("there are no training questions to plan for: give --task.path FILE.jsonl")
    drawn = sorted(random.Random(f"plan/{config.seed}").sample(range(n), min(questions, n)))
    some = [setup.task.train[i] for i in drawn]
    shape = shape_from_branching(config.tree.branching, [setup.base()[r] for r in config.chain])
    clock: list[tuple[float, int]] = []
    custom = custom_grader(setup, run.folder)
    how = allocation_of(config, len(some), config.chain, share=len(some) / n)
    waves = Waves(setup, some, how, custom) if how else None
    facts, begun = SamplingFacts(None if waves else len(shape), run.warn), time.monotonic()
    most = round(most_outputs(config, n) * len(some) / n)
    with run.stage("probe", most, facts) as (shown, figures):

        def on_done(completions: Sequence[Completion], *more: Any) -> None:
            before = facts.sampled
            facts.see(shown, completions, *more)
            if facts.sampled > before:
                clock.append((time.monotonic(), facts.sampled - before))

        seed = f"{config.seed}/round-0"
        forest, _, _ = sample(
            setup, run.samples, some, shape, seed, on_done=on_done, next_wave=waves
        )
        figures |= {"trees": len(some), "tokens": int(forest.token_len.sum())}
        figures |= facts.failures.figures()
    sampled = time.monotonic()
    grade_leaves(setup, forest, some, custom)
    grading = time.monotonic() - sampled
    speed = steady_speed(clock)
    start = max(0.0, clock[0][0] - begun - clock[0][1] / speed) if speed else 0.0
    if speed is None:
        speed, start = planned_speed(run.folder)
    store = run.samples.store
    size = sum(file.stat().st_size for file in store.folder.glob("samples-*.arrows"))
    return Probe(
        setup=setup,
        forest=forest,
        credit=assign_credit(config.tree, forest),
        questions=some,
        speed=speed,
        start=start,
        grading=grading,
        custom=custom,
        waves=waves is not None,
        peaks=peaks_of(figures),
        row_bytes=size / max(1, store.next_row),
        scale=n / len(some),
    )


def steady_speed(clock: Sequence[tuple[float, int]]) -> float | None:
    """Tokens per second between the first and the last tenth of all tokens, which leaves out the
    start and the last slow outputs.

    clock: (time in s, tokens) of each arrival of outputs that were not known before.
    """
    if len(clock) < 3:
        return None
    when, tokens = np.array([t for t, _ in clock]), np.cumsum([n for _, n in clock])
    first, last = np.searchsorted(tokens, (0.1 * tokens[-1], 0.9 * tokens[-1])).tolist()
    if when[last] <= when[first]:
        return None
    return float((tokens[last] - tokens[first]) / (when[last] - when[first]))


# ---- training ----


@dataclass(frozen=True)
class TimedSteps:
    token: float  # s per token of SFT
    start: float  # s, to load, begin and save
    peaks: Peaks
    memory: Choice


def time_steps(run: Run, probe: Probe) -> TimedSteps | None:
    """Train a few steps of SFT, for the last role that has data; None if no role has any."""
    from malt_fast.training.train_stage import train_stage  # imports torch and peft

    config = probe.setup.config
    levels = range(len(config.chain), 0, -1)
    level = next((i for i in levels if len(probe.role_data(i, "sft").prompts)), None)
    if level is None:
        return None
    role, clock = config.chain[level - 1], list[tuple[float, float]]()
    chosen = list[Choice]()
    spec = StageSpec.of(config, role, "sft", probe.setup.base()[role])
    few = {"max_steps": STEPS, "logging_steps": 1, "save_steps": 10 * STEPS}
    spec = replace(spec, args=spec.args.model_copy(update=few))
    with (
        run.stage("timed steps") as (_, figures),
        tempfile.TemporaryDirectory(dir=run.folder) as folder,
    ):
        train_stage(
            spec,
            probe.role_data(level, "sft"),
            Path(folder) / "sft",
            lambda line: clock.append((time.monotonic(), line["num_tokens"])),
            chosen.append,
        )
    (begun, before), *_, (ended, after) = clock[:STEPS]
    if after <= before:
        return None
    token = (ended - begun) / (after - before)
    start = max(0.0, figures["seconds"] - after * token)
    return TimedSteps(token, start, peaks_of(figures), chosen[0])


def training_tokens(probe: Probe, level: int, stage: Stage) -> tuple[int, int, int]:
    """(tokens as rows, tokens as packs, examples or pairs) of one pass over the probe's data."""
    from malt_fast.training.batches import sampler_of
    from malt_fast.training.packing import Packer, Packing

    config, data = probe.setup.config, probe.role_data(level, stage)
    args = getattr(config.train, stage).for_role(config.chain[level - 1])
    step = args.per_device_train_batch_size * args.gradient_accumulation_steps
    parts = zip(data.prompts, data.completions, strict=True)
    lengths = np.array([len(prompt) + len(completion) for prompt, completion in parts])
    rows = int((lengths if stage == "sft" else lengths[data.pairs]).sum())
    rows += int(lengths[data.labelled[:, 0]].sum())
    batch, pack_tokens = args.per_device_train_batch_size, config.train.pack_tokens
    packer = Packer(stage, data, Packing("trees", pack_tokens, batch, "cpu"))
    order = list(sampler_of(stage, data, step, config.seed))
    steps = [order[i : i + step] for i in range(0, len(order), step)]
    return rows, sum(packer(one).num_tokens for one in steps), len(order)
