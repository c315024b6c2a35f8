"""What a run directory says of itself, as far as it can be read; what cannot is told in a line."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from malt_fast.config.schema import Config
from malt_fast.results.opened_run import read_config
from malt_fast.runs.metrics import Lacking, is_number, read_lines
from malt_fast.tasks.task import Task
from malt_fast.utils.files import read_checked


@dataclass
class Found:
    """All that the page tells of, and what it lacks."""

    run: Path
    name: str
    config: Config | None = None
    task: Task | None = None
    evaluation: dict[str, Any] | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    plan: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    lacking: Lacking = field(default_factory=list)

    def stages(self) -> list[dict[str, Any]]:
        """The last time that each stage was worked on, in order of its first."""
        last: dict[tuple[str, str, str], dict[str, Any]] = {}
        for line in self.metrics:
            if is_number(line.get("seconds")):
                where = (str(line.get("round", "")), str(line.get("forest", "")))
                last[(str(line["stage"]), *where)] = line
        return list(last.values())

    def curves(self) -> dict[tuple[str, int], list[dict[str, Any]]]:
        """Log lines of training by `stage/role` and round; of what was trained again, the last."""
        found: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for line in self.metrics:
            stage, step = str(line.get("stage")), line.get("step")
            if "/" not in stage or not isinstance(step, int) or "loss" not in line:
                continue
            index = line.get("round")
            before = found.setdefault((stage, index if isinstance(index, int) else 0), [])
            before[:] = [one for one in before if one["step"] < step]
            before.append(line)
        return found

    def warnings(self) -> list[str]:
        told = [
            str(line.get("text", "")) for line in self.metrics if line.get("stage") == "warning"
        ]
        return list(dict.fromkeys(told))


def read_run(run: Path) -> Found:
    found = Found(run, run.resolve().name)
    lacking = found.lacking
    found.config, found.task = read_config(run, lacking)
    found.metrics, torn = read_lines(run / "metrics.jsonl")
    lacking += torn
    found.environment = _json(run / "environment.json", lacking, "environment") or {}
    found.evaluation = _evaluation(run / "evaluation.json", lacking)
    plan = _json(run / "plan.json", lacking, "plan", needed=False)
    rows = (plan or {}).get("rows", [])
    found.plan = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return found


def _json(path: Path, lacking: Lacking, what: str, *, needed: bool = True) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else {}
    except FileNotFoundError:
        if needed:
            lacking.append(f"{what}: {path.name} is missing")
    except ValueError:
        lacking.append(f"{what}: {path.name} is damaged")
    return None


def _evaluation(path: Path, lacking: Lacking) -> dict[str, Any] | None:
    try:
        return read_checked(path)
    except FileNotFoundError:
        lacking.append("results: the run has not been evaluated yet")
    except ValueError:
        lacking.append("results: evaluation.json is damaged or of another version")
    return None
