"""The page of a run: the figures, tables and charts of its sections, laid out by page.html."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from malt_fast.config.load import flat, make_config, with_task_defaults
from malt_fast.config.schema import Config
from malt_fast.config.yaml_files import yaml_text
from malt_fast.evaluation.result import EvaluationResult, Flip
from malt_fast.evaluation.tables import main_table, shown, suite_tables
from malt_fast.results import charts
from malt_fast.results.charts import Chart
from malt_fast.results.quality import Quality
from malt_fast.results.run_contents import RunContents
from malt_fast.results.templates import HTML, Grid
from malt_fast.results.trees import TreeData
from malt_fast.runs.metrics import Line, is_number
from malt_fast.utils.errors import MaltError, Problems

CURVES = {  # of training: key of the log lines, title on the page
    "loss": "loss",
    "rewards/margins": "reward of chosen minus rejected",
    "rewards/accuracies": "pairs whose chosen output has the higher reward",
    "logps/chosen": "log-prob of chosen outputs",
}
QUALITY = (
    *("role", "outputs", "failed", "cut off %", "same %", "positive %", "mixed blocks %"),
    *("questions without signal %", "examples", "pairs", "chosen longer by, tokens", "95 %"),
)
PEAKS = {"peak_memory_mb": "peak memory, MB", "peak_gpu_memory_mb": "peak GPU memory, MB"}


def page(
    run: RunContents, problems: Problems, qualities: Sequence[Quality], trees: TreeData | None
) -> Iterator[str]:
    """The page as a stream of text. The data of the trees, nearly all of its size, comes last."""
    config, result = run.config, run.evaluation
    return HTML.get_template("page.html").generate(
        name=run.name,
        facts=facts(run),
        summary=summary(result) if result else "",
        warnings=run.warnings(),
        problems=problems,
        tables=result_tables(result) if result else [],
        evaluation_charts=evaluation_charts(result) if result else [],
        training_charts=training_charts(run),
        data=quality_table(qualities) if qualities else None,
        data_charts=quality_charts(qualities) if qualities else [],
        plan=plan_table(run.plan) if run.plan else None,
        stages=stage_table(run),
        environment=environment_table(run.environment) if run.environment else None,
        changed=changed_settings(config) if config else None,
        settings=yaml_text(config.model_dump(mode="json", exclude={"run"})) if config else "",
        prompts=run.prompts,
        trees=trees,
    )


def facts(run: RunContents) -> list[str]:
    """What was trained, and when."""
    config, found = run.config, list[str]()
    if config:
        found += [config.task.name, config.model.name_or_path, f"seed {config.seed}"]
    begun = run.metrics[0].get("time") if run.metrics else None
    if is_number(begun):
        found.append(time.strftime("begun %Y-%m-%d %H:%M UTC", time.gmtime(begun)))
    return found


# ---- results ----


def summary(result: EvaluationResult) -> str:
    """The accuracy of MALT, and its difference to the first system it is compared with."""
    first = result.paired[0]
    malt, other = result.system(result.malt), result.system(first.b)
    low, high = (100 * end for end in malt.ci95)
    least, most = (100 * end for end in first.ci95)
    p = "p < 0.0001" if first.p_value < 1e-4 else f"p = {first.p_value:.2g}"
    return (
        f"{malt.name} answers {100 * malt.accuracy:.1f} % of {malt.n:,} held-out questions "
        f"correctly (95 % interval {low:.1f} to {high:.1f}), {first.b} "
        f"{100 * other.accuracy:.1f} %: {100 * first.difference:+.1f} points on the same "
        f"questions ({least:+.1f} to {most:+.1f}, {p})."
    )


def result_tables(result: EvaluationResult) -> list[tuple[str, Grid, str]]:
    """(title, table, note) of each."""
    made = suite_tables(result) if result.suite == "paper" else [main_table(result)]
    return [(one.title, Grid([c.name for c in one.columns], shown(one)), one.note) for one in made]


def evaluation_charts(result: EvaluationResult) -> list[Chart]:
    rows = [(system.name, system.accuracy, system.ci95) for system in result.systems]
    made = [charts.bars("Accuracy by system", rows, result.malt)]
    if curves := result.curves:
        votes = {name: (curve.calls, _percent(curve.majority)) for name, curve in curves.items()}
        bands = {
            name: [(100 * low, 100 * high) for low, high in curve.majority_ci95]
            for name, curve in curves.items()
        }
        title = "Accuracy of the majority's answer, by calls"
        made.append(charts.lines(title, votes, "calls", "accuracy, %", bands))
    if turns := answered_turns(result):
        made.append(charts.lines("Accuracy after each turn", turns, "turn", "accuracy, %"))
    if flips := result.flips:
        changed: tuple[Flip, ...] = ("wrong_to_right", "right_to_wrong")
        parts = {
            flip.replace("_", " "): _percent([shares[flip] for shares in flips.values()])
            for flip in changed
        }
        title = "Answers that change from draft to end"
        made.append(charts.grouped(title, list(flips), parts, "questions, %", stacked=True))
    return made


def _percent(shares: Sequence[float]) -> list[float]:
    return [100 * share for share in shares]


def answered_turns(result: EvaluationResult) -> dict[str, tuple[list[float], list[float]]]:
    """(turn, accuracy in percent) of each system, for the roles that mostly state an answer."""
    found = {}
    for name, turns in result.turns.items():
        points = [
            (k, 100 * turn.accuracy) for k, turn in enumerate(turns, 1) if turn.answered > 0.5
        ]
        if len(points) > 1:
            found[name] = ([float(k) for k, _ in points], [share for _, share in points])
    return found


# ---- training ----


def training_charts(run: RunContents) -> list[Chart]:
    """One chart per stage and quantity, with a line per role, or per role and round."""
    curves = run.curves()
    several = any(index for _, index in curves)
    made = []
    for stage in ("sft", "dpo"):
        for key, title in CURVES.items():
            series = {}
            for (name, index), lines in curves.items():
                kind, _, role = name.partition("/")
                points = [(line["step"], line[key]) for line in lines if is_number(line.get(key))]
                if kind == stage and points:
                    steps, values = zip(*points, strict=True)
                    series[_with_round(role, index, several)] = (steps, values)
            if series:
                made.append(charts.lines(f"{stage.upper()}: {title}", series, "step", key))
    return made


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
        yields = [f"{counts.examples:,}", f"{one.pairs:,}"]
        percents = [f"{100 * share:.1f}" for share in shares]
        rows.append([name, f"{one.outputs:,}", f"{counts.failed:,}", *percents, *yields, *longer])
    return Grid(QUALITY, rows)


def quality_charts(qualities: Sequence[Quality]) -> list[Chart]:
    names = _names(qualities)
    yields = {
        "examples": [float(one.counts.examples) for one in qualities],
        "pairs": [float(one.pairs) for one in qualities],
    }
    medians = {
        label: [one.length.get(label, (0.0, 0.0, 0.0))[1] for one in qualities]
        for label in ("positive", "negative")
    }
    title, xlabel = "What each role learns from", "examples and pairs"
    return [
        charts.grouped(title, names, yields, xlabel, stacked=True),
        charts.grouped("Median length by label", names, medians, "tokens"),
    ]


def _names(qualities: Sequence[Quality]) -> list[str]:
    several = len({one.round for one in qualities}) > 1
    return [_with_round(one.counts.role, one.round, several) for one in qualities]


def _with_round(role: str, index: int, several: bool) -> str:
    return f"{role}, round {index}" if several else role


# ---- time and settings ----


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
    machine = [[key, _words(value)] for key, value in environment.items() if key != "packages"]
    return Grid(["", ""], [*machine, *([key, str(value)] for key, value in versions)], words=2)


def changed_settings(config: Config) -> Grid:
    """The settings that differ from the defaults of the task."""
    try:
        plain = flat(make_config(with_task_defaults({"task": {"name": config.task.name}})))
    except MaltError:
        plain = {}
    now = flat(config)
    rows = [[key, _words(value)] for key, value in now.items() if plain.get(key, value) != value]
    return Grid(["differs from the default", "value"], rows, words=2)


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _number(value: Any) -> str:
    if not is_number(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:,.2f}"
