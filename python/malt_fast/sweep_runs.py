"""The runs of a sweep: trained, evaluated and compared, one for each value of a setting."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq

from malt_fast.config.load import make_config
from malt_fast.config.schema import Config
from malt_fast.config.values import merge, nested
from malt_fast.config.yaml_files import read_value
from malt_fast.evaluation.plots import plot_sweep
from malt_fast.evaluation.result import EvaluationResult, read_result
from malt_fast.evaluation.statistics import Interval
from malt_fast.evaluation.tables import (
    INTERVAL,
    SPENT,
    SPENT_NOTE,
    Column,
    Table,
    as_terminal,
    write_tables,
)
from malt_fast.forest.datasets import NAMES, Kind
from malt_fast.method import train
from malt_fast.runs.directory import mend
from malt_fast.runs.run import Run, reading
from malt_fast.sampling.prepare import load_setup, prepare
from malt_fast.sampling.setup import questions_file
from malt_fast.utils.errors import MaltError
from malt_fast.utils.seals import check_seal

REFUSED = ("task.", "model.")  # other questions or another model: nothing to compare
MEASURED = ("evaluate.", "engine.")  # settings that only an evaluation depends on
UNUSED = ("serve.", "store.", "report_to", "reuse")  # settings that no result depends on


@dataclass(frozen=True)
class Point:
    """The finished run of one value."""

    result: EvaluationResult
    data: dict[str, int]  # rows that "ROLE examples" and "ROLE pairs" had in all rounds


def sweep(config: Config, text: str) -> None:
    """Train, evaluate and compare a run for each value. Raises MaltError before any work."""
    assert config.run is not None
    key, values = parse_sweep(text)
    configs = {word: with_value(config, key, word, value) for word, value in values.items()}
    main, setup = Run(config.run, config), load_setup(config)
    main.expect("questions.jsonl", questions_file(setup))
    main.expect("prompts.json", setup.prompts.as_json().encode())
    for one in configs.values():
        check(one)
    points = {}
    for word, one in configs.items():
        main.say(f"sweep: {key} = {word}")
        points[word] = read_point(train(one))
    table = sweep_table(config.task.name, key, points)
    main.console.print(as_terminal(table))
    write_tables(main.path("tables"), [table])
    plot_sweep(main.path(f"sweep-{key}.svg"), key, list(values.values()), lines(points))


def parse_sweep(text: str) -> tuple[str, dict[str, Any]]:
    """The key, and the values by their text, of `KEY=V1,V2`; a list is one value in brackets."""
    key, _, words = text.partition("=")
    values = read_value(f"[{words}]")
    if not key or not isinstance(values, list) or not values:
        raise MaltError(f"--sweep {text} names no values: write `--sweep KEY=V1,V2`")
    if key == "run" or key.startswith(REFUSED):
        raise MaltError(
            f"{key} cannot be swept, since the runs could not be compared: train another run"
        )
    if key.startswith(MEASURED):
        raise MaltError(
            f"{key} does not change training: use malt_fast.evaluate with --{key} VALUE"
        )
    if key.startswith(UNUSED):
        raise MaltError(f"{key} changes no result, so there is nothing to compare: sweep another")
    return key, {in_words(value): value for value in values}


def in_words(value: Any) -> str:
    """A value as the table and the folder's name show it."""
    if isinstance(value, list):
        return ",".join(map(in_words, value))
    return value if isinstance(value, str) else json.dumps(value)


def with_value(config: Config, key: str, word: str, value: Any) -> Config:
    """The settings of one value's run. Raises MaltError for an unknown key or a bad value."""
    assert config.run is not None
    folder = config.run / "sweeps" / f"{key}={quote(word, ',', errors='replace')}"
    reuse = [str(path) for path in (config.run, *config.reuse)]
    plain = config.model_dump(mode="json") | {"run": str(folder), "reuse": reuse}
    return make_config(merge(plain, nested([(key, value)])))


def check(config: Config) -> None:
    """Raises MaltError if the run could not be trained or evaluated."""
    if config.engine.name == "replay":
        raise MaltError("recordings do not cover trained roles: choose another engine for a sweep")
    prepare(config)


def read_point(run: Run) -> Point:
    path = run.path("evaluation.json")
    with reading(path, run.folder):
        result = read_result(path)
    data: dict[str, int] = Counter()
    for file in datasets_of(run):
        check_seal(file.parent, mend(run.folder), "training data")
        rows = next(name for kind, name in NAMES.items() if kind == file.stem)
        with reading(file, run.folder), file.open("rb") as source:
            data[f"{file.parent.name} {rows}"] += pq.read_metadata(source).num_rows
    return Point(result, data)


def datasets_of(run: Run) -> list[Path]:
    """The training data of a run; settings that it had before may have made more."""
    config = run.config
    kinds: dict[str, list[Kind]] = {role: ["sft"] for role in config.chain}
    for role in config.dpo_roles:
        loss = config.train.dpo.for_role(role)
        kinds[role] += ["dpo"] if loss.on_pairs else []
        kinds[role] += ["kto"] if loss.on_labels else []
    files = [
        run.path(f"round-{index}", "data", role, f"{kind}.parquet")
        for index in range(config.train.rounds)
        for role in config.chain
        for kind in kinds[role]
    ]
    return [file for file in files if file.is_file()]


def lines(points: dict[str, Point]) -> dict[str, list[tuple[float, Interval]]]:
    """(accuracy, interval) per value: of MALT, and of MALT with votes unless one vote is all."""
    results = [point.result for point in points.values()]
    voting = " or ".join(dict.fromkeys(result.malt for result in results))
    named = {"MALT": [result.system("MALT") for result in results]}
    named[voting] = [result.system(result.malt) for result in results]
    return {name: [(one.accuracy, one.ci95) for one in own] for name, own in named.items()}


def sweep_table(task: str, key: str, points: dict[str, Point]) -> Table:
    """One row per value: accuracies, what training took, and the roles' data over all rounds."""
    data, accuracies = sorted({name for one in points.values() for name in one.data}), lines(points)
    columns = [Column(key, "text"), Column("questions", "number")]
    columns += [c for name in accuracies for c in (Column(f"{name} acc. %"), INTERVAL)]
    columns += [*SPENT, *(Column(name, "number") for name in data)]
    rows = []
    for i, (word, point) in enumerate(points.items()):
        cells = [cell for line in accuracies.values() for cell in line[i]]
        malt = point.result.system(point.result.malt)
        cells += [malt.training_sampled, malt.training_tokens]
        counts = [point.data.get(name, 0) for name in data]
        rows.append([word, malt.n, *cells, *counts])
    return Table(f"sweep-{key}", f"{task}: {key}", columns, rows, SPENT_NOTE)
