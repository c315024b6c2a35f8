"""A whole run whose roles learn from labelled outputs, alone or beside pairs."""

import json

import numpy as np
import pyarrow.parquet as pq

from malt_fast import export
from malt_fast.config.load import load_config_file
from malt_fast.planning.plan_file import read_plan
from malt_fast.runs.run import Run
from malt_fast.sweep_runs import datasets_of
from tests.small_run import load_forest, run

LABELS = ["--train.dpo.loss_type", "sigmoid+kto", "--train.dpo.roles.refiner.loss_type", "kto"]


def opened(folder):
    return Run(folder, load_config_file(folder / "config.yaml"), reports=False)


def test_a_run_on_labels(data, model, tmp_path, capsys):
    folder = tmp_path / "run"
    assert run(data, model, folder, *LABELS, "--plan") == 0
    assert run(data, model, folder, *LABELS) == 0
    counts = {
        role: {
            file.stem: pq.read_metadata(file).num_rows
            for file in (folder / "round-0" / "data" / role).glob("*.parquet")
        }
        for role in ("verifier", "refiner")
    }
    forest = load_forest(folder)
    assert counts["refiner"].keys() == {"sft", "kto"}
    assert counts["refiner"]["kto"] == np.count_nonzero((forest.level == 3) & (forest.outcome < 2))
    assert counts["verifier"].keys() == {"sft", "dpo", "kto"}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    stages: dict[str, dict[str, object]] = {}
    for line in lines:
        stages[line["stage"]] = stages.get(line["stage"], {}) | line
    assert stages["dpo refiner"]["labelled"] == counts["refiner"]["kto"]
    assert "pairs" not in stages["dpo refiner"] and stages["dpo verifier"]["pairs"]
    assert {"kl", "loss/sigmoid", "loss/kto"} <= stages["dpo/verifier"].keys()
    assert "kl" in stages["dpo/refiner"] and "loss/kto" not in stages["dpo/refiner"]
    planned = {(row.role, row.quantity): row for row in read_plan(folder)[1]}
    row = planned["refiner", "labelled"]
    assert row.fact == counts["refiner"]["kto"] and ("refiner", "pairs") not in planned
    assert planned["refiner", "tokens as packs"].plan > 0
    of_sweep = [f"{file.parent.name}/{file.stem}" for file in datasets_of(opened(folder))]
    assert of_sweep[1:] == [
        *("verifier/sft", "verifier/dpo", "verifier/kto", "refiner/sft", "refiner/kto")
    ]

    assert export.main(["--run", str(folder)]) == 0
    assert "ref_*_logps of data/refiner" not in capsys.readouterr().out
    table = pq.read_table(folder / "export" / "data" / "refiner" / "dpo.parquet")
    assert table.num_rows and np.isfinite(table["ref_chosen_logps"].to_numpy()).all()

    assert run(data, model, folder, *LABELS) == 0
    assert "dpo refiner: round-0/refiner/dpo is there already" in capsys.readouterr().out
    other = ["--train.dpo.loss_type", "sigmoid", "--overwrite"]
    assert run(data, model, folder, *other) == 0
    files = (folder / "round-0" / "data" / "verifier").glob("*.parquet")
    assert {file.stem for file in files} == {"sft", "dpo"}
