"""What the files of a run directory say, as far as they can be read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from malt_fast.config.schema import Config
from malt_fast.evaluation.result import EvaluationResult, read_result
from malt_fast.results.opened_run import read_config
from malt_fast.runs.metrics import Line, is_number, read_lines
from malt_fast.tasks.task import Task
from malt_fast.utils.errors import Problems


@dataclass(frozen=True)
class RunContents:
    """Everything the page shows but the forests; None or empty where it is missing."""

    name: str
    config: Config | None
    task: Task | None
    evaluation: EvaluationResult | None
    metrics: list[Line]
    plan: list[Line]  # rows of plan.json
    environment: dict[str, Any]
    prompts: str  # of every role, as text

    def stages(self) -> list[Line]:
        """The last line of each stage that ended, in the order in which they first ended."""
        last: dict[tuple[str, str, str], Line] = {}
        for line in self.metrics:
            if is_number(line.get("seconds")):
                where = (str(line.get("round", "")), str(line.get("forest", "")))
                last[(str(line["stage"]), *where)] = line
        return list(last.values())

    def curves(self) -> dict[tuple[str, int], list[Line]]:
        """Training's log lines by `stage/role` and round; a repeated step replaces later ones."""
        curves: dict[tuple[str, int], list[Line]] = {}
        for line in self.metrics:
            stage, step, index = str(line.get("stage")), line.get("step"), line.get("round")
            if "/" not in stage or not isinstance(step, int) or "loss" not in line:
                continue
            before = curves.setdefault((stage, index if isinstance(index, int) else 0), [])
            before[:] = [*(one for one in before if one["step"] < step), line]
        return curves

    def warnings(self) -> list[str]:
        """The run's warnings, each once."""
        lines = (line for line in self.metrics if line.get("stage") == "warning")
        return list(dict.fromkeys(str(line.get("text", "")) for line in lines))


def read_run(run: Path) -> tuple[RunContents, Problems]:
    config, task, problems = read_config(run)
    metrics, torn = read_lines(run / "metrics.jsonl")
    problems += torn
    environment, found = _read_json(run / "environment.json", "environment")
    plan, damage = _read_json(run / "plan.json", "plan")
    problems += found + (damage if (run / "plan.json").is_file() else [])  # few runs have a plan
    evaluation = None
    try:
        evaluation = read_result(run / "evaluation.json")
    except FileNotFoundError:
        problems.append("results: the run has not been evaluated yet")
    except ValueError:
        problems.append("results: evaluation.json is damaged or of another version")
    rows = plan.get("rows")
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    name = run.resolve().name
    prompts = _read_text(run / "prompts.txt")
    contents = RunContents(name, config, task, evaluation, metrics, rows, environment, prompts)
    return contents, problems


def _read_text(path: Path) -> str:
    """The text of a file; of one that is missing, none."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _read_json(path: Path, what: str) -> tuple[dict[str, Any], Problems]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else {}, []
    except FileNotFoundError:
        return {}, [f"{what}: {path.name} is missing"]
    except ValueError:
        return {}, [f"{what}: {path.name} is damaged"]
