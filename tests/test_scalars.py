"""Figures of a run in TensorBoard, and lines of metrics.jsonl that a kill tore."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from malt_fast.config import make_config
from malt_fast.run import Run
from malt_fast.scalars import scalars
from malt_fast.viewer.read import read_lines
from tests.small_run import run, write_model, write_questions


@pytest.mark.parametrize("loggers", ["[]", "tensorboard"])
def test_a_run_is_in_tensorboard_whatever_it_reports_to(tmp_path: Path, loggers: str) -> None:
    data, model = write_questions(tmp_path / "q.jsonl"), write_model(tmp_path / "model")
    assert run(data, model, tmp_path / "run", "--report_to", loggers) == 0
    found: dict[str, list[float]] = {}
    for folder in {file.parent for file in (tmp_path / "run" / "tensorboard").rglob("events*")}:
        events = EventAccumulator(str(folder)).Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, []).extend(event.value for event in events.Scalars(tag))
    lines = read_lines(tmp_path / "run" / "metrics.jsonl", [])
    sampled = next(line for line in lines if line["stage"] == "sample round 0")
    assert found["perf/sample_round_0/outputs"] == [sampled["outputs"]]
    (told,) = [line for line in lines if line["stage"] == "evaluation"]
    assert found["eval/jsonl/MALT"] == pytest.approx([told["right"]["MALT"]])
    assert found["data/refiner/pairs"] and 0 <= found["data/refiner/mixed"][0] <= 1
    losses = [line["loss"] for line in lines if line["stage"] == "dpo/refiner" and "loss" in line]
    mine = found.get("dpo/refiner/loss", found.get("train/loss"))
    assert mine and losses
    assert ("dpo/refiner/loss" in found) == (loggers == "[]")


def test_only_numbers_are_drawn() -> None:
    line = {"stage": "grade round 3", "seconds": 1.5, "time": 9.0, "text": "x", "flag": True}
    assert list(scalars(line, training=True)) == [("perf/grade_round_3/seconds", 1.5, 0)]
    assert not list(scalars({"stage": "warning", "text": "x"}, training=True))
    step = {"stage": "sft/verifier", "loss": 0.5, "step": 7, "max_steps": 9}
    assert list(scalars(step, training=True)) == [("sft/verifier/loss", 0.5, 7)]
    assert not list(scalars(step, training=False))


@pytest.mark.parametrize("before", ["", '{"stage": "a"}\n', '{"stage": "a"}\n{"stage": "to'])
def test_a_torn_line_harms_no_other(tmp_path: Path, before: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(before)
    for n in range(2):
        Run(tmp_path, make_config({})).log("b", n=n)
    lacking: list[str] = []
    lines = read_lines(tmp_path / "metrics.jsonl", lacking)
    assert [line["n"] for line in lines if line["stage"] == "b"] == [0, 1]
    assert len(lacking) == before.endswith("to")
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["n"] == 1
