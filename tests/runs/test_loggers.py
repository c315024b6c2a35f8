"""Figures of a run in TensorBoard and elsewhere, and lines of metrics.jsonl that a kill tore."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from malt_fast import evaluate
from malt_fast.config.load import make_config
from malt_fast.runs import loggers as module
from malt_fast.runs.loggers import loggers_of, scalars
from malt_fast.runs.metrics import read_lines
from malt_fast.runs.run import Run
from malt_fast.utils.errors import MaltError
from tests.small_run import run


def in_tensorboard(folder: Path) -> dict[str, list[float]]:
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def check(folder: Path, found: dict[str, list[float]]) -> None:
    """What a logger has is what metrics.jsonl says."""
    lines = read_lines(folder / "metrics.jsonl")[0]
    sampled = next(line for line in lines if line["stage"] == "sample round 0")
    assert found["perf/sample_round_0/outputs"] == [sampled["outputs"]]
    (told,) = [line for line in lines if line["stage"] == "evaluation"]
    assert found["eval/jsonl/MALT"] == pytest.approx([told["right"]["MALT"]])
    assert found["data/refiner/pairs"] and 0 <= found["data/refiner/mixed"][0] <= 1
    for stage in ("sft/generator", "dpo/refiner"):
        losses = [line["loss"] for line in lines if line["stage"] == stage and "loss" in line]
        assert losses and found[f"{stage}/loss"] == pytest.approx(losses)


@pytest.mark.parametrize("loggers", ["[]", "tensorboard"])
def test_a_run_is_in_tensorboard_whatever_it_reports_to(made, tmp_path: Path, loggers: str) -> None:
    options = ["--report_to", loggers, "--train.sft.logging_steps", "1"]
    assert run(*made, tmp_path / "run", *options) == 0
    check(tmp_path / "run", in_tensorboard(tmp_path / "run"))


@pytest.mark.slow
def test_roles_that_train_side_by_side_are_there_too(made, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    assert run(*made, tmp_path / "run", "--train.side_by_side", "true") == 0
    check(tmp_path / "run", in_tensorboard(tmp_path / "run"))


# ---- other loggers: modules that write down what they are told ----

FAKES = {
    "wandb": """
import json
class Run:
    def __init__(self, given): self.file = open("told.jsonl", "a"); self.write(given)
    def write(self, given): self.file.write(json.dumps(given) + "\\n"); self.file.flush()
    def define_metric(self, name, *, step_metric): self.write({"axis": [name, step_metric]})
    def log(self, values): self.write(values)
    def finish(self): self.write({"end": True})
def init(*, project, name, id, resume, config):
    return Run({"project": project, "name": name, "id": id, "resume": resume, "config": config})
""",
    "mlflow": """
import json, types
def write(given):
    with open("told.jsonl", "a") as file: file.write(json.dumps(given) + "\\n")
def set_experiment(name): write({"project": name})
def start_run(*, run_id, run_name):
    write({"name": run_name, "id": run_id})
    return types.SimpleNamespace(info=types.SimpleNamespace(run_id="m1"))
def log_params(values):
    assert len(values) <= 100
    write({"config": values})
def log_metrics(values, *, step):
    assert all(c.isalnum() or c in "_-. :/" for tag in values for c in tag)
    write({**values, "at": step})
def end_run(): write({"end": True})
""",
    "trackio": """
import json
class Run:
    def __init__(self, given): self.write(given)
    def write(self, given):
        with open("told.jsonl", "a") as file: file.write(json.dumps(given) + "\\n")
    def log(self, values, *, step): self.write({**values, "at": step})
    def finish(self): self.write({"end": True})
def init(*, project, name, resume, config):
    return Run({"project": project, "name": name, "resume": resume, "config": config})
""",
}


@pytest.fixture
def in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the modules of FAKES, where what they are told comes, too."""
    for name, text in FAKES.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROJECT", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in FAKES:
        sys.modules.pop(name, None)


def told_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "told.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_run_in_another_logger_goes_on_there(made, in_its_place: Path, name: str) -> None:
    folder = in_its_place / "run"
    assert run(*made, folder, "--report_to", name) == 0
    told = told_in(in_its_place)
    begin = {key: value for line in told[:3] for key, value in line.items()}
    assert begin["project"] == "malt-fast" and begin["name"].startswith("run")
    assert (begin["name"] == "run") == (name != "trackio")  # which knows runs by name alone
    config = {k: v for line in told for k, v in line.get("config", {}).items()}
    assert str(config["tree.branching"]) == "[3, 2, 2]" and "seed" in config
    assert told[-1] == {"end": True}
    found: dict[str, list[float]] = {}
    for line in told:
        for tag, value in line.items():
            found.setdefault(tag, []).append(value)
    check(folder, found)
    key = "dpo/refiner/step" if name == "wandb" else "at"
    steps = [line[key] for line in told if "dpo/refiner/loss" in line]
    assert steps == sorted(steps) and steps[-1] == 2
    if name == "wandb":
        assert {"axis": ["dpo/refiner/*", "dpo/refiner/step"]} in told
    before = len(told)
    assert run(*made, folder, "--report_to", name, "--evaluate.votes", "5") == 0
    again = {key: value for line in told_in(in_its_place)[before:] for key, value in line.items()}
    assert again.get("id") == {"wandb": begin.get("id"), "mlflow": "m1", "trackio": None}[name]
    assert again["name"] == begin["name"]
    assert "eval/jsonl/MALT" in again and "sft/generator/loss" not in again


