"""What a run will cost, before it is spent: `python -m malt_fast.train --plan [QUESTIONS]`.

    probe: some questions, sampled and graded as the run will, their outputs kept for it
        --> outputs, tokens, prompt tokens with and without shared prefixes, examples, pairs, disk
        --> tokens a second; a few steps of training --> hours

Every figure says where it comes from. The table is DIR/plan.json, too; when the run has ended, it
holds what came of each (`fact`), and the report shows both.

Takes later rounds, and trees grown by trained roles, to be like the first ones; does not know what
engines do under other load. Does not train or evaluate anything.
"""

import json
import math
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.box import SIMPLE
from rich.table import Table

from malt_fast.config import Config
from malt_fast.engines import Completion, Policy
from malt_fast.errors import MaltError
from malt_fast.evaluate import compare
from malt_fast.expand import shape_from_branching
from malt_fast.files import checksum, write_text
from malt_fast.forest import DONE, Credit, Forest
from malt_fast.live import SamplingFacts
from malt_fast.preferences import role_data, segments_above, unlimited, yield_rows
from malt_fast.roles import Tokens
from malt_fast.run import Run
from malt_fast.sampling import Setup, grade_leaves, sample

PROBE = 250  # questions
LONG = 2000  # questions from which a run begins with its plan
STEPS = 5  # of training that are timed
STAGES = ("sft", "dpo")


@dataclass(frozen=True)
class Row:
    """A figure; `fact` once it is known."""

    stage: str
    role: str
    quantity: str
    unit: str
    plan: float
    source: str
    fact: float | None = None


Peaks = Mapping[str, int]  # MB, by what Run.stage calls them

MEMORIES = {"peak_memory_mb": "peak memory", "peak_gpu_memory_mb": "peak GPU memory"}


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
    from malt_fast.train import propagate  # which plans long runs

    rate = steady_rate(clock)
    start = max(0.0, clock[0][0] - begun - clock[0][1] / rate) if rate else 0.0
    if rate is None:
        rate, start = speed_before(run.folder)
    store = run.samples.store
    size = sum(file.stat().st_size for file in store.folder.glob("samples-*.arrows"))
    return Probe(
        setup=setup,
        forest=forest,
        values=propagate(config, forest),
        questions=[setup.prompts.encode_question(question.text) for question in some],
        rate=rate,
        start=start,
        grading=grading,
        peaks=peaks_of(figures),
        row_bytes=size / max(1, store.next_row),
        scale=len(every) / len(some),
    )


def peaks_of(figures: Mapping[str, Any]) -> Peaks:
    return {key: figures[key] for key in MEMORIES if key in figures}


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


def epochs(config: Config, stage: str, role: str, examples: float) -> float:
    """How often a stage sees its data."""
    args = getattr(config.train, stage).for_role(role)
    step = args.per_device_train_batch_size * args.gradient_accumulation_steps
    if args.max_steps > 0:
        return float(args.max_steps * step / examples)
    return float(args.num_train_epochs)


def training_tokens(probe: Probe, level: int, stage: Any) -> tuple[int, int, int]:
    """Of the probe's data, seen once: tokens as rows, tokens as packs, examples or pairs."""
    from malt_fast.batches import TreeSampler, examples_of
    from malt_fast.packing import Packer, Packing

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
    config = probe.setup.config
    return role_data(
        *(probe.forest, probe.values, level, probe.questions, probe.setup.prompts),
        *(config.preferences, config.seed, stage),
    )


def time_steps(run: Run, probe: Probe) -> Steps | None:
    """A few steps of SFT, of the last role that has data; None if there is none."""
    from malt_fast.train import stage_weights, stage_work
    from malt_fast.trainer import train_stage

    config = probe.setup.config
    levels = [i for i in range(len(config.chain), 0, -1) if len(_data(probe, i, "sft").prompts)]
    if not levels:
        return None
    role, clock = config.chain[levels[0] - 1], list[tuple[float, float]]()
    weights = stage_weights(config, role, "sft", probe.setup.base()[role])
    weights["args"] = weights["args"].model_copy(
        update={"max_steps": STEPS, "logging_steps": 1, "save_steps": 10 * STEPS}
    )
    with (
        run.stage("timed steps") as (_, figures),
        tempfile.TemporaryDirectory(dir=run.folder) as folder,
    ):
        train_stage(
            "sft",
            _data(probe, levels[0], "sft"),
            **weights,
            out=Path(folder) / "sft",
            fingerprint="",
            **stage_work(config),
            on_log=lambda line: clock.append((time.monotonic(), line["num_tokens"])),
        )
    (begun, before), *_, (ended, after) = clock[:STEPS]
    if after <= before:
        return None
    token = (ended - begun) / (after - before)
    return Steps(token, max(0.0, figures["seconds"] - after * token), peaks_of(figures))


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


def of_settings(config: Config) -> str:
    """What a plan is made from, told by a checksum."""
    told = config.model_dump(mode="json", exclude={"run", "report_to"})
    return checksum(told)


def planned(run: Run) -> bool:
    """Whether the run's plan is there, made from its settings as they are."""
    return bool(read_rows(run.folder)) and _read(run.folder).get("made_from") == of_settings(
        run.config
    )


