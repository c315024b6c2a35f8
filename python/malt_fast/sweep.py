"""One setting, several values: `python -m malt_fast.sweep --run DIR --sweep tree.threshold=0.3,1`.

Each value gets a run of its own, DIR/sweeps/KEY=VALUE, with the settings of DIR and that one value.
Outputs that DIR has already sampled are reused, and a finished run is only read. The runs are
compared in tables/sweep-KEY and sweep-KEY.svg.
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq

from malt_fast.config.arguments import Program
from malt_fast.config.command import run_command
from malt_fast.config.load import make_config, plain_config
from malt_fast.config.requirements import check_requirements
from malt_fast.config.schema import Config
from malt_fast.config.sections import setting
from malt_fast.config.values import merge, nested
from malt_fast.config.yaml_files import read_value
from malt_fast.evaluation.plots import plot_sweep
from malt_fast.evaluation.tables import (
    INTERVAL,
    Column,
    Table,
    as_terminal,
    write_tables,
)
from malt_fast.runs.directory import check_folder
from malt_fast.runs.loggers import loggers_of
from malt_fast.runs.run import Run, reading
from malt_fast.runs.saved import MAY_CHANGE
from malt_fast.sampling.prepare import load_setup
from malt_fast.sampling.setup import questions_text
from malt_fast.train import train
from malt_fast.utils.errors import MaltError
from malt_fast.utils.files import read_checked

REFUSED = ("task.", "model.")  # other questions or another model: nothing to compare
UNTRAINED = ("evaluate.", "serve.", "engine.")  # settings that training does not depend on


def sweep(config: Config, text: str) -> None:
    """Train, evaluate and compare a run for each value. Raises MaltError before any work."""
    assert config.run is not None
    key, values = parse_sweep(text)
    configs = {word: with_value(config, key, word, value) for word, value in values.items()}
    main, setup = Run(config.run, config), load_setup(config)
    main.expect("questions.jsonl", questions_text(setup))
    main.expect("prompts.json", setup.prompts.as_json())
    for one in configs.values():
        check(one)
    results = {}
    for word, one in configs.items():
        main.say(f"sweep: {key} = {word}")
        results[word] = figures(train(one).folder)
    table = sweep_table(config.task.name, key, results)
    main.console.print(as_terminal(table))
    write_tables(main.path("tables"), [table])
    plot_sweep(main.path(f"sweep-{key}.svg"), key, list(values.values()), lines(results))


def parse_sweep(text: str) -> tuple[str, dict[str, Any]]:
    """`KEY=V1,V2`: the key, and values by how they are written; a list is one in brackets."""
    key, _, words = text.partition("=")
    values = read_value(f"[{words}]")
    if not key or not isinstance(values, list) or not values:
        raise MaltError(f"--sweep {text} names no values: write `--sweep KEY=V1,V2`")
    if key == "run" or key.startswith(REFUSED):
        raise MaltError(
            f"{key} cannot be swept, only settings of the method can: train another run"
        )
    if key.startswith(UNTRAINED):
        raise MaltError(
            f"{key} changes nothing that is trained: evaluate the run again by --{key} VALUE"
        )
    return key, {in_words(value): value for value in values}


def in_words(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(in_words, value))
    return value if isinstance(value, str) else json.dumps(value)


def with_value(config: Config, key: str, word: str, value: Any) -> Config:
    """The config of the run for one value. Raises MaltError for an unknown key or a bad value."""
    assert config.run is not None
    folder = config.run / "sweeps" / f"{key}={quote(word, ',', errors='replace')}"
    reuse = [str(path) for path in (config.run, *config.reuse)]
    plain = config.model_dump(mode="json") | {"run": str(folder), "reuse": reuse}
    return make_config(merge(plain, nested([(key, value)])))


def check(config: Config) -> None:
    """Raises MaltError for a run that could not be trained, or compared."""
    assert config.run is not None
    if config.engine.name == "replay":
        raise MaltError("recordings cannot tell trained roles from untrained ones: no sweep")
    check_requirements(config)
    check_folder(config.run)
    load_setup(config)


def figures(folder: Path) -> dict[str, Any]:
    """Of a finished run: accuracies with intervals, and what each role was trained on."""
    path = folder / "evaluation.json"
    with reading(path):
        result = read_checked(path)
        malt, n = result["paired"][0]["a"], result["systems"][0]["n"]
        right = {row["name"]: (row["accuracy"], row["ci95"]) for row in result["systems"]}
        whole, voting = right["MALT"], right[malt]
    data: dict[str, int] = Counter()
    for file in sorted(folder.glob("round-*/data/*/*.parquet")):
        what = "examples" if file.stem == "sft" else "pairs"
        with reading(file), file.open("rb") as source:
            data[f"{file.parent.name} {what}"] += pq.read_metadata(source).num_rows
    return {"name": malt, "n": n, "MALT": whole, "voting": voting, "data": data}


def lines(results: dict[str, dict[str, Any]]) -> dict[str, list[Any]]:
    """(accuracy, interval) per value: of MALT and of MALT voting; one line, if one vote is all."""
    voting = " or ".join(dict.fromkeys(result["name"] for result in results.values()))
    alone = {"MALT": [result["MALT"] for result in results.values()]}
    return alone | {voting: [result["voting"] for result in results.values()]}


def sweep_table(task: str, key: str, results: dict[str, dict[str, Any]]) -> Table:
    """A row a value: MALT, MALT voting, and what the roles were trained on in all rounds."""
    data = sorted({name for result in results.values() for name in result["data"]})
    right = lines(results)
    columns = [Column(key, "text"), Column("questions", "number")]
    columns += [column for name in right for column in (Column(f"{name} right %"), INTERVAL)]
    columns += [Column(name, "number") for name in data]
    points = zip(*right.values(), strict=True)
    rows = [
        [
            word,
            one["n"],
            *(cell for point in line for cell in point),
            *(one["data"].get(n, 0) for n in data),
        ]
        for (word, one), line in zip(results.items(), points, strict=True)
    ]
    return Table(f"sweep-{key}", f"{task}: {key}", columns, rows)


class Command(Config):
    sweep: str = setting(
        ..., "KEY=V1,V2: a setting and its values; a list as a value has brackets", exclude=True
    )


PROGRAM = Program(
    "malt_fast.sweep",
    Command,
    "Trains and evaluates one run for each value of a setting, in DIR/sweeps, and compares them. "
    "Every run has the settings of the finished run DIR, and reuses its samples.",
    (
        "--run runs/gsm8k --sweep tree.threshold=0.3,0.5,0.7",
        "--run runs/gsm8k --sweep tree.branching=[3,3,3],[4,4,4]",
    ),
    common=("run", "sweep", "evaluate.votes", "evaluate.limit", "engine.name"),
    may_change=(*MAY_CHANGE, "report_to"),
)


def run_program(command: Command) -> None:
    loggers_of(command.report_to)
    sweep(plain_config(command), command.sweep)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(PROGRAM, run_program, argv)


if __name__ == "__main__":
    sys.exit(main())
