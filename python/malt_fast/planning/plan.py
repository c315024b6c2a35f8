"""What a run will take, before it is spent: `python -m malt_fast.train --plan [QUESTIONS]`.

    probe: some questions, sampled and graded as the run will; the run reuses their outputs
        --> outputs, tokens, prompt tokens with and without shared prefixes, examples, pairs, disk
        --> tokens per second; a few steps of training --> hours

Every figure names its source. The table is printed and written to DIR/plan.json, where the end of
the run adds what came of each figure; the report shows both.

Assumes that later rounds, and trees sampled from trained roles, are like the first ones. Does not
know how engines behave under other loads. Trains and evaluates nothing.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from malt_fast.config.schema import Config
from malt_fast.engines import Policy
from malt_fast.evaluation.design import design_evaluation
from malt_fast.forest.role_data import Stage, segments_above
from malt_fast.forest.yields import unlimited, yield_rows
from malt_fast.models.plain_text import Tokens
from malt_fast.planning import PROBE
from malt_fast.planning.plan_file import (
    MEMORIES,
    Peaks,
    Row,
    has_current_plan,
    plan_table,
    settings_checksum,
    summary,
    write_plan,
)
from malt_fast.planning.probe import STEPS, Probe, take_probe, time_steps, training_tokens
from malt_fast.runs.directory import resume_command
from malt_fast.runs.run import Run
from malt_fast.sampling.setup import Setup
from malt_fast.training.stage import passes

LONG = 2000  # questions; a run with more begins with its plan
CALLS, GRADING = "calls of the grader", "time of the grader"
KINDS: dict[Stage, tuple[str, ...]] = {  # what a stage learns from
    "sft": ("examples",),
    "dpo": ("pairs", "labelled"),
}


def plan_long_run(run: Run, setup: Setup) -> None:
    """Begin a long run with its plan, unless the run holds one made from the same settings."""
    if run.leads and len(setup.task.train) > LONG and not has_current_plan(run):
        make_plan(run, setup)


def make_plan(run: Run, setup: Setup, questions: int = PROBE) -> list[Row]:
    """Probe, extrapolate, print and write the table. Raises MaltError as sampling does."""
    probe = take_probe(run, setup, questions)
    rows = [*sampling_rows(probe), *yield_figures(probe), *training_rows(run, probe)]
    rows += evaluation_rows(probe, rows)
    rows += [disk_row(probe, rows), total_row(rows, probe.speed is None)]
    speed = {"tokens_per_second": probe.speed, "start_seconds": probe.start}
    write_plan(run.folder, {"made_from": settings_checksum(run.config), "speed": speed}, rows)
    run.say(summary(rows))
    run.console.print(plan_table(rows, run.console.width))
    run.say(f"go on with it: {resume_command(run.folder)}")
    return rows


# ---- sampling ----


def forests_of(config: Config) -> Iterator[tuple[str, int]]:
    """(name, first level whose outputs are not shared with the forest before) of each forest."""
    for index in range(config.train.rounds):
        if config.train.regenerate == "sequential":
            for level, role in enumerate(config.chain):
                yield f"round {index} forest-{role}", max(1, level)
        else:
            yield f"round {index} forest", 1


def sampling_rows(probe: Probe) -> list[Row]:
    """Outputs and tokens by role, prompt tokens and hours, of all forests."""
    config, source = probe.setup.config, probe.source
    forests, rows, sampled = list(forests_of(config)), list[Row](), 0.0
    for name, own in forests:
        for level, role in enumerate(config.chain, 1):
            nodes = probe.nodes(level)
            tokens = float(probe.forest.token_len[nodes].sum()) * probe.scale
            outputs, chosen = len(nodes) * probe.scale, source if probe.waves else "of the settings"
            rows.append(Row(name, role, "outputs", "outputs", outputs, chosen))
            rows.append(Row(name, role, "tokens", "tokens", tokens, source))
            sampled += tokens if level >= own else 0.0
    rows.append(Row("sampling", "", "tokens to sample", "tokens", sampled, source))
    if probe.waves and config.train.rounds > 1:
        rows.append(_settled_row(probe))
    for level, role in enumerate(config.chain, 1):
        asked, shared = prompt_tokens(probe, level)
        what = "prompt tokens per forest"
        rows.append(Row("sampling", role, what, "tokens", asked, source))
        what += ", shared prefixes once"
        rows.append(Row("sampling", role, what, "tokens", shared, source))
    rows += _sampling_time("sampling", sampled, probe, len(forests))
    rows += _memory("sampling", probe.peaks, "of the probe")
    graded = probe.grading * probe.scale * len(forests) / 3600
    if probe.custom is None:
        return [*rows, Row("grading", "", "time", "hours", graded, source)]
    leaves = len(probe.nodes(len(config.chain))) * probe.scale * len(forests)
    return [*rows, *_judging("grading", leaves, probe)]


def _settled_row(probe: Probe) -> Row:
    """The questions that later rounds ask less."""
    outcome = probe.forest.outcome.reshape(len(probe.questions), -1)
    right, wrong = ((outcome == value).any(1) for value in (1, 0))
    settled = float(np.count_nonzero(right != wrong)) * probe.scale
    what = "questions all right or all wrong, asked less in later rounds"
    return Row("sampling", "", what, "questions", settled, probe.source)


def _judging(stage: str, outputs: float, probe: Probe) -> list[Row]:
    """Calls of a custom grader and their hours; those of the probe were perhaps made before."""
    if probe.custom is None:
        return []
    mean = probe.custom.seconds / max(1, probe.custom.scored)
    workers = probe.custom.limits.workers
    hours = outputs * mean / workers / 3600
    source = f"{mean:.3g} s per call of the probe, {workers:,} at once"
    return [
        Row(stage, "", CALLS, "calls", outputs, "one per output, equal ones to a question once"),
        Row(stage, "", "time" if stage == "grading" else GRADING, "hours", hours, source),
    ]


def prompt_tokens(probe: Probe, level: int) -> tuple[float, float]:
    """Tokens of all prompts of a role: as they are sent, and with shared prefixes counted once."""
    forest = probe.forest
    parents, children = np.unique(forest.parent[probe.nodes(level)], return_counts=True)
    prompts = [
        probe.setup.prompts.build(
            level, probe.tokens[p // forest.tree_size], segments_above(forest, p)
        )
        for p in parents.tolist()
    ]
    asked = sum(len(prompt) * n for prompt, n in zip(prompts, children.tolist(), strict=True))
    return asked * probe.scale, trie_size(prompts) * probe.scale


def trie_size(sequences: Sequence[Tokens]) -> int:
    """The number of distinct prefixes, the empty one left out."""
    total, before = 0, list[int]()
    for one in sorted(s.tolist() for s in sequences):
        same = 0
        while same < min(len(one), len(before)) and one[same] == before[same]:
            same += 1
        total += len(one) - same
        before = one
    return total


def _sampling_time(stage: str, tokens: float, probe: Probe, loads: int = 1) -> list[Row]:
    """loads: how often the engine is loaded."""
    if probe.speed is None:
        return []
    hours = (tokens / probe.speed + loads * probe.start) / 3600
    source = f"{probe.speed:,.0f} tokens/s of the probe{_loading(loads, probe.start)}"
    return [Row(stage, "", "time", "hours", hours, source)]


def _loading(times: int, seconds: float) -> str:
    return f", loading {f'{times} x ' if times > 1 else ''}{seconds:.1f} s"


def _memory(stage: str, peaks: Peaks, source: str) -> list[Row]:
    return [Row(stage, "", MEMORIES[key], "MB", float(peak), source) for key, peak in peaks.items()]


# ---- training ----


def yield_figures(probe: Probe) -> list[Row]:
    """Examples, pairs and labelled outputs of each role: as in the run, scaled, then limited."""
    config, rows = probe.setup.config, list[Row]()
    prefs = config.preferences
    for found in yield_rows(probe.forest, probe.credit, unlimited(config)):
        kinds = [("examples", found.examples, prefs.max_examples)]
        on_pairs, on_labels = config.learns(found.role)
        if on_pairs:
            kinds.append(("pairs", found.pairs, prefs.max_pairs))
        if on_labels:
            kinds.append(("labelled", found.labelled, None))
        for kind, count, most in kinds:
            planned = count * probe.scale
            source = f"{probe.source}, {_spread(count, probe.scale)}"
            if most is not None and planned > most:
                planned, source = float(most), f"preferences.max_{kind}"
            rows.append(Row("data", found.role, kind, kind, planned, source))
    return rows


def _spread(count: int, scale: float) -> str:
    """The 95 % uncertainty of a count, taken as a Poisson variable."""
    if not count:
        return f"at most about {3 * scale:,.0f}" if scale > 1 else "none"
    return f"about ±{100 * 1.96 / math.sqrt(count):.0f} %"


def training_rows(run: Run, probe: Probe) -> list[Row]:
    """Tokens of every stage as rows and as packs, and hours extrapolated from timed steps."""
    config, source, rows = probe.setup.config, probe.source, list[Row]()
    counts = {(row.role, row.quantity): row.plan for row in yield_figures(probe)}
    trained: dict[tuple[Stage, str], float] = {}  # tokens per round
    for level, role in enumerate(config.chain, 1):
        for stage, kinds in KINDS.items():
            planned = sum(counts.get((role, kind), 0.0) for kind in kinds)
            if not planned:
                continue
            as_rows, as_packs, found = training_tokens(probe, level, stage)
            args = getattr(config.train, stage).for_role(role)
            share = passes(args, planned) * planned / found
            name = f"{stage} {role}"
            rows.append(Row(name, role, "tokens as rows", "tokens", as_rows * share, source))
            rows.append(Row(name, role, "tokens as packs", "tokens", as_packs * share, source))
            packed = config.train.packing == "trees"
            trained[stage, role] = (as_packs if packed else as_rows) * share
    timed = time_steps(run, probe)
    if timed is None:
        return rows
    rounds = config.train.rounds
    for (stage, role), tokens in trained.items():
        speed = f"{1 / timed.token:,.0f} tokens/s in {STEPS} timed steps"
        cost, more = (4 / 3, ", a third more for the reference") if stage == "dpo" else (1.0, "")
        hours = (tokens * timed.token * cost + timed.start) * rounds / 3600
        from_steps = f"{speed}{more}{_loading(rounds, timed.start)}"
        rows.append(Row(f"{stage} {role}", role, "time", "hours", hours, from_steps))
    rows += _memory("training", timed.peaks, "of the timed steps")
    kept, needs = timed.memory, timed.memory.estimates[timed.memory.method] / 1e6
    return [*rows, Row("training", "", "memory beside the weights", "MB", needs, str(kept))]


# ---- the rest ----


def evaluation_rows(probe: Probe, rows: Sequence[Row]) -> list[Row]:
    """Outputs, tokens and hours of the evaluation; rows: with what each role learns from."""
    setup = probe.setup
    if setup.config.engine.name == "replay" or not setup.task.test:
        return []
    base = setup.base()
    learns = {(row.role, row.quantity) for row in rows if row.stage == "data" and row.plan}
    sft, final = dict(base), dict(base)
    for role, policy in base.items():
        if (role, "examples") in learns:
            sft[role] = final[role] = Policy(policy.base, f"sft {role}")
        if learns & {(role, kind) for kind in KINDS["dpo"]}:
            final[role] = Policy(policy.base, f"final {role}")
    design = design_evaluation(setup, {"base": base, "sft": sft, "final": final})
    levels = range(1, len(setup.config.chain) + 1)
    mean = [float(probe.forest.token_len[probe.nodes(level)].mean()) for level in levels]
    lengths = [mean[s.role - 1] if s.role <= len(mean) else max(mean) for s in design.shape]
    outputs = float(len(design.questions) * len(design.shape))
    tokens = len(design.questions) * sum(lengths)
    source = "of the settings, for the roles that learn by this plan"
    return [
        Row("evaluate", "", "outputs", "outputs", outputs, source),
        Row("evaluate", "", "tokens", "tokens", tokens, f"lengths {probe.source}"),
        *_sampling_time("evaluate", tokens, probe),
        *_judging("evaluate", outputs, probe),
    ]


def disk_row(probe: Probe, rows: Sequence[Row]) -> Row:
    """The store, which is most of what a run leaves beside its adapters."""
    outputs = 0.0
    for name, own in forests_of(probe.setup.config):
        by_level = [row.plan for row in rows if (row.stage, row.quantity) == (name, "outputs")]
        outputs += sum(by_level[own - 1 :])
    outputs += sum(r.plan for r in rows if (r.stage, r.quantity) == ("evaluate", "outputs"))
    size = outputs * probe.row_bytes / 1e6
    return Row("disk", "", "samples", "MB", size, f"{probe.row_bytes:,.0f} bytes per output")


def total_row(rows: Sequence[Row], speed_unknown: bool) -> Row:
    hours = sum(row.plan for row in rows if row.quantity in ("time", GRADING))
    source = "the sum, without the report"
    if speed_unknown:
        source += ", sampling and evaluation, since all outputs of the probe were known"
    return Row("all", "", "time", "hours", hours, source)
