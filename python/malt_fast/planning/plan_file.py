"""plan.json: the rows of a plan and the facts that came of them."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from malt_fast.config.schema import Config
from malt_fast.runs.run import Run
from malt_fast.utils.files import checksum, write_text

STAGES = ("sft", "dpo")
Peaks = Mapping[str, int]  # MB, by what Run.stage calls them
MEMORIES = {"peak_memory_mb": "peak memory", "peak_gpu_memory_mb": "peak GPU memory"}


def peaks_of(figures: Mapping[str, Any]) -> Peaks:
    return {key: figures[key] for key in MEMORIES if key in figures}


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
    from malt_fast.runs.metrics import read_lines

    rows = read_rows(run.folder)
    if rows and run.leads:
        facts = facts_of(read_lines(run.path("metrics.jsonl"))[0])
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
    from malt_fast.runs.metrics import is_number

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
