"""A run's figures in TensorBoard, and in wandb, MLflow or trackio, where they resume by id.

    perf/STAGE/...    of a stage: seconds, outputs, tokens, peak_memory_mb, ...
    data/ROLE/...     of a forest: positives, mixed, examples, pairs, ...
    eval/TASK/SYSTEM  accuracy
    STAGE/ROLE/...    of training, by step; after the first round, round-N/STAGE/ROLE/...

A resumed run continues in the same loggers: loggers.json keeps its ids there.

accelerate's trackers are not used: they pass the same ids to the same calls, so nothing becomes
shorter, but ignore MLFLOW_EXPERIMENT_ID and start accelerate's process state.
"""

import json
import logging
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from malt_fast.utils.errors import MaltError, first_line
from malt_fast.utils.files import write_text

log = logging.getLogger(__name__)

PROJECT = "malt-fast"  # unless an environment variable of the logger names another

FlatSettings = Mapping[str, Any]  # settings by their dotted names


@dataclass(frozen=True)
class Logger:
    """log: (STAGE/ROLE that trains, or ""; values by tag; step)."""

    log: Callable[[str, dict[str, float], int], object]
    close: Callable[[], object]


def scalars(line: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """(tag, value, step) of every number in a line of metrics.jsonl."""
    stage = str(line["stage"])
    step = int(line.get("step", line.get("round", 0)))
    if stage == "yield":
        for role in line["roles"]:  # of its own forest, where each role has one
            if line.get("forest", "forest") in ("forest", f"forest-{role['role']}"):
                yield from _numbers(f"data/{role['role']}", role, step)
    elif stage == "evaluation":
        for system, accuracy in line["right"].items():
            yield f"eval/{line['task']}/{system}", float(accuracy), 0
    elif training := _training(line):
        yield from _numbers(training, line, step)
    elif "seconds" in line:
        forest = line.get("forest", "forest")
        suffix = "" if forest == "forest" else f"/{forest}"
        yield from _numbers(f"perf/{stage.replace(' ', '_')}{suffix}", line, step)


def _training(line: Mapping[str, Any]) -> str:
    """STAGE/ROLE of a training step, with the round, as each counts steps from 1; else ""."""
    stage, round = str(line["stage"]), line.get("round", 0)
    if "/" not in stage:
        return ""
    return f"round-{round}/{stage}" if round else stage


def _numbers(prefix: str, values: Mapping[str, Any], step: int) -> Iterator[tuple[str, float, int]]:
    for key, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and key not in ("time", "step", "max_steps", "round"):
            yield f"{prefix}/{key}", float(value), step


def loggers_of(report_to: Sequence[str]) -> list[str]:
    """The loggers that `report_to` names beside TensorBoard; `all` means all that are installed.

    Raises MaltError for an unknown name and for a package that is missing.
    """
    installed = [name for name in OPEN if find_spec(name) is not None]
    if "all" in report_to or report_to == ["none"]:
        return installed if "all" in report_to else []
    names = [name for name in dict.fromkeys(report_to) if name != "tensorboard"]
    for name in names:
        if name not in OPEN:
            raise MaltError(
                f"report_to: '{name}' is no logger: choose from {', '.join(OPEN)}, or all, or none "
                "alone"
            )
        if name not in installed:
            raise MaltError(f"report_to: {name} is not installed: pip install {name}")
    return names


class Loggers:
    """The open loggers of a run; its first line opens them."""

    def __init__(self, run: Path, report_to: Sequence[str], settings: FlatSettings) -> None:
        self.run, self.report_to, self.settings = run, report_to, settings
        self.open: dict[str, Logger] = {}

    def _open(self) -> None:
        """Raises MaltError for a logger that cannot be opened."""
        self.open["tensorboard"] = _open_tensorboard(self.run)
        for name in loggers_of(self.report_to):
            try:
                self.open[name] = OPEN[name](self.run, self.settings)
            except Exception as error:  # each raises its own kind
                raise MaltError(
                    f"report_to: {name} cannot be opened ({first_line(error)}): mend that, or "
                    "leave it out"
                ) from None

    def log(self, line: Mapping[str, Any]) -> None:
        """Hand the numbers of a line to every logger; one that fails is dropped with a warning."""
        if not self.open:
            self._open()
        points = list(scalars(line))
        if not points:
            return
        values, step = {tag: value for tag, value, _ in points}, points[0][2]
        for name in list(self.open):
            try:
                self.open[name].log(_training(line), values, step)
            except Exception as error:  # no logger is worth a run
                log.warning("%s gets no more figures: %s", name, first_line(error))
                del self.open[name]

    def close(self) -> None:
        for name, logger in self.open.items():
            try:
                logger.close()
            except Exception as error:
                log.warning("%s did not close: %s", name, first_line(error))


# ---- how each is opened ----


def _open_tensorboard(run: Path) -> Logger:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run / "tensorboard"), flush_secs=10)

    def log(training: str, values: dict[str, float], step: int) -> None:
        for tag, value in values.items():
            writer.add_scalar(tag, value, step)

    return Logger(log, writer.close)


