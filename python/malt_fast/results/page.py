"""The page of a run, part by part: results, charts, what the roles learnt from, settings, trees."""

import time
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any

from malt_fast.config.load import flat, make_config, with_task_defaults
from malt_fast.config.schema import Config
from malt_fast.config.yaml_files import yaml_text
from malt_fast.evaluation.tables import main_table, suite_tables
from malt_fast.results import charts
from malt_fast.results.html import (
    element,
    folded,
    grid,
    items,
    paragraph,
    section,
    table,
    text,
)
from malt_fast.results.quality import Quality
from malt_fast.results.read import Found
from malt_fast.results.trees import Section
from malt_fast.runs.metrics import is_number
from malt_fast.utils.errors import MaltError

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
TITLES = ("Results", "Evaluation", "Training", "Data", "Plan", "Time", "Settings")
CURVES = {  # of training: what log lines call it, and how the page does
    "loss": "loss",
    "rewards/margins": "reward of chosen minus rejected",
    "rewards/accuracies": "pairs whose chosen output has the higher reward",
    "logps/chosen": "log-prob of chosen outputs",
}


def page(found: Found, qualities: Sequence[Quality], trees: Section | None) -> Iterator[str]:
    """The page as a stream of text; `trees.data`, which is large, comes after all that is seen."""
    parts = {
        "results": results(found),
        "charts": evaluation_charts(found),
        "training": training_charts(found),
        "data": data_quality(qualities),
        "plan": plan(found),
        "time": timings(found),
        "settings": settings(found),
    }
    titles = dict(zip(parts, TITLES, strict=True)) | ({"trees": "Trees"} if trees else {})
    shown = [name for name in titles if name == "trees" or parts[name]]
    here = files("malt_fast.results")
    css = here.joinpath("page.css").read_text(encoding="utf-8") + (trees.css if trees else "")
    yield "<!doctype html>\n"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{text(POLICY)}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{text(found.name)}: malt-fast</title><style>{css}</style></head><body>\n"
    links = "".join(element("a", titles[name], href=f"#{name}") for name in shown)
    theme = element("button", "light / dark", type="button", id="theme")
    yield element("nav", element("div", links + theme), aria_label="parts of the page")
    yield element("header", head(found)) + "\n<main>\n"
    for name in parts:
        yield parts[name] + "\n"
    yield (trees.html if trees else "") + "</main>\n"
    if trees:
        for data in trees.data:
            yield data + "\n"
    scripts = [here.joinpath("page.js").read_text(encoding="utf-8"), trees.js if trees else ""]
    yield "".join(element("script", script) for script in scripts if script)
    yield "\n</body></html>\n"


def head(found: Found) -> str:
    config, lines = found.config, []
    if config:
        lines.append(f"{config.task.name} · {config.model.name_or_path} · seed {config.seed}")
    if found.metrics:
        begun = found.metrics[0].get("time")
        if isinstance(begun, int | float):
            lines.append(time.strftime("begun %Y-%m-%d %H:%M UTC", time.gmtime(begun)))
    parts = [element("h1", text(found.name)), paragraph(" · ".join(lines), class_="note")]
    parts += [paragraph(summary(found.evaluation), class_="lead")] if found.evaluation else []
    told = found.warnings()
    if told:
        parts.append(
            element("div", element("b", "Warnings") + items(told), class_="warnings", role="note")
        )
    if found.lacking:
        title = element("b", "What this page lacks")
        parts.append(element("div", title + items(found.lacking), class_="missing", role="note"))
    return "".join(parts)


def summary(result: dict[str, Any]) -> str:
    """The best of what was trained, and how far it is ahead of one agent alone."""
    malt, first = result["paired"][0]["a"], result["paired"][0]
    right = {row["name"]: row for row in result["systems"]}
    own, other = right[malt], right[first["b"]]
    low, high = (100 * end for end in own["ci95"])
    least, most = (100 * end for end in first["ci95"])
    p = "p < 0.0001" if first["p_value"] < 1e-4 else f"p = {first['p_value']:.2g}"
    return (
        f"{malt} answers {100 * own['accuracy']:.1f} % of {own['n']:,} held-out questions rightly "
        f"(95 % interval {low:.1f} to {high:.1f}), {first['b']} {100 * other['accuracy']:.1f} %: "
        f"{100 * first['difference']:+.1f} points on the same questions ({least:+.1f} to "
        f"{most:+.1f}, {p})."
    )


