"""What a run will cost, before it is spent: `python -m malt_fast.train --plan [QUESTIONS]`.

    probe: some questions, sampled and graded as the run will, their outputs kept for it
        --> outputs, tokens, prompt tokens with and without shared prefixes, examples, pairs, disk
        --> tokens a second; a few steps of training --> hours

Every figure says where it comes from. The table is DIR/plan.json, too; when the run has ended, it
holds what came of each (`fact`), and the report shows both.

Takes later rounds, and trees grown by trained roles, to be like the first ones; does not know what
engines do under other load. Does not train or evaluate anything.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from malt_fast.config.schema import Config
from malt_fast.engines import Policy
from malt_fast.evaluation.design import compare
from malt_fast.forest.role_data import segments_above
from malt_fast.forest.yields import unlimited, yield_rows
from malt_fast.planning.plan_file import (
    MEMORIES,
    STAGES,
    Peaks,
    Row,
    of_settings,
    plan_table,
    planned,
    write_plan,
)
from malt_fast.planning.probe import (
    STEPS,
    Probe,
    epochs,
    take_probe,
    time_steps,
    training_tokens,
)
from malt_fast.runs.run import Run
from malt_fast.sampling.setup import Setup
from malt_fast.tasks.prompts import Tokens

PROBE = 250  # questions
LONG = 2000  # questions from which a run begins with its plan


def plan_long_run(run: Run, setup: Setup) -> None:
    """Begin a long run with its plan, unless the run holds one made from the same settings."""
    if run.leads and len(setup.task.train) > LONG and not planned(run):
        make_plan(run, setup)


def make_plan(run: Run, setup: Setup, questions: int = PROBE) -> list[Row]:
    """Probe, extrapolate, print and write the table. Raises MaltError as sampling does."""
    probe = take_probe(run, setup, questions)
    rows = [*sampling_rows(probe), *yield_figures(probe), *training_rows(run, probe)]
    rows += [*evaluation_rows(probe, rows), *disk_rows(probe, rows)]
    rows.append(total(rows, probe.rate is None))
    speed = {"tokens_per_second": probe.rate, "start_seconds": probe.start}
    write_plan(run.folder, {"made_from": of_settings(run.config), "speed": speed}, rows)
    run.console.print(plan_table(rows))
    return rows


# ---- sampling ----


def forests_of(config: Config) -> Iterator[tuple[str, int]]:
    """Every forest of the run, and from which level on it has outputs of its own."""
    for index in range(config.train.rounds):
        if config.train.regenerate == "sequential":
            yield from (
                (f"round {index} forest-{role}", max(1, level))
                for level, role in enumerate(config.chain)
            )
        else:
            yield f"round {index} forest", 1


def sampling_rows(probe: Probe) -> list[Row]:
    """Outputs and tokens by role, prompt tokens, and hours, of all forests."""
    config, rows = probe.setup.config, []
    fresh = 0.0
    for name, own in forests_of(config):
        for level, role in enumerate(config.chain, 1):
            nodes = probe.nodes(level)
            tokens = float(probe.forest.token_len[nodes].sum()) * probe.scale
            planned = float(np.count_nonzero(probe.forest.level == level)) * probe.scale
            rows.append(Row(name, role, "outputs", "outputs", planned, "of the settings"))
            rows.append(Row(name, role, "tokens", "tokens", tokens, probe.source))
            fresh += tokens if level >= own else 0.0
    rows.append(Row("sampling", "", "tokens to sample", "tokens", fresh, probe.source))
    for level, role in enumerate(config.chain, 1):
        asked, shared = prompt_tokens(probe, level)
        rows.append(Row("sampling", role, "prompt tokens a forest", "tokens", asked, probe.source))
        what = "prompt tokens a forest, shared prefixes once"
        rows.append(Row("sampling", role, what, "tokens", shared, probe.source))
    forests = sum(1 for _ in forests_of(config))
    rows += _hours("sampling", fresh, probe, forests)
    rows += _memory("sampling", probe.peaks, "of the probe")
    graded = probe.grading * probe.scale * forests / 3600
    rows.append(Row("grading", "", "time", "hours", graded, probe.source))
    return rows


def _memory(stage: str, peaks: Peaks, source: str) -> list[Row]:
    return [Row(stage, "", MEMORIES[key], "MB", float(peak), source) for key, peak in peaks.items()]


def prompt_tokens(probe: Probe, level: int) -> tuple[float, float]:
    """Of all requests of a role: as they are, and those that no other prompt begins with."""
    forest, size = probe.forest, len(probe.forest) // len(probe.questions)
    parents = np.unique(forest.parent[probe.nodes(level)])
    prompts = [
        probe.setup.prompts.build(level, probe.questions[p // size], segments_above(forest, p))
        for p in parents.tolist()
    ]
    children = forest.n_children[parents].tolist()
    asked = sum(len(prompt) * n for prompt, n in zip(prompts, children, strict=True))
    return asked * probe.scale, trie_size(prompts) * probe.scale


def trie_size(sequences: Sequence[Tokens]) -> int:
    """Tokens of a tree of prefixes."""
    ordered = sorted(s.tolist() for s in sequences)
    total = 0
    before: list[int] = []
    for one in ordered:
        same = next(
            (i for i, (a, b) in enumerate(zip(one, before, strict=False)) if a != b),
            min(len(one), len(before)),
        )
        total += len(one) - same
        before = one
    return total


def _hours(stage: str, tokens: float, probe: Probe, loads: int = 1) -> list[Row]:
    if probe.rate is None:
        return []
    source = f"{probe.rate:,.0f} tokens/s of the probe{_loading(loads, probe.start)}"
    return [
        Row(stage, "", "time", "hours", (tokens / probe.rate + loads * probe.start) / 3600, source)
    ]


def _loading(times: int, seconds: float) -> str:
    return f", loading {f'{times} x ' if times > 1 else ''}{seconds:.1f} s"


# ---- what roles learn from ----


def yield_figures(probe: Probe) -> list[Row]:
    """Examples and pairs of each role, by the run's own selection, scaled, then capped."""
    config = probe.setup.config
    prefs, rows = config.preferences, []
    for found in yield_rows(probe.forest, probe.values, unlimited(config)):
        kinds = [("examples", found.examples, prefs.max_examples)]
        if found.role in config.dpo_roles:
            kinds.append(("pairs", found.pairs, prefs.max_pairs))
        for kind, count, most in kinds:
            planned = count * probe.scale
            source = f"{probe.source}, {_spread(count, probe.scale)}"
            if most is not None and planned > most:
                planned, source = float(most), f"preferences.max_{kind}"
            rows.append(Row("data", found.role, kind, kind, planned, source))
    return rows