def test_a_logger_that_fails_costs_no_run(made, in_its_place: Path, caplog) -> None:
    text = FAKES["trackio"].replace(
        "def log(self", "def log(self, values, *, step): raise OSError('no')\n    def l(self"
    )
    (in_its_place / "trackio.py").write_text(text)
    assert run(*made, in_its_place / "run", "--report_to", "trackio") == 0
    assert caplog.text.count("trackio gets no more figures: no") == 1
    check(in_its_place / "run", in_tensorboard(in_its_place / "run"))


def test_a_logger_that_cannot_be_opened_is_one_sentence(made, in_its_place: Path, capsys) -> None:
    (in_its_place / "wandb.py").write_text("def init(**_): raise RuntimeError('no key\\nlog in')")
    assert run(*made, in_its_place / "run", "--report_to", "wandb") == 2
    assert "error: report_to: wandb cannot be opened (no key)" in capsys.readouterr().err
    assert not (in_its_place / "run" / "round-0").exists()


def test_loggers_are_known_before_anything_is_opened(in_its_place: Path, monkeypatch) -> None:
    assert loggers_of(["all"]) == ["wandb", "mlflow", "trackio"]
    assert loggers_of(["mlflow", "mlflow", "tensorboard"]) == ["mlflow"]
    assert loggers_of(["none"]) == loggers_of([]) == []
    with pytest.raises(MaltError, match=r"'paper' is no logger: choose from wandb, mlflow, track"):
        loggers_of(["paper"])
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert loggers_of(["all"]) == []
    for name in FAKES:
        with pytest.raises(MaltError, match=f"{name} is not installed: pip install {name}$"):
            loggers_of(["tensorboard", name])
    assert not (in_its_place / "told.jsonl").exists()


def test_only_numbers_are_drawn() -> None:
    line = {"stage": "grade round 3", "seconds": 1.5, "time": 9.0, "text": "x", "flag": True}
    assert list(scalars(line)) == [("perf/grade_round_3/seconds", 1.5, 0)]
    assert not list(scalars({"stage": "warning", "text": "x"}))
    step = {"stage": "sft/verifier", "loss": 0.5, "step": 7, "max_steps": 9, "round": 0}
    assert list(scalars(step)) == [("sft/verifier/loss", 0.5, 7)]
    assert list(scalars(step | {"round": 2})) == [("round-2/sft/verifier/loss", 0.5, 7)]


def test_no_two_lines_of_a_run_are_one_point() -> None:
    roles = [{"role": "generator", "pairs": 1}, {"role": "verifier", "pairs": 2}]
    told: list[dict[str, Any]] = []
    for index in range(2):
        for name in ("forest-generator", "forest-verifier"):
            where = {"round": index, "forest": name}
            told.append({"stage": f"sample round {index}", "seconds": 1.0, **where})
            told.append({"stage": "yield", "roles": roles, **where})
        told.append({"stage": "sft verifier", "seconds": 1.0, "round": index})
        told.append({"stage": "sft/verifier", "loss": 1.0, "step": 1, "round": index})
    points = [(tag, step) for line in told for tag, _, step in scalars(line)]
    assert len(points) == len(set(points)) == 2 * (2 + 2 + 1 + 1)
    assert ("perf/sample_round_1/forest-verifier/seconds", 1) in points
    assert ("data/verifier/pairs", 0) in points


def test_an_evaluation_knows_its_loggers_before_it_samples(
    finished_run: Path, tmp_path: Path, capsys
) -> None:
    folder = shutil.copytree(finished_run, tmp_path / "run")
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("report_to: []", "report_to: [nolog]"))
    before = (folder / "metrics.jsonl").read_bytes()
    assert evaluate.main(["--run", str(folder)]) == 2
    assert "'nolog' is no logger" in capsys.readouterr().err
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert evaluate.main(["--run", str(folder), "--report_to", "none"]) == 0


@pytest.mark.parametrize("before", ["", '{"stage": "a"}\n', '{"stage": "a"}\n{"stage": "to'])
def test_a_torn_line_harms_no_other(tmp_path: Path, before: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(before)
    for n in range(2):
        Run(tmp_path, make_config({})).log("b", n=n)
    lines, problems = read_lines(tmp_path / "metrics.jsonl")
    assert [line["n"] for line in lines if line["stage"] == "b"] == [0, 1]
    assert len(problems) == before.endswith("to")
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["n"] == 1