def results(found: Found) -> str:
    if not found.evaluation:
        return ""
    made = [main_table(found.evaluation)]
    if found.evaluation.get("suite") == "paper":
        made = suite_tables(found.evaluation)
    parts = [element("h3", text(one.title)) + table(one) for one in made]
    return section("results", "Results", *parts)


# ---- charts ----


def evaluation_charts(found: Found) -> str:
    result = found.evaluation
    if not result:
        return ""
    malt = result["paired"][0]["a"]
    rows = [(row["name"], row["accuracy"], row["ci95"]) for row in result["systems"]]
    made = [charts.bars("Right answers by system", rows, malt)]
    if result.get("curves"):
        votes = {
            n: (c["calls"], [100 * x for x in c["majority"]]) for n, c in result["curves"].items()
        }
        bands = {
            name: [[100 * end for end in pair] for pair in curve["majority_ci95"]]
            for name, curve in result["curves"].items()
        }
        made.append(
            charts.lines("The majority's answer, by calls", votes, "calls", "right, %", bands)
        )
    turns = _turns(result)
    if turns:
        made.append(charts.lines("Right after each turn", turns, "turn", "right, %"))
    flips = result.get("flips") or {}
    if flips:
        kinds = {"wrong_to_right": "wrong to right", "right_to_wrong": "right to wrong"}
        parts = {told: [100 * flips[name][key] for name in flips] for key, told in kinds.items()}
        made.append(
            charts.stacks(
                "Answers that change from draft to end", list(flips), parts, "questions, %"
            )
        )
    return section("charts", "Evaluation", element("div", "".join(made), class_="charts"))


def _turns(result: dict[str, Any]) -> dict[str, tuple[list[float], list[float]]]:
    """Of roles that state answers."""
    found = {}
    for name, turns in (result.get("turns") or {}).items():
        told = [
            (k, 100 * turn["accuracy"]) for k, turn in enumerate(turns, 1) if turn["answered"] > 0.5
        ]
        if len(told) > 1:
            found[name] = ([float(k) for k, _ in told], [share for _, share in told])
    return found


def training_charts(found: Found) -> str:
    curves, made = found.curves(), []
    several = any(index for _, index in curves)
    for stage in ("sft", "dpo"):
        for key, title in CURVES.items():
            series = {}
            for (name, index), lines in curves.items():
                kind, _, role = name.partition("/")
                told = [line for line in lines if isinstance(line.get(key), int | float)]
                if kind == stage and told:
                    shown = f"{role}, round {index}" if several else role
                    series[shown] = ([line["step"] for line in told], [line[key] for line in told])
            if series:
                made.append(charts.lines(f"{stage.upper()}: {title}", series, "step", key))
    return section("training", "Training", element("div", "".join(made), class_="charts"))


# ---- data ----


def data_quality(qualities: Sequence[Quality]) -> str:
    if not qualities:
        return ""
    several = len({one.round for one in qualities}) > 1
    names = [f"{one.role}, round {one.round}" if several else one.role for one in qualities]
    columns = [
        *("role", "outputs", "failed", "cut off %", "same %", "positive %", "mixed blocks %"),
        *("questions without signal %", "examples", "pairs", "chosen longer by, tokens", "95 %"),
    ]
    rows = [_row(name, one) for name, one in zip(names, qualities, strict=True)]
    note = (
        "cut off: ended by max_tokens; same: the tokens of an earlier sibling; mixed blocks: "
        "siblings whose labels differ, without which a question teaches a role nothing by "
        "comparison; chosen longer: mean difference within pairs, which DPO may learn instead of "
        "what is right"
    )
    yields = {
        "examples": [float(q.examples) for q in qualities],
        "pairs": [float(q.pairs) for q in qualities],
    }
    lengths = {
        kind: [q.length.get(kind, (0.0, 0.0, 0.0))[1] for q in qualities]
        for kind in ("positive", "negative")
    }
    made = [
        charts.stacks("What each role learns from", names, yields, "examples and pairs"),
        charts.grouped("Median length by label", names, lengths, "tokens"),
    ]
    drawn = element("div", "".join(made), class_="charts")
    return section("data", "Data", grid(columns, rows), paragraph(note, class_="note"), drawn)


