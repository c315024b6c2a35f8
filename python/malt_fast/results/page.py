"""The page of a run: what its sections hold, laid out by page.html.

The first view has the results, training and settings; transcripts and trees are views of their own.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from malt_fast.config.load import flat, make_config, with_task_defaults
from malt_fast.config.schema import Config
from malt_fast.config.yaml_files import yaml_text
from malt_fast.evaluation.outputs import Outputs
from malt_fast.evaluation.result import EvaluationResult, Flip
from malt_fast.evaluation.tables import shown, suite_tables
from malt_fast.results.charts import Bars, Chart
from malt_fast.results.quality import Quality
from malt_fast.results.run_contents import RunContents
from malt_fast.results.systems import summary, system_rows
from malt_fast.results.templates import HTML, Grid
from malt_fast.results.training import (
    environment_table,
    in_words,
    plan_table,
    quality_bars,
    quality_table,
    stage_table,
    training_charts,
)
from malt_fast.results.transcripts import flip_counts
from malt_fast.results.viewer_data import ViewerData
from malt_fast.runs.metrics import is_number
from malt_fast.utils.errors import MaltError, Problems

SCRIPTS = (  # in the order in which they run
    *("vendor/markdown-it.umd.min.js", "vendor/temml.min.js", "vendor/uPlot.iife.min.js"),
    *("templates/base.js", "templates/charts.js", "templates/text.js", "templates/viewer.js"),
    *("templates/transcripts.js", "templates/trees.js", "templates/start.js"),
)


@dataclass(frozen=True)
class Parts:
    """What a page shows besides the files of the run."""

    problems: Problems
    qualities: Sequence[Quality] = ()
    outputs: Sequence[Outputs] = ()  # of the evaluation
    transcripts: ViewerData | None = None
    trees: ViewerData | None = None


def page(run: RunContents, parts: Parts) -> Iterator[str]:
    """The page as a stream of text. The data of the viewers, nearly all of its size, comes last."""
    config, result = run.config, run.evaluation
    chain = list(config.chain) if config else []
    charts = [*(evaluation_charts(result) if result else []), *training_charts(run)]
    return HTML.get_template("page.html").generate(
        name=run.name,
        facts=facts(run),
        summary=summary(result) if result else "",
        warnings=run.warnings(),
        problems=parts.problems,
        systems=system_rows(result, chain) if result else [],
        result=result,
        pair=compared(result) if parts.outputs else None,
        flips=flips(result, parts.outputs) if result and parts.outputs else {},
        tables=result_tables(result) if result else [],
        bars_of_flips=flip_bars(result) if result else None,
        charts=charts,
        evaluation_charts=len(evaluation_charts(result)) if result else 0,
        data=quality_table(parts.qualities) if parts.qualities else None,
        data_bars=quality_bars(parts.qualities) if parts.qualities else [],
        plan=plan_table(run.plan) if run.plan else None,
        stages=stage_table(run),
        environment=environment_table(run.environment) if run.environment else None,
        changed=changed_settings(config) if config else None,
        settings=yaml_text(config.model_dump(mode="json", exclude={"run"})) if config else "",
        prompts=run.prompts,
        transcripts=parts.transcripts,
        trees=parts.trees,
        scripts=SCRIPTS,
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


def compared(result: EvaluationResult | None) -> tuple[str, str] | None:
    """The systems before and after training that the transcripts compare at first."""
    names = [system.name for system in result.systems] if result else []
    if not names:
        return None
    return ("MA" if "MA" in names else names[0], "MALT" if "MALT" in names else names[-1])


def flips(result: EvaluationResult, outputs: Sequence[Outputs]) -> dict[str, int]:
    pair = compared(result)
    return flip_counts(outputs, *pair) if pair else {}


def result_tables(result: EvaluationResult) -> list[tuple[str, Grid, str]]:
    """(title, table, note) of each table of the suite `paper`."""
    made = suite_tables(result) if result.suite == "paper" else []
    return [(one.title, Grid([c.name for c in one.columns], shown(one)), one.note) for one in made]


def evaluation_charts(result: EvaluationResult) -> list[Chart]:
    made = []
    if curves := result.curves:
        lines = {
            name: ([float(n) for n in curve.calls], _percent(curve.majority))
            for name, curve in curves.items()
        }
        bands = {
            name: [(100 * low, 100 * high) for low, high in curve.majority_ci95]
            for name, curve in curves.items()
        }
        title = "Accuracy of the majority's answer, by calls"
        names = ("SA", "MA", "MALT")
        made.append(Chart(title, "calls per question", "accuracy, %", lines, bands, names))
    if turns := answered_turns(result):
        chain = next(iter(result.turns.values()))
        roles = ", ".join(f"{k} {turn.role}" for k, turn in enumerate(chain, 1))
        made.append(Chart("Accuracy after each turn", f"turn: {roles}", "accuracy, %", turns))
    return made


def flip_bars(result: EvaluationResult) -> Bars | None:
    changed: tuple[Flip, ...] = ("wrong_to_right", "right_to_wrong")
    parts = {
        flip.replace("_", " "): _percent([shares[flip] for shares in result.flips.values()])
        for flip in changed
    }
    title = "Answers that change from draft to end"
    names = list(result.flips)
    return Bars(title, "% of questions", names, parts) if names else None


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


# ---- settings ----


def changed_settings(config: Config) -> Grid:
    """The settings that differ from the defaults of the task."""
    try:
        plain = flat(make_config(with_task_defaults({"task": {"name": config.task.name}})))
    except MaltError:
        plain = {}
    now: dict[str, Any] = flat(config)
    rows = [[key, in_words(value)] for key, value in now.items() if plain.get(key, value) != value]
    return Grid(["differs from the default", "value"], rows, words=2)
