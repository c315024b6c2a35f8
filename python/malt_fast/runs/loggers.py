"""A run's figures for TensorBoard, always, and for the loggers of `report_to`.

perf/STAGE/...            of a stage: seconds, outputs, tokens, peak_memory_mb, ...
data/ROLE/...             of a forest: positives, mixed, examples, pairs, ...
eval/TASK/SYSTEM          share of right answers
STAGE/ROLE/...            of training, by step; after the first round, round-N/STAGE/ROLE/...

They are read from metrics.jsonl, where processes that train side by side write, too. A run that
goes on goes on in its loggers.
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

PROJECT = "malt-fast"  # where the environment names none

Config = Mapping[str, Any]  # settings by their dotted names


@dataclass(frozen=True)
class Logger:
    """log: (what trains, or "" for another stage; values by tag; step)."""

    log: Callable[[str, dict[str, float], int], object]
    close: Callable[[], object]


def scalars(line: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """(tag, value, step) of what a line of metrics.jsonl says."""
    stage = str(line["stage"])
    step = int(line.get("step", line.get("round", 0)))
    if stage == "yield":
        for one in line["roles"]:  # of one's own forest, where each role has one
            if line.get("forest", "forest") in ("forest", f"forest-{one['role']}"):
                yield from _numbers(f"data/{one['role']}", one, step)
    elif stage == "evaluation":
        for system, share in line["right"].items():
            yield f"eval/{line['task']}/{system}", float(share), 0
    elif "/" in stage:
        yield from _numbers(_training(line), line, step)
    elif "seconds" in line:
        forest = line.get("forest", "forest")
        whose = "" if forest == "forest" else f"/{forest}"
        yield from _numbers(f"perf/{stage.replace(' ', '_')}{whose}", line, step)


def _training(line: Mapping[str, Any]) -> str:
    """A stage that trains a role, and the round, since the next one counts steps from 1 again."""
    round = line.get("round", 0)
    return f"round-{round}/{line['stage']}" if round else str(line["stage"])


def _numbers(prefix: str, values: Mapping[str, Any], step: int) -> Iterator[tuple[str, float, int]]:
    for key, value in values.items():
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        if plain and key not in ("time", "step", "max_steps", "round"):
            yield f"{prefix}/{key}", float(value), step


def loggers_of(report_to: Sequence[str]) -> list[str]:
    """What `report_to` names beside TensorBoard; `all` is whatever is installed.

    Raises MaltError for a name that is unknown and a package that is missing.
    """
    there = [name for name in OPEN if find_spec(name) is not None]
    if "all" in report_to or report_to == ["none"]:
        return there if "all" in report_to else []
    names = [name for name in dict.fromkeys(report_to) if name != "tensorboard"]
    for name in names:
        if name not in OPEN:
            raise MaltError(
                f"report_to: '{name}' is no logger: choose from {', '.join(OPEN)}, or all, or none "
                "alone"
            )
        if name not in there:
            raise MaltError(f"report_to: {name} is not installed: pip install {name}")
    return names


class Board:
    """Hands on what a run's metrics.jsonl gets from now on; opened by the first line."""

    def __init__(self, run: Path, report_to: Sequence[str], config: Config) -> None:
        self.run, self.report_to, self.config = run, report_to, config
        self.file = run / "metrics.jsonl"
        self.read = self.file.stat().st_size if self.file.is_file() else 0  # bytes
        self.writer: Any = None  # TensorBoard's
        self.loggers: dict[str, Logger] = {}

    def open(self) -> None:
        """Raises MaltError for a logger that cannot be opened."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.run / "tensorboard"), flush_secs=10)
        for name in loggers_of(self.report_to):
            try:
                self.loggers[name] = OPEN[name](self.run, self.config)
            except Exception as error:  # each raises its own kind
                reason = first_line(error)
                raise MaltError(
                    f"report_to: {name} cannot be opened ({reason}): mend that, or leave it out"
                ) from None

    def follow(self) -> None:
        """Hand on lines that are new, and whole."""
        if self.writer is None:
            self.open()
        with self.file.open("rb") as file:
            file.seek(self.read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self.read += len(whole) + len(newline)
        for text in whole.splitlines():
            try:
                line = json.loads(text)
            except ValueError:  # torn by a kill
                continue
            self._add(line)

    def _add(self, line: Mapping[str, Any]) -> None:
        values = {}
        for tag, value, step in scalars(line):
            self.writer.add_scalar(tag, value, step)
            values[tag] = value
        training = _training(line) if "/" in str(line["stage"]) else ""
        for name in list(self.loggers) if values else []:
            try:
                self.loggers[name].log(training, values, step)
            except Exception as error:  # no logger is worth a run
                log.warning("%s gets no more figures: %s", name, first_line(error))
                del self.loggers[name]

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        for name, logger in self.loggers.items():
            try:
                logger.close()
            except Exception as error:
                log.warning("%s did not end well: %s", name, first_line(error))


# ---- loggers ----


def _open_wandb(run: Path, config: Config) -> Logger:
    import wandb

    project = os.environ.get("WANDB_PROJECT", PROJECT)
    one = _id_of(run, "wandb") or uuid.uuid4().hex
    opened = wandb.init(project=project, name=run.name, id=one, resume="allow", config=dict(config))
    _keep_id(run, "wandb", one)
    axes: set[str] = set()

    def log(training: str, values: dict[str, float], step: int) -> None:
        if training and training not in axes:  # its own step only counts calls
            axes.add(training)
            opened.define_metric(f"{training}/*", step_metric=f"{training}/step")
        opened.log(values | ({f"{training}/step": step} if training else {}))

    return Logger(log, opened.finish)


def _open_mlflow(run: Path, config: Config) -> Logger:
    import mlflow

    if not {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"} & set(os.environ):
        mlflow.set_experiment(PROJECT)
    known = _id_of(run, "mlflow")
    opened = mlflow.start_run(run_id=known, run_name=run.name)
    if known is None:  # its parameters never change
        items = [(key, str(value)[:500]) for key, value in config.items()]
        for begin in range(0, len(items), 100):  # as many as it takes at once
            mlflow.log_params(dict(items[begin : begin + 100]))
    _keep_id(run, "mlflow", opened.info.run_id)

    def log(training: str, values: dict[str, float], step: int) -> None:
        allowed = {re.sub(r"[^\w\-. :/]", "_", tag): value for tag, value in values.items()}
        mlflow.log_metrics(allowed, step=step)

    return Logger(log, mlflow.end_run)


def _open_trackio(run: Path, config: Config) -> Logger:
    import trackio

    project = os.environ.get("TRACKIO_PROJECT", PROJECT)
    one = _id_of(run, "trackio") or f"{run.name}-{uuid.uuid4().hex[:6]}"  # it knows runs by name
    opened = trackio.init(project=project, name=one, resume="allow", config=dict(config))
    _keep_id(run, "trackio", one)
    return Logger(lambda _, values, step: opened.log(values, step=step), opened.finish)


OPEN = {"wandb": _open_wandb, "mlflow": _open_mlflow, "trackio": _open_trackio}


def _id_of(run: Path, logger: str) -> str | None:
    """The run's, in a logger that knows it by one."""
    try:
        return str(json.loads((run / "loggers.json").read_text())[logger])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _keep_id(run: Path, logger: str, one: str) -> None:
    known = {name: _id_of(run, name) for name in OPEN} | {logger: one}
    ids = {name: one for name, one in known.items() if one is not None}
    write_text(run / "loggers.json", json.dumps(ids) + "\n")