def _row(name: str, one: Quality) -> list[str]:
    shares = (one.truncated, one.identical, one.positive, one.mixed, one.silent)
    more = ["", ""]
    if one.longer:
        mean, low, high = one.longer
        more = [f"{mean:+.2f}", f"{low:+.2f}..{high:+.2f}"]
    counts = [f"{one.outputs:,}", f"{one.failed:,}"]
    return [
        name,
        *counts,
        *(f"{100 * s:.1f}" for s in shares),
        f"{one.examples:,}",
        f"{one.pairs:,}",
        *more,
    ]


def plan(found: Found) -> str:
    if not found.plan:
        return ""
    rows = []
    for row in found.plan:
        planned, fact = row.get("plan"), row.get("fact")
        known = isinstance(planned, int | float) and isinstance(fact, int | float) and planned
        ratio = f"{float(fact) / float(planned):.2f}" if known else ""  # type: ignore[arg-type]
        what = [str(row.get(key) or "") for key in ("stage", "role", "quantity", "unit")]
        rows.append([*what, _number(planned), _number(fact), ratio, str(row.get("source") or "")])
    columns = ["stage", "role", "quantity", "unit", "plan", "fact", "fact / plan", "source"]
    return section("plan", "Plan and fact", grid(columns, rows, words=4))


def timings(found: Found) -> str:
    stages = found.stages()
    if not stages:
        return ""
    peaks = {"peak_memory_mb": "peak memory, MB", "peak_gpu_memory_mb": "peak GPU memory, MB"}
    known = [key for key in peaks if any(key in line for line in stages)]
    rows = [
        [
            _stage_name(line),
            f"{line['seconds']:,.1f}",
            *(_number(line.get(k)) for k in known),
            _rate(line),
        ]
        for line in stages
    ]
    columns = ["stage", "seconds", *(peaks[key] for key in known), "tokens a second"]
    machine = found.environment
    parts = [grid(columns, rows)]
    if machine:
        packages = machine.get("packages")
        versions = packages.items() if isinstance(packages, dict) else ()
        facts = [[key, _words(value)] for key, value in machine.items() if key != "packages"]
        parts.append(
            folded(
                "environment",
                grid(["", ""], [*facts, *([k, str(v)] for k, v in versions)], words=2),
            )
        )
    return section("time", "Time and environment", *parts)


def _stage_name(line: dict[str, Any]) -> str:
    """With the forest, of several in a round, or the round, where the stage does not tell it."""
    forest, index = line.get("forest", "forest"), line.get("round")
    more = f", {forest}" if forest != "forest" else ""
    kind = line["stage"].partition(" ")[0]
    return (
        str(line["stage"]) + more + (f", round {index}" if kind in ("sft", "dpo") and index else "")
    )


def _rate(line: dict[str, Any]) -> str:
    """Of tokens that were sampled, without those known before."""
    tokens, known, seconds = line.get("tokens"), line.get("reused_tokens", 0), line["seconds"]
    if not (is_number(tokens) and is_number(known) and seconds > 0):
        return ""
    return _number((tokens - known) / seconds)


def settings(found: Found) -> str:
    if not found.config:
        return ""
    now, plain = flat(found.config), _defaults(found.config)
    changed = [[key, _words(value)] for key, value in now.items() if plain.get(key, value) != value]
    whole = yaml_text(found.config.model_dump(mode="json", exclude={"run"}))
    parts = [grid(["differs from the default", "value"], changed, words=2)] if changed else []
    parts.append(folded("all settings", element("pre", text(whole), class_="config")))
    return section("settings", "Settings", *parts)


def _defaults(config: Config) -> dict[str, Any]:
    try:
        return flat(make_config(with_task_defaults({"task": {"name": config.task.name}})))
    except MaltError:
        return {}


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _number(value: Any) -> str:
    if not is_number(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:,.2f}"