def speed_before(run: Path) -> tuple[float | None, float]:
    """Tokens a second and seconds to start, as an earlier plan of the run measured them."""
    try:
        told = _read(run)["speed"]
        return float(told["tokens_per_second"]), float(told["start_seconds"])
    except (LookupError, TypeError, ValueError):
        return None, 0.0


def write_plan(run: Path, about: Mapping[str, Any], rows: Sequence[Row]) -> None:
    told = {"version": 1, **about, "rows": [asdict(row) for row in rows]}
    write_text(run / "plan.json", json.dumps(told, indent=1) + "\n")


def read_rows(run: Path) -> list[Row]:
    """Nothing where there is no plan, or one that cannot be read."""
    try:
        rows = [Row(**row) for row in _read(run)["rows"]]
    except (LookupError, TypeError):
        return []
    return rows if all(math.isfinite(row.plan) for row in rows) else []


def _read(run: Path) -> dict[str, Any]:
    try:
        told = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def fill_facts(run: Run) -> None:
    """Put beside each figure of the run's plan what came of it, as metrics.jsonl tells."""
    from malt_fast.viewer.read import read_lines

    rows = read_rows(run.folder)
    if rows and run.leads:
        facts = facts_of(read_lines(run.path("metrics.jsonl"), []))
        stored = sum(file.stat().st_size for file in run.path("samples").glob("samples-*.arrows"))
        facts["disk", "", "samples"] = stored / 1e6
        filled = [
            replace(row, fact=facts.get((row.stage, row.role, row.quantity), row.fact))
            for row in rows
        ]
        about = {key: value for key, value in _read(run.folder).items() if key != "rows"}
        write_plan(run.folder, about, filled)


def facts_of(lines: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str], float]:
    """By stage, role and quantity: of what was done again the last time, but all time spent on it.

    Memory only grows in a process, so that sampling's is known before training begins.
    """
    facts: dict[tuple[str, str, str], float] = {}
    hours: dict[tuple[str, str], float] = {}  # by stage and role
    trained = False
    for line in filter(_is_whole, lines):
        stage = line["stage"]
        kind, _, role = stage.partition(" ")
        if stage == "yield" and "forest" in line:
            name = f"round {line['round']} {line['forest']}"
            for one in line["roles"]:
                role = one["role"]
                facts[name, role, "outputs"] = one["nodes"]
                facts[name, role, "tokens"] = one["tokens"]
                learns = line["forest"] in ("forest", f"forest-{role}")
                for what in ("examples", "pairs") if learns else ():
                    facts["data", role, what] = one[what]
        elif "seconds" not in line:
            continue
        elif stage == "evaluate":
            facts |= {("evaluate", "", key): line[key] for key in ("outputs", "tokens")}
            hours["evaluate", ""] = line["seconds"]
        elif kind in ("sample", "grade"):
            at = ("sampling" if kind == "sample" else "grading", "")
            hours[at] = hours.get(at, 0.0) + line["seconds"]
            if kind == "sample" and not trained:
                _raise(facts, "sampling", line)
        elif kind in STAGES:
            trained = True
            hours[stage, role] = hours.get((stage, role), 0.0) + line["seconds"]
            _raise(facts, "training", line)
    if hours:
        hours["all", ""] = sum(hours.values())
    return facts | {(*at, "time"): seconds / 3600 for at, seconds in hours.items()}


def _is_whole(line: dict[str, Any]) -> bool:
    """Whether a line of metrics.jsonl has the figures that facts are taken from."""
    from malt_fast.viewer.read import is_number

    numbers = [line.get("seconds", 0), *(line.get(key, 0) for key in MEMORIES)]
    if line["stage"] == "evaluate":
        numbers += [line.get("outputs"), line.get("tokens")]
    elif line["stage"] == "yield":
        needed, roles = ("nodes", "tokens", "examples", "pairs"), line.get("roles")
        if not isinstance(roles, list) or not all(isinstance(one, dict) for one in roles):
            return False
        numbers += [line.get("round"), *(one.get(key) for one in roles for key in needed)]
    return all(map(is_number, numbers))


def _raise(facts: dict[tuple[str, str, str], float], stage: str, line: dict[str, Any]) -> None:
    for key, peak in peaks_of(line).items():
        at = (stage, "", MEMORIES[key])
        facts[at] = max(peak, facts.get(at, 0))


def plan_table(rows: Sequence[Row]) -> Table:
    """For the terminal; of forests, which are taken to be alike, the first."""
    table = Table(title="what the run will take", box=SIMPLE, padding=0)
    for name in ("stage", "role", "what"):
        table.add_column(name, no_wrap=True)
    table.add_column("plan", justify="right", no_wrap=True)
    table.add_column(" from")
    first = next((row.stage for row in rows if row.stage.startswith("round ")), "")
    for row in rows:
        if row.stage.startswith("round ") and row.stage != first:
            continue
        stage = "a forest" if row.stage == first else row.stage.removesuffix(f" {row.role}")
        table.add_row(stage, row.role, row.quantity, amount(row), f" {row.source}")
    return table


def amount(row: Row) -> str:
    """With its unit, where the quantity does not name it."""
    if row.unit == "hours":
        seconds = round(3600 * row.plan)
        return (
            f"{row.plan:,.1f} h" if seconds > 36_000 else f"{seconds // 60} min {seconds % 60:02} s"
        )
    number = f"{row.plan:,.0f}" if row.plan >= 100 else f"{row.plan:.3g}"
    return f"{number} {row.unit}" if row.unit == "MB" else number
