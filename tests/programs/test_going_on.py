"""A run is its settings: what `train --run DIR` takes from DIR, and what it may replace there."""

import os
import shutil
import signal
import threading
from pathlib import Path

import pytest

from malt_fast import train
from malt_fast.config.command import read_command
from malt_fast.train import PROGRAM


@pytest.fixture
def folder(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "a run")


def files(folder: Path) -> dict[Path, bytes]:
    names = ("config.yaml", "questions.jsonl", "evaluation.json", "round-*/*/*/*", "samples/*")
    return {path: path.read_bytes() for name in names for path in folder.glob(name)}


def test_a_directory_is_enough_to_go_on(folder: Path, capsys) -> None:
    before = files(folder)
    assert train.main(["--run", str(folder)]) == 0
    assert files(folder) == before
    out = capsys.readouterr().out
    assert "evaluation.json is there already" in out and "settings changed" not in out


def test_options_go_over_the_settings_of_the_run(folder: Path) -> None:
    words = ["--run", str(folder), "--engine.batch_size", "7", "--evaluate.sampling.top_p", "0.9"]
    saved, config = read_command(PROGRAM, words[:2]), read_command(PROGRAM, words)
    assert config.engine.batch_size == 7 and config.evaluate.sampling.top_p == 0.9
    rest = {"engine", "evaluate"}
    assert config.model_dump(exclude=rest) == saved.model_dump(exclude=rest)
    assert config.task.name == "jsonl" and config.tree.branching == [3, 2, 2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--task.name arithmetic", "task.name jsonl -> arithmetic"),
        ("--chain generator,refiner --tree.branching 2,2", "chain"),
        ("--model.dtype bfloat16", "model.dtype float32 -> bfloat16 would replace 5 trained"),
        ("--train.sft.learning_rate 1e-3", "would replace 5 trained adapters in"),
        ("--train.dpo.beta 0.4 --train.reference base", "would replace 2 trained adapters in"),
        ("--seed 3 --plan", "seed 0 -> 3 would replace 5 trained adapters in"),
    ],
)
def test_finished_work_is_not_replaced_unasked(folder: Path, words, said, capsys) -> None:
    before = files(folder)
    assert train.main(["--run", str(folder), *words.split()]) == 2
    error = capsys.readouterr().err
    assert said in error and error.endswith("add --overwrite, or give another --run DIR\n")
    assert files(folder) == before


@pytest.mark.parametrize(
    ("words", "count"),
    [("--tree.allocation adaptive --sampling.temperature 0.7", 5), ("--lora.r 8", 6)],
)
def test_a_warm_start_does_not_depend_on_trees(folder: Path, words, count, capsys) -> None:
    (folder / "warm" / "generator" / "sft").mkdir(parents=True)
    assert train.main(["--run", str(folder), *words.split()]) == 2
    assert f"would replace {count} trained adapters in" in capsys.readouterr().err


def test_samples_of_other_questions_are_not_replaced_unasked(folder: Path, capsys) -> None:
    for name in ("round-0", "adapters"):
        shutil.rmtree(folder / name)
    assert train.main(["--run", str(folder), "--task.name", "arithmetic"]) == 2
    assert "would replace the samples in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "status"), [("y\n", 0), ("\n", 2), ("", 2), ("no\n", 2), ("Ctrl-C", 130)]
)
def test_a_terminal_is_asked(folder: Path, monkeypatch, capsys, answer, status) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr("sys.stdin", os.fdopen(reading))
    for stream in ("stdin", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True)
    if answer == "Ctrl-C":
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        os.write(writing, answer.encode())
        os.close(writing)
    words = ["--run", str(folder), "--train.dpo.max_steps", "1"]
    assert train.main(words) == status
    assert "trained adapters in" in (error := capsys.readouterr().err) and "go on? [y/N]" in error


def test_another_task_begins_with_its_own_settings(folder: Path) -> None:
    config = read_command(PROGRAM, ["--run", str(folder), "--task.name", "gsm8k"])
    fresh = read_command(PROGRAM, ["--run", str(folder / "new"), "--task.name", "gsm8k"])
    assert config.model_dump(exclude={"run"}) == fresh.model_dump(exclude={"run"})


@pytest.mark.parametrize("text", ["", "seed: 42\n", "lr: 1\n"])
def test_settings_that_are_not_whole_are_not_those_of_a_run(folder: Path, capsys, text) -> None:
    """An empty file would stand for the demonstration, which would replace everything."""
    (folder / "config.yaml").write_text(text)
    before = files(folder)
    for words in ([], ["--seed", "3"], ["--plan"]):
        assert train.main(["--run", str(folder), *words]) == 2
        assert "which the settings of a run have" in capsys.readouterr().err
    assert files(folder) == before


def test_a_run_that_is_not_there_is_no_demonstration(tmp_path: Path, capsys) -> None:
    for words in ([], ["--plan"], ["--overwrite"]):
        assert train.main(["--run", str(tmp_path / "typo"), *words]) == 2
        assert "typo does not exist, and no settings" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()
    read_command(PROGRAM, ["--run", str(tmp_path / "typo"), "--task.name", "arithmetic"])
