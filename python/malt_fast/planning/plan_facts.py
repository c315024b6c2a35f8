"""What a run really took, from metrics.jsonl, beside the figures of its plan.

If something was done more than once, the last figures count, but the time of all attempts. A
process's peak memory never falls, so that of sampling is read before the first training.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from malt_fast.planning.plan_file import MEMORIES, STAGES, peaks_of, read_plan, write_plan
from malt_fast.runs.metrics import Line, is_number, read_lines
from malt_fast.runs.run import Run

Key = tuple[str, str, str]  # stage, role, quantity
Facts = dict[Key, float]


def fill_facts(run: Run) -> None:
    """Write the facts of a run into its plan.json, if it has one."""
    about, rows = read_plan(run.folder)
    if rows and run.leads:
        facts = facts_of(read_lines(run.path("metrics.jsonl"))[0])
        stored = sum(file.stat().st_size for file in run.path("samples").glob("samples-*.arrows"))
        facts["disk", "", "samples"] = stored / 1e6
        filled = [
            replace(row, fact=facts.get((row.stage, row.role, row.quantity), row.fact))
            for row in rows
        ]
        write_plan(run.folder, about, filled)


def facts_of(lines: Iterable[Line]) -> Facts:
    facts: Facts = {}
    seconds: dict[tuple[str, str], float] = defaultdict(float)  # by stage and role
    trained = False
    for line in filter(_has_figures, lines):
        stage = line["stage"]
        kind, _, role = stage.partition(" ")
        if stage == "yield":
            facts |= _yields(line)
        elif "seconds" not in line:
            continue
        elif stage == "evaluate":
            facts |= {("evaluate", "", key): line[key] for key in ("outputs", "tokens")}
            seconds["evaluate", ""] = line["seconds"]
        elif kind == "grade":
            seconds["grading", ""] += line["seconds"]
        elif kind == "sample":
            seconds["sampling", ""] += line["seconds"]
            if not trained:
                _raise_peaks(facts, "sampling", line)
        elif kind in STAGES:
            trained = True
            seconds[stage, role] += line["seconds"]
            _raise_peaks(facts, "training", line)
    if seconds:
        seconds["all", ""] = sum(seconds.values())
    return facts | {(*at, "time"): spent / 3600 for at, spent in seconds.items()}


def _yields(line: Line) -> Facts:
    """Outputs and tokens of a forest by role; examples and pairs of the roles that use it."""
    if "forest" not in line:
        return {}
    facts: Facts = {}
    stage = f"round {line['round']} {line['forest']}"
    for one in line["roles"]:
        role = one["role"]
        facts[stage, role, "outputs"], facts[stage, role, "tokens"] = one["nodes"], one["tokens"]
        if line["forest"] in ("forest", f"forest-{role}"):
            facts |= {("data", role, kind): one[kind] for kind in ("examples", "pairs", "labelled")}
    return facts


def _raise_peaks(facts: Facts, stage: str, line: Line) -> None:
    for key, peak in peaks_of(line).items():
        at = (stage, "", MEMORIES[key])
        facts[at] = max(peak, facts.get(at, 0))


def _has_figures(line: Line) -> bool:
    """Whether the figures that facts are taken from are numbers."""
    numbers = [line.get("seconds", 0), *(line.get(key, 0) for key in MEMORIES)]
    if line["stage"] == "evaluate":
        numbers += [line.get("outputs"), line.get("tokens")]
    elif line["stage"] == "yield":
        roles = line.get("roles")
        if not isinstance(roles, list) or not all(isinstance(one, dict) for one in roles):
            return False
        needed = ("nodes", "tokens", "examples", "pairs", "labelled")
        numbers += [line.get("round"), *(one.get(key) for one in roles for key in needed)]
    return all(map(is_number, numbers))