def _open_wandb(run: Path, settings: FlatSettings) -> Logger:
    import wandb

    project = os.environ.get("WANDB_PROJECT", PROJECT)
    id = _ids(run).get("wandb") or uuid.uuid4().hex
    opened = wandb.init(
        project=project, name=run.name, id=id, resume="allow", config=dict(settings)
    )
    _keep_id(run, "wandb", id)
    axes: set[str] = set()

    def log(training: str, values: dict[str, float], step: int) -> None:
        if training and training not in axes:  # wandb's own step only counts calls
            axes.add(training)
            opened.define_metric(f"{training}/*", step_metric=f"{training}/step")
        opened.log(values | ({f"{training}/step": step} if training else {}))

    return Logger(log, opened.finish)


def _open_mlflow(run: Path, settings: FlatSettings) -> Logger:
    import mlflow

    if not {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"} & set(os.environ):
        mlflow.set_experiment(PROJECT)
    id = _ids(run).get("mlflow")
    opened = mlflow.start_run(run_id=id, run_name=run.name)
    if id is None:  # parameters of a run cannot be changed later
        items = [(key, str(value)[:500]) for key, value in settings.items()]
        for begin in range(0, len(items), 100):  # the most that mlflow takes at once
            mlflow.log_params(dict(items[begin : begin + 100]))
    _keep_id(run, "mlflow", opened.info.run_id)

    def log(training: str, values: dict[str, float], step: int) -> None:
        allowed = {re.sub(r"[^\w\-. :/]", "_", tag): value for tag, value in values.items()}
        mlflow.log_metrics(allowed, step=step)

    return Logger(log, mlflow.end_run)


def _open_trackio(run: Path, settings: FlatSettings) -> Logger:
    import trackio

    project = os.environ.get("TRACKIO_PROJECT", PROJECT)
    name = _ids(run).get("trackio") or f"{run.name}-{uuid.uuid4().hex[:6]}"  # its names are ids
    opened = trackio.init(project=project, name=name, resume="allow", config=dict(settings))
    _keep_id(run, "trackio", name)
    return Logger(lambda _, values, step: opened.log(values, step=step), opened.finish)


OPEN = {"wandb": _open_wandb, "mlflow": _open_mlflow, "trackio": _open_trackio}


def _ids(run: Path) -> dict[str, str]:
    """The id of a run in each logger that knows it."""
    try:
        ids = json.loads((run / "loggers.json").read_text())
        return {name: str(ids[name]) for name in OPEN if ids.get(name) is not None}
    except (OSError, ValueError, AttributeError):
        return {}


def _keep_id(run: Path, logger: str, id: str) -> None:
    write_text(run / "loggers.json", json.dumps(_ids(run) | {logger: id}) + "\n")