def _spread(count: int, scale: float) -> str:
    """How sure a count is, with 95 %, as of a Poisson variable."""
    if not count:
        return f"at most about {3 * scale:,.0f}" if scale > 1 else "none"
    return f"about ±{100 * 1.96 / math.sqrt(count):.0f} %"


def training_rows(run: Run, probe: Probe) -> list[Row]:
    """Tokens of every stage as rows and as packs, and hours by a few timed steps."""
    config, rows = probe.setup.config, []
    counts = {(row.role, row.quantity): row.plan for row in yield_figures(probe)}
    packed: dict[tuple[str, str], float] = {}
    for level, role in enumerate(config.chain, 1):
        for stage, kind in zip(STAGES, ("examples", "pairs"), strict=True):
            planned = counts.get((role, kind), 0.0)
            if not planned or (stage == "dpo" and role not in config.dpo_roles):
                continue
            as_rows, as_packs, found = training_tokens(probe, level, stage)
            share = epochs(config, stage, role, planned) * planned / found
            name = f"{stage} {role}"
            rows.append(Row(name, role, "tokens as rows", "tokens", as_rows * share, probe.source))
            rows.append(
                Row(name, role, "tokens as packs", "tokens", as_packs * share, probe.source)
            )
            packed[stage, role] = (as_packs if config.train.packing == "trees" else as_rows) * share
    timed = time_steps(run, probe)
    if timed is None:
        return rows
    rounds = config.train.rounds
    for (stage, role), tokens in packed.items():
        more = 4 / 3 if stage == "dpo" else 1.0  # the reference's forward
        source = f"{1 / timed.token:,.0f} tokens/s in {STEPS} timed steps"
        source += ", a third more for the reference" if stage == "dpo" else ""
        source += _loading(rounds, timed.start)
        hours = (tokens * timed.token * more + timed.start) * rounds / 3600
        rows.append(Row(f"{stage} {role}", role, "time", "hours", hours, source))
    return rows + _memory("training", timed.peaks, "of the timed steps")


# ---- the rest ----


def evaluation_rows(probe: Probe, rows: Sequence[Row]) -> list[Row]:
    """Outputs, tokens and hours of the evaluation."""
    setup = probe.setup
    if setup.config.engine.name == "replay" or not setup.task.test:
        return []
    base, learns = (
        setup.base(),
        {(r.role, r.quantity) for r in rows if r.stage == "data" and r.plan},
    )
    sft, final = dict(base), dict(base)
    for role, policy in base.items():
        if (role, "examples") in learns:
            sft[role] = final[role] = Policy(policy.base, f"sft {role}")
        if (role, "pairs") in learns:
            final[role] = Policy(policy.base, f"final {role}")
    made = compare(setup, {"base": base, "sft": sft, "final": final})
    mean = [float(probe.forest.token_len[probe.nodes(i)].mean()) for i in levels_of(probe)]
    lengths = [mean[slot.role - 1] if slot.role <= len(mean) else max(mean) for slot in made.shape]
    n = len(made.questions)
    tokens = n * sum(lengths)
    source = f"lengths {probe.source}"
    learning = "of the settings, for the roles that learn by this plan"
    return [
        Row("evaluate", "", "outputs", "outputs", float(n * len(made.shape)), learning),
        Row("evaluate", "", "tokens", "tokens", tokens, source),
        *_hours("evaluate", tokens, probe),
    ]


def levels_of(probe: Probe) -> range:
    return range(1, len(probe.setup.config.chain) + 1)


def disk_rows(probe: Probe, rows: Sequence[Row]) -> list[Row]:
    """The store, which is most of what a run leaves beside its adapters."""
    fresh = 0.0
    for name, own in forests_of(probe.setup.config):
        mine = [row.plan for row in rows if row.stage == name and row.quantity == "outputs"]
        fresh += sum(mine[own - 1 :])
    fresh += sum(r.plan for r in rows if (r.stage, r.quantity) == ("evaluate", "outputs"))
    size = fresh * probe.row_bytes / 1e6
    return [Row("disk", "", "samples", "MB", size, f"{probe.row_bytes:,.0f} bytes an output")]


def total(rows: Sequence[Row], unknown: bool) -> Row:
    """unknown: how fast outputs come."""
    hours = sum(row.plan for row in rows if row.quantity == "time")
    source = "the sum, without the report"
    if unknown:
        source += ", sampling and evaluation, since the probe's outputs were all known"
    return Row("all", "", "time", "hours", hours, source)


# ---- plan.json ----
