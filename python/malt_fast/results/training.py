"""Training as the page shows it: curves, the quality of the data, plan and time."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from malt_fast.results.charts import Bars, Chart
from malt_fast.results.quality import Quality
from malt_fast.results.run_contents import RunContents
from malt_fast.results.templates import Grid
from malt_fast.runs.metrics import Line, is_number

CURVES = {  # key of the log lines: what it is, its axis
    "loss": ("loss", "loss"),
    "rewards/margins": ("reward of the chosen minus the rejected output", "difference of rewards"),
    "rewards/accuracies": ("pairs whose chosen output has the higher reward", "share of pairs"),
    "kl": ("KTO's estimate of the divergence from the reference", "KL divergence, nats"),
    "logps/chosen": ("log-prob of chosen outputs", "log-prob of an output, nats"),
}
STAGES = {"sft": "SFT", "dpo": "DPO"}
QUALITY = (
    *("role", "outputs", "failed", "cut off %", "same %", "positive %", "mixed blocks %"),
    *("questions without signal %", "examples", "pairs", "labelled"),
    *("chosen longer by, tokens", "95 %"),
)
PEAKS = {"peak_memory_mb": "peak memory, MB", "peak_gpu_memory_mb": "peak GPU memory, MB"}
Curves = dict[tuple[str, str, str], tuple[list[float], list[float]]]  # (stage, key, name): x, y


def training_charts(run: RunContents) -> list[Chart]:
    """One chart per stage and quantity, with a line per role, or per role and round."""
    found = training_curves(run)
    names = list(dict.fromkeys(name for _, _, name in found))
    made = []
    for stage, title in STAGES.items():
        for key, (what, ylabel) in CURVES.items():
            lines = {name: line for (s, k, name), line in found.items() if (s, k) == (stage, key)}
            if lines:
                made.append(Chart(f"{title}: {what}", "optimiser step", ylabel, lines, names=names))
    return made


def training_curves(run: RunContents) -> Curves:
    """The points of every curve."""
    curves = run.curves()
    several = any(index for _, index in curves)
    found: Curves = {}
    for (name, index), lines in curves.items():
        stage, _, role = name.partition("/")
        for key in CURVES:
            points = even_points([line for line in lines if is_number(line.get(key))], key)
            if stage in STAGES and points:
                steps, values = zip(*points, strict=True)
                place = (stage, key, with_round(role, index, several))
                found[place] = (list(steps), list(values))
    return found


def even_points(lines: Sequence[Line], key: str) -> list[tuple[float, float]]:
    """(step, mean since the point before).

    The last point often covers few steps, and a last batch that is not full: where it does, it is
    joined with the one before, in proportion to their tokens, so that it weighs like the others.
    """
    points = [(line["step"], line[key]) for line in lines]
    if len(lines) < 3:
        return points
    steps = [after - before for (before, _), (after, _) in pairwise(points)]
    counts = [line.get("num_tokens") for line in lines[-3:]]
    if steps[-1] >= steps[-2] or not all(is_number(count) for count in counts):
        return points
    first, middle, last = (float(count) for count in counts)  # type: ignore[arg-type]
    if not first < middle < last:
        return points
    (_, before), (step, end) = points[-2:]
    mean = ((middle - first) * before + (last - middle) * end) / (last - first)
    return [*points[:-1], (step, mean)]


# ---- data ----


def quality_table(qualities: Sequence[Quality]) -> Grid:
    rows = []
    for name, one in zip(_names(qualities), qualities, strict=True):
        counts = one.counts
        positive = counts.positives / max(1, counts.positives + counts.negatives)
        shares = (one.truncated, counts.identical, positive, counts.mixed, one.silent)
        longer = ["", ""]
        if one.longer:
            mean, low, high = one.longer
            longer = [f"{mean:+.2f}", f"{low:+.2f}..{high:+.2f}"]
        yields = [f"{n:,}" for n in (counts.examples, one.pairs, counts.labelled)]
        percents = [f"{100 * share:.1f}" for share in shares]
        rows.append([name, f"{one.outputs:,}", f"{counts.failed:,}", *percents, *yields, *longer])
    return Grid(QUALITY, rows)


def quality_bars(qualities: Sequence[Quality]) -> list[Bars]:
    names = _names(qualities)
    yields = {
        "examples": [float(one.counts.examples) for one in qualities],
        "pairs": [float(one.pairs) for one in qualities],
        "labelled outputs": [float(one.counts.labelled) for one in qualities],
    }
    yields = {kind: counts for kind, counts in yields.items() if any(counts)}
    medians = {
        label: [one.length.get(label, (0.0, 0.0, 0.0))[1] for one in qualities]
        for label in ("positive", "negative")
    }
    return [
        Bars("What each role learns from", ", ".join(yields), names, yields, stacked=True),
        Bars("Median length by label", "tokens", names, medians),
    ]


def _names(qualities: Sequence[Quality]) -> list[str]:
    several = len({one.round for one in qualities}) > 1
    return [with_round(one.counts.role, one.round, several) for one in qualities]


def with_round(role: str, index: int, several: bool) -> str:
    return f"{role}, round {index}" if several else role


# ---- plan, time, environment ----


def plan_table(plan: Sequence[Line]) -> Grid:
    rows = []
    for row in plan:
        planned, fact = row.get("plan"), row.get("fact")
        what = [str(row.get(key) or "") for key in ("stage", "role", "quantity", "unit")]
        ratio = (
            f"{fact / planned:.2f}" if is_number(fact) and is_number(planned) and planned else ""
        )
        rows.append([*what, _number(planned), _number(fact), ratio, str(row.get("source") or "")])
    names = ["stage", "role", "quantity", "unit", "plan", "fact", "fact / plan", "source"]
    return Grid(names, rows, words=4)


def stage_table(run: RunContents) -> Grid | None:
    """Time, memory and sampling speed of every stage; None if none has ended."""
    stages = run.stages()
    known = [key for key in PEAKS if any(key in line for line in stages)]
    failed = any(line.get("failed") for line in stages)
    rows = [
        [
            *(_stage_name(line), f"{line['seconds']:,.1f}"),
            *(_number(line.get(key)) for key in known),
            _tokens_per_second(line),
            *([_failures(line)] if failed else []),
        ]
        for line in stages
    ]
    names = ["stage", "seconds", *(PEAKS[key] for key in known), "tokens per second"]
    return Grid([*names, *(["failed outputs"] if failed else [])], rows) if rows else None


def _failures(line: Line) -> str:
    """How many outputs of a stage failed, and why the first one did."""
    reason = line.get("first_failure")
    return _number(line.get("failed")) + (f", the first: {reason}" if reason else "")


def _stage_name(line: Line) -> str:
    """The stage with its forest, if a round has several, and its round, if not named already."""
    forest, index = line.get("forest", "forest"), line.get("round")
    name = str(line["stage"]) + (f", {forest}" if forest != "forest" else "")
    trains = name.partition(" ")[0] in ("sft", "dpo")
    return f"{name}, round {index}" if trains and index else name


def _tokens_per_second(line: Line) -> str:
    """Without tokens that were known before."""
    tokens, known, seconds = line.get("tokens"), line.get("reused_tokens", 0), line["seconds"]
    if not (is_number(tokens) and is_number(known) and seconds > 0):
        return ""
    return _number((tokens - known) / seconds)


def environment_table(environment: Mapping[str, Any]) -> Grid:
    """The machine, then the versions of packages."""
    packages = environment.get("packages")
    versions = packages.items() if isinstance(packages, dict) else ()
    machine = [[key, in_words(value)] for key, value in environment.items() if key != "packages"]
    rows = [*machine, *([key, str(value)] for key, value in versions)]
    return Grid(["what", "version or value"], rows, words=2)


def in_words(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _number(value: Any) -> str:
    if not is_number(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:,.2f}"
