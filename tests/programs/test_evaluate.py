"""A finished run is evaluated again: tables, settings, resuming, mistakes."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from malt_fast import evaluate
from malt_fast.config.load import dump, make_config
from malt_fast.engines import (
    Policy,
)
from malt_fast.evaluation import design
from malt_fast.evaluation.result import EvaluationResult, read_result
from malt_fast.evaluation.run import evaluate_run
from malt_fast.evaluation.shape import build_shape
from malt_fast.evaluation.systems import (
    systems_of,
)
from malt_fast.runs.run import Run
from malt_fast.runs.saved import saved_policies
from malt_fast.sampling import sample
from malt_fast.sampling.setup import Setup
from malt_fast.tasks.task import Task
from malt_fast.utils.errors import MaltError
from tests.adapters import write_index
from tests.evaluation.fake import (
    CHAIN,
    FakeEngine,
    as_json,
    prompts_of,
    questions_of,
)
from tests.small_run import load_forest
from tests.tiny import tiny_llama


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A finished run: a jsonl task, a tiny model, empty adapters; the fake engine samples."""
    model = tiny_llama(tmp_path / "model")
    rows = [json.dumps({"question": q.text, "answer": q.gold}) for q in questions_of(20)]
    (tmp_path / "test.jsonl").write_text("\n".join(rows))
    prompts = {role: {"user": f"{{question}} {role}:"} for role in CHAIN}
    (tmp_path / "prompts.yaml").write_text(json.dumps({"chat": False, "prompts": prompts}))
    config = make_config(
        {
            "run": tmp_path / "run",
            "task": {
                "name": "jsonl",
                "path": str(tmp_path / "test.jsonl"),
                "test_path": str(tmp_path / "test.jsonl"),
                "grader": "number",
                "prompts": str(tmp_path / "prompts.yaml"),
            },
            "model": {"name_or_path": str(model)},
            "evaluate": {"bootstrap": 300},
        }
    )
    for role, kind in [("generator", "sft"), ("generator", "final"), ("verifier", "sft")]:
        adapter = tmp_path / "run" / "adapters" / role / kind
        adapter.mkdir(parents=True)
        (adapter / "adapter_config.json").write_text("{}")
        (adapter / "adapter_model.safetensors").write_text(f"{role} {kind}")
    write_index(tmp_path / "run", {"generator": "dpo", "verifier": "sft"})
    (tmp_path / "run" / "config.yaml").write_text(dump(config))

    monkeypatch.setattr(sample, "open_engine", lambda *_: FakeEngine())
    return Run(tmp_path / "run", config, Console(quiet=True))


def test_saved_adapters_stand_for_their_role(run: Run) -> None:
    base = {role: Policy("m") for role in CHAIN}
    sft, final = saved_policies(run.folder, base)
    adapters = run.folder / "adapters"
    assert sft == {
        "generator": Policy("m", str(adapters / "generator" / "sft")),
        "verifier": Policy("m", str(adapters / "verifier" / "sft")),
        "refiner": Policy("m"),
    }
    assert final == sft | {"generator": Policy("m", str(adapters / "generator" / "final"))}
    with pytest.raises(MaltError, match=r"malt_fast\.train"):
        saved_policies(run.folder / "adapters", base)


def test_main_evaluates_a_finished_run_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["--run", str(run.folder)]) == 0
    shown = capsys.readouterr().out
    path = run.folder / "evaluation.json"
    result = json.loads(path.read_text())
    assert set(result) == {*EvaluationResult.model_fields, "xxh3"} and result["suite"] == "standard"
    assert sum(result["grading"]["refiner"]["verdicts"].values()) > 0
    assert "refiner, graded: " in shown
    assert result["task"] == "jsonl"
    assert result["systems"][0]["n"] == 20
    assert "MALT+MV@3" in shown
    assert "wrong to right" in shown
    shape, _ = build_shape(
        systems_of(CHAIN, 3),
        prompts_of(CHAIN).numbers,
        {"base": policies(run)[0], "sft": policies(run)[1], "final": policies(run)[2]},
    )
    assert len(load_forest(run.folder, "evaluation.arrows")) == 20 * (1 + len(shape))

    first = path.read_bytes()
    assert evaluate.main(["--run", str(run.folder)]) == 0
    assert path.read_bytes() == first
    assert (
        evaluate.main(["--run", str(run.folder), "--evaluate.votes", "2", "--evaluate.limit", "7"])
        == 0
    )
    again = json.loads(path.read_text())
    assert again["systems"][2]["name"] == "SA+MV@6"
    assert again["systems"][0]["n"] == 7
    changed = {
        key for key in again["settings"] if again["settings"][key] != result["settings"][key]
    }
    assert changed == {"evaluate.votes", "evaluate.limit"}
    assert again["settings"]["evaluate.votes"] == 2 and again["settings"]["seed"] == 0
    assert {"engine.batch_size", "task.test_path", "task.test_limit"} <= set(again["settings"])
    assert not [file for file in run.folder.iterdir() if file.name.startswith(".")]


