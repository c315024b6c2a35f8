"""plan.json: the rows of a plan, the speed it measured, and the settings it was made from."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from malt_fast.config.schema import Config
from malt_fast.runs.run import Run
from malt_fast.utils.files import checksum, write_text

WIDE = 120  # columns that have room for the sources
STAGES = ("sft", "dpo")
MEMORIES = {"peak_memory_mb": "peak memory", "peak_gpu_memory_mb": "peak GPU memory"}
Peaks = Mapping[str, int]  # MB, by a key of MEMORIES, as Run.stage logs them


@dataclass(frozen=True)
class Row:
    """One figure of a plan."""

    stage: str
    role: str
    quantity: str
    unit: str
    plan: float
    source: str  # where the figure comes from
    fact: float | None = None  # what came of it, once it is known


def peaks_of(figures: Mapping[str, Any]) -> Peaks:
    return {key: figures[key] for key in MEMORIES if key in figures}


def settings_checksum(config: Config) -> str:
    return checksum(config.model_dump(mode="json", exclude={"run", "report_to"}))


def has_current_plan(run: Run) -> bool:
    """Whether the run has a plan that was made from its present settings."""
    about, rows = read_plan(run.folder)
    return bool(rows) and about.get("made_from") == settings_checksum(run.config)


def planned_speed(run: Path) -> tuple[float | None, float]:
    """Tokens per second and seconds to start, as the run's last plan measured them."""
    try:
        speed = read_plan(run)[0]["speed"]
        return float(speed["tokens_per_second"]), float(speed["start_seconds"])
    except (LookupError, TypeError, ValueError):
        return None, 0.0


def write_plan(run: Path, about: Mapping[str, Any], rows: Sequence[Row]) -> None:
    values = {"version": 1, **about, "rows": [asdict(row) for row in rows]}
    write_text(run / "plan.json", json.dumps(values, indent=1) + "\n")


def read_plan(run: Path) -> tuple[dict[str, Any], list[Row]]:
    """(what else plan.json says, its rows); no rows without a plan that can be read."""
    try:
        about = json.loads((run / "plan.json").read_text(encoding="utf-8"))
        rows = [Row(**row) for row in about.pop("rows")]
        return about, rows if all(math.isfinite(row.plan) for row in rows) else []
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}, []


def summary(rows: Sequence[Row]) -> str:
    """What people ask first: hours, memory and disk, in one line."""
    totals = {(row.stage, row.quantity): amount(row) for row in rows if not row.role}
    times = [(stage, totals.get((stage, "time"))) for stage in ("sampling", "evaluate")]
    parts = ", ".join(f"{stage} {time}" for stage, time in times if time)
    peaks = [r for r in rows if r.quantity == MEMORIES["peak_memory_mb"]]
    gpu = [r for r in rows if r.quantity == MEMORIES["peak_gpu_memory_mb"]]
    facts = [f"{totals['all', 'time']}{f' ({parts})' if parts else ''}"]
    for name, found in (("memory", peaks), ("GPU memory", gpu)):
        if found:
            facts.append(f"{amount(max(found, key=lambda row: row.plan))} of {name}")
    facts.append(f"{totals['disk', 'samples']} of disk beside the adapters")
    return f"the run will take about {', '.join(facts)}"


def plan_table(rows: Sequence[Row], width: int) -> Table:
    """For a terminal of `width` columns; of the forests, which are all alike, the first."""
    table = Table(title="what the run will take", box=SIMPLE, padding=0)
    for name in ("stage", "role", "what"):
        table.add_column(name, no_wrap=True)
    table.add_column("plan", justify="right", no_wrap=True)
    if width >= WIDE:
        table.add_column(" from")
    first = next((row.stage for row in rows if row.stage.startswith("round ")), "")
    for row in rows:
        if row.stage.startswith("round ") and row.stage != first:
            continue
        stage = "a forest" if row.stage == first else row.stage.removesuffix(f" {row.role}")
        source = [f" {row.source}"] if width >= WIDE else []
        table.add_row(stage, row.role, row.quantity, amount(row), *source)
    return table


def amount(row: Row) -> str:
    """The planned figure for people, with its unit where the quantity does not imply it."""
    if row.unit == "hours":
        seconds = round(3600 * row.plan)
        return (
            f"{row.plan:,.1f} h" if seconds > 36_000 else f"{seconds // 60} min {seconds % 60:02} s"
        )
    if row.unit == "MB" and row.plan >= 10_000:
        return f"{row.plan / 1000:,.1f} GB"
    number = f"{row.plan:,.0f}" if row.plan >= 100 else f"{row.plan:.3g}"
    return f"{number} {row.unit}" if row.unit == "MB" else number
