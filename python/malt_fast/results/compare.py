"""The page that compares runs: settings that differ, results with their differences, curves.

Where two runs were evaluated on the same held-out questions, their difference is paired by
question, as within a run; otherwise its interval takes them as independent.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from malt_fast.config.load import flat
from malt_fast.evaluation.outputs import Outputs
from malt_fast.evaluation.result import SystemResult
from malt_fast.evaluation.statistics import Interval, paired_bootstrap
from malt_fast.evaluation.tables import show
from malt_fast.results.charts import Chart
from malt_fast.results.run_contents import RunContents, read_run
from malt_fast.results.systems import spelled_out
from malt_fast.results.templates import HTML, Grid
from malt_fast.results.training import CURVES, STAGES, in_words, training_curves
from malt_fast.results.transcripts import is_right, read_answers
from malt_fast.utils.errors import Problems

SCRIPTS = (
    *("vendor/uPlot.iife.min.js", "templates/base.js", "templates/charts.js"),
    "templates/start.js",
)
RESAMPLES = 10_000


@dataclass(frozen=True)
class Compared:
    """A run under the name that the page gives it."""

    name: str
    run: RunContents
    outputs: Sequence[Outputs]

    def system(self, name: str) -> SystemResult | None:
        systems = self.run.evaluation.systems if self.run.evaluation else []
        return next((one for one in systems if one.name == name), None)


def comparison(folders: Sequence[Path]) -> Iterator[str]:
    """The page as a stream of text; the first run is what the others are compared with."""
    runs, problems = list[Compared](), Problems()
    for name, folder in zip(short_names(folders), folders, strict=True):
        contents, missing = read_run(folder)
        outputs, unread = read_answers(folder, contents.evaluation)
        problems += [f"{name}: {problem}" for problem in (*missing, *unread)]
        runs.append(Compared(name, contents, outputs))
    return HTML.get_template("compare.html").generate(
        names=[one.name for one in runs],
        problems=problems,
        systems=system_rows(runs),
        paired=all(same_questions(runs[0], one) for one in runs[1:] if one.run.evaluation),
        settings=differing_settings(runs),
        charts=overlaid(runs),
        scripts=SCRIPTS,
    )


def short_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for k in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-k:]) for one in parts]
        if len(set(names)) == len(names):
            break
    return names


# ---- results ----


def system_rows(runs: Sequence[Compared]) -> list[dict[str, Any]]:
    """A row per system of any run, with a cell per run."""
    about: dict[str, str] = {}
    for one in runs:
        chain = list(one.run.config.chain) if one.run.config else []
        for system in one.run.evaluation.systems if one.run.evaluation else ():
            about.setdefault(system.name, spelled_out(system, chain)[1])
    return [
        {"name": name, "about": text, "cells": [_cell(runs[0], one, name) for one in runs]}
        for name, text in about.items()
    ]


def _cell(first: Compared, run: Compared, name: str) -> dict[str, Any]:
    """Accuracy of a system in a run, and its difference to that in the first run."""
    system, base = run.system(name), first.system(name)
    if system is None:
        return {"accuracy": "", "interval": "", "gain": "", "gain_interval": "", "sure": ""}
    cell = {"accuracy": show(system.accuracy, "share"), "interval": show(system.ci95, "share")}
    gain: dict[str, str] = dict.fromkeys(("gain", "gain_interval", "sure"), "")
    if base is not None and run is not first:
        low, high = difference(first, run, name)
        gain["gain"] = show(system.accuracy - base.accuracy, "gain")
        gain["gain_interval"] = show((low, high), "gain")
        gain["sure"] = "better" if low > 0 else "worse" if high < 0 else ""
    return cell | gain


def difference(first: Compared, run: Compared, name: str) -> Interval:
    """The 95 % interval of the accuracy in `run` minus that in `first`."""
    base, other = first.system(name), run.system(name)
    assert base is not None and other is not None
    if same_questions(first, run):
        right = [
            np.array([is_right(one, name) for one in of]) for of in (run.outputs, first.outputs)
        ]
        return paired_bootstrap(*right, resamples=RESAMPLES, seed=0)
    variance = sum(one.accuracy * (1 - one.accuracy) / one.n for one in (base, other))
    gain, error = other.accuracy - base.accuracy, 1.96 * math.sqrt(variance)
    return gain - error, gain + error


def same_questions(first: Compared, run: Compared) -> bool:
    asked = [[(one.id, one.text, one.gold) for one in of.outputs] for of in (first, run)]
    return bool(asked[0]) and asked[0] == asked[1]


# ---- settings and curves ----


def differing_settings(runs: Sequence[Compared]) -> Grid:
    values = [flat(one.run.config) if one.run.config else {} for one in runs]
    keys = dict.fromkeys(key for one in values for key in one if key != "run")
    rows = []
    for key in keys:
        cells = [in_words(one[key]) if key in one else "" for one in values]
        if len(set(cells)) > 1:
            rows.append([key, *cells])
    return Grid(["setting", *(one.name for one in runs)], rows, words=1 + len(runs))


def overlaid(runs: Sequence[Compared]) -> list[Chart]:
    """A chart per stage, quantity and role, with a line per run."""
    curves = {one.name: training_curves(one.run) for one in runs}
    places = dict.fromkeys(place for found in curves.values() for place in found)
    order = sorted(places, key=lambda place: ([*STAGES].index(place[0]), [*CURVES].index(place[1])))
    made = []
    for stage, key, role in order:
        what, ylabel = CURVES[key]
        lines = {
            name: found[stage, key, role]
            for name, found in curves.items()
            if (stage, key, role) in found
        }
        title = f"{STAGES[stage]} of the {role}: {what}"
        made.append(Chart(title, "optimiser step", ylabel, lines, names=[*curves]))
    return made