@pytest.mark.usefixtures("drawn_charts")
def test_main_makes_tables_and_curves_of_the_paper(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--run", str(run.folder), "--suite", "paper", "--evaluate.calls", "6"]
    assert evaluate.main(words) == 0
    shown = capsys.readouterr().out
    assert "MALT+MV@3 G+V" in shown and "SA -> MALT+MV@3" in shown
    result = json.loads((run.folder / "evaluation.json").read_text())
    assert result["settings"]["evaluate.suite"] == "paper"
    assert result["published"] is None and result["systems"][0]["subsets"] is None
    names = {"main", "ablations", "turns", "flips", "curves"}
    files = {f"{name}.{kind}" for name in names for kind in ("csv", "tex", "md")}
    assert {file.name for file in (run.folder / "tables").iterdir()} == files
    main = (run.folder / "tables" / "main.csv").read_text().splitlines()
    assert len(main) == 1 + len(result["systems"])
    curves = (run.folder / "tables" / "curves.csv").read_text().splitlines()
    assert len(curves) == 1 + 6 + 2 + 2
    first = (run.folder / "curves.svg").read_bytes()
    assert b"SA, pass@k" in first and evaluate.main(words) == 0
    assert (run.folder / "curves.svg").read_bytes() == first
    assert not [file for file in run.folder.rglob(".*")]


def test_trained_roles_are_not_asked_with_other_prompts(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(["--run", str(run.folder)]) == 0
    file = run.folder.parent / "prompts.yaml"
    file.write_text(file.read_text().replace("refiner:", "refine!"))
    assert evaluate.main(["--run", str(run.folder)]) == 2
    assert "prompts.json" in capsys.readouterr().err


def policies(run: Run) -> list[dict[str, Policy]]:
    base = {role: Policy(run.config.base_model(role)) for role in CHAIN}
    return [base, *saved_policies(run.folder, base)]


def test_a_finished_evaluation_is_not_repeated(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task("jsonl", [], questions_of(5), {}, False, "number")
    setup = Setup(run.config, task, prompts_of(CHAIN).prompts)
    result = evaluate_run(run, setup, *policies(run))

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("sampled again")

    monkeypatch.setattr(design, "sample", never)
    assert evaluate_run(run, setup, *policies(run)) == result
    with pytest.raises(AssertionError):
        evaluate_run(run, setup, *policies(run), again=True)
    empty = Setup(run.config, Task("jsonl", [], [], {}, False, "number"), setup.prompts)
    with pytest.raises(MaltError, match="test_path"):
        evaluate_run(run, empty, *policies(run), again=True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--evaluate.votes", "3"], "--run is missing"),
        (["--run", "nowhere"], "nowhere holds no run"),
        (["--run", "RUN", "--evaluate.vote", "3"], "did you mean"),
        (["--run", "RUN", "--evaluate.votes", "0"], "evaluate.votes"),
        (["--run", "RUN", "--suite", "papers"], "evaluate.suite = 'papers' is not possible"),
        (["--run", "RUN", "--suite"], "--suite needs a value"),
        (["--run", "RUN", "--suite="], "--suite needs a value"),
        (["--run", "RUN", "--lora.r", "8", "--seed", "9"], "seed, lora.r were fixed by training"),
    ],
)
def test_mistakes_are_one_sentence(
    run: Run, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run.folder.rglob("*"))
    assert evaluate.main([str(run.folder) if word == "RUN" else word for word in words]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
    assert sentence in shown
    assert sorted(run.folder.rglob("*")) == before


def test_a_result_is_read_as_it_was_written(run: Run) -> None:
    assert evaluate.main(["--run", str(run.folder), "--suite", "paper"]) == 0
    path = run.folder / "evaluation.json"
    result = read_result(path)
    assert as_json(result) | {"xxh3": None} == json.loads(path.read_text()) | {"xxh3": None}
    assert result.system("SA") is result.systems[0] and "pass" in as_json(result)["curves"]["SA"]
    with pytest.raises(ValueError, match="malt"):
        EvaluationResult.model_validate({k: v for k, v in as_json(result).items() if k != "malt"})
