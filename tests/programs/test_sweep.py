"""One setting, several values: runs of their own, the first forest shared where it may be."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from malt_fast import sweep, sweep_runs
from malt_fast.config import requirements
from malt_fast.config.load import make_config
from malt_fast.config.yaml_files import read_yaml
from malt_fast.evaluation.result import EvaluationResult
from malt_fast.runs.run import Run
from malt_fast.sampling import sample
from malt_fast.utils.errors import MaltError
from tests.charts import draw, saving_by
from tests.small_run import load_forest


@pytest.fixture(scope="module")
def finished(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("sweep") / "run"))


def differing(folder: Path, other: Path) -> set[str]:
    a, b = (read_yaml(f / "config.yaml") for f in (folder, other))
    return {
        f"{section}.{key}"
        for section in a
        if isinstance(a[section], dict)
        for key in a[section]
        if a[section][key] != b[section][key]
    }


def test_a_sweep_over_a_threshold_samples_no_tree_and_goes_on(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--run", str(finished), "--sweep", "tree.threshold=0.3,0.6"]
    assert sweep.main(words) == 0
    assert "tree.threshold = 0.6" in capsys.readouterr().out
    rows = list(csv.DictReader((finished / "tables/sweep-tree.threshold.csv").open()))
    assert [row["tree.threshold"] for row in rows] == ["0.3", "0.6"]
    for row in rows:
        folder = finished / "sweeps" / f"tree.threshold={row['tree.threshold']}"
        assert differing(finished, folder) == {"tree.threshold"}
        assert make_config(read_yaml(folder / "config.yaml")).reuse == [finished]
        result = json.loads((folder / "evaluation.json").read_text())
        right = {one["name"]: one for one in result["systems"]}
        for column, name in (("MALT acc. %", "MALT"), ("MALT+MV@3 acc. %", "MALT+MV@3")):
            assert float(row[column]) == pytest.approx(100 * right[name]["accuracy"])
            low, high = right[name]["ci95"]
            assert float(row[f"{column} low"]) == pytest.approx(100 * low)
            assert float(row[f"{column} high"]) == pytest.approx(100 * high)
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        stages = {line["stage"]: line for line in lines}
        assert stages["sample round 0"]["reused"] == stages["sample round 0"]["outputs"]
        assert int(row["refiner pairs"]) == stages["dpo refiner"]["pairs"]
        assert int(row["generator examples"]) == stages["sft generator"]["examples"]
        assert "generator pairs" not in row  # it gets no DPO

    # finished values are only read
    before = {f: f.stat().st_mtime_ns for f in finished.glob("sweeps/*/round-0/*/*/*")}
    monkeypatch.setattr(sample, "open_engine", None)
    with saving_by(draw):
        assert sweep.main(words) == 0
    assert b"MALT+MV@3" in (finished / "sweep-tree.threshold.svg").read_bytes()
    assert {f: f.stat().st_mtime_ns for f in finished.glob("sweeps/*/round-0/*/*/*")} == before
    assert list(csv.DictReader((finished / "tables/sweep-tree.threshold.csv").open())) == rows


def test_smaller_trees_are_taken_from_larger_ones(finished: Path) -> None:
    words = ["--run", str(finished), "--sweep=tree.branching=[2,2,2]"]
    assert sweep.main(words) == 0
    folder = finished / "sweeps" / "tree.branching=2,2,2"
    forest = load_forest(folder)
    assert (forest.level == 1).sum() == 2 * (forest.level == 0).sum()
    logged = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    first = next(line for line in logged if line["stage"] == "sample round 0")
    assert first["reused"] == first["outputs"]  # of the larger trees
    assert sweep.main([*words, "--evaluate.votes=1"]) == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tree.treshold=0.3", "did you mean 'tree.threshold'"),
        ("tree.threshold=0.3,high", "tree.threshold = 'high' is not possible"),
        ("tree.threshold=0.3,2", "tree.threshold = 2 is not possible"),
        ("tree.threshold", "names no values"),
        ("tree.threshold=", "names no values"),
        ("tree.branching=[2,2]", "2 numbers for a chain of 3"),
        ("store.batch=3", "store.batch changes no result"),
        ("serve.port=3", "serve.port changes no result"),
        ("tree.branching=3,3", "[3] has 1 number for"),
        ("task.limit=3", "cannot be swept"),
        ("run=a", "cannot be swept"),
        ("model.dtype=float32", "cannot be swept"),
        ("train.load_in_4bit=true", "bitsandbytes"),
        ("sampling=1", "sampling is a section"),
    ],
)
def test_mistakes_stop_before_any_work(
    finished: Path, text: str, says: str, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    before = sorted(finished.rglob("*"))
    assert sweep.main(["--run", str(finished), "--sweep", text]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and says in error
    assert sorted(finished.rglob("*")) == before


def test_values_are_read_as_yaml_and_written_as_folders(tmp_path: Path) -> None:
    assert sweep_runs.parse_sweep("a.b=1,0.5,1e-5,one,true,null,[2,2]") == (
        "a.b",
        {
            "1": 1,
            "0.5": 0.5,
            "1e-05": 1e-5,
            "one": "one",
            "true": True,
            "null": None,
            "2,2": [2, 2],
        },
    )
    assert list(sweep_runs.parse_sweep("x=0.3,0.3")[1]) == ["0.3"]
    for text in ("x", "x=", "=1", "x=[1"):
        with pytest.raises(MaltError, match="names no values"):
            sweep_runs.parse_sweep(text)
    config = make_config({"run": str(tmp_path)})
    one = sweep_runs.with_value(config, "lora.target_modules", "a/b", "a/b")
    assert one.run == tmp_path / "sweeps" / "lora.target_modules=a%2Fb"
    deep = sweep_runs.with_value(config, "sampling.roles.refiner.temperature", "0.7", 0.7)
    assert deep.sampling_for("refiner").temperature == 0.7


def test_one_vote_makes_one_line() -> None:
    row = {"name": "MALT", "accuracy": 0.5, "ci95": (0.4, 0.6), "n": 20}
    row |= {"calls_per_question": 3, "tokens_per_question": 30}
    row |= {"training_sampled": 900, "training_tokens": 300}
    empty = {"relative_gain": None, "paired": [], "flips": {}, "flips_ci95": {}, "turns": {}}
    result = EvaluationResult.model_validate(
        {"task": "t", "seed": 0, "malt": "MALT", "systems": [row], **empty}
    )
    one = sweep_runs.Point(result, {})
    table = sweep_runs.sweep_table("t", "k", {"1": one, "2": one})
    names = ["k", "questions", "MALT acc. %", "95 %", "sampled", "trained on"]
    assert [column.name for column in table.columns] == names
    assert table.rows == [[k, 20, 0.5, (0.4, 0.6), 900, 300] for k in ("1", "2")]


def test_rows_of_rounds_and_stages_that_a_run_no_longer_has_do_not_count(tmp_path: Path) -> None:
    config = make_config({"train": {"rounds": 1, "dpo_roles": ["refiner"]}})
    for index in (0, 1):
        for role in config.chain:
            for stage in ("sft", "dpo"):
                file = tmp_path / f"round-{index}" / "data" / role / f"{stage}.parquet"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(b"")
    found = sweep_runs.datasets_of(Run(tmp_path, config))
    assert {str(file.relative_to(tmp_path / "round-0" / "data")) for file in found} == {
        *(f"{role}/sft.parquet" for role in config.chain),
        "refiner/dpo.parquet",
    }
