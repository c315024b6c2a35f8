"""Prompts as people read them: `--show_prompts`, and prompts.txt of a run."""

import subprocess
import sys
from pathlib import Path

import pytest

from malt_fast import train
from malt_fast.config.load import saved_config
from malt_fast.config.schema import Config
from malt_fast.sampling.prepare import prepare
from tests.tiny import tiny_llama


def options(data: Path, model: Path) -> list[str]:
    task = ["--task.name", "jsonl", "--task.path", str(data), "--task.grader", "number"]
    return [*task, "--model.name_or_path", str(model)]


def test_show_prompts_prints_every_role_and_loads_no_weights(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_llama(tmp_path / "model", chat_template=True)
    (model / "model.safetensors").unlink()
    monkeypatch.chdir(tmp_path)
    assert train.main([*options(data, model), "--show_prompts"]) == 0
    shown = capsys.readouterr().out
    assert not (tmp_path / "runs").exists()
    for role in ("generator", "verifier", "refiner"):
        assert f"===== {role}: " in shown
    assert "⟪one or two? (0)⟫" in shown and "⟪output of the verifier⟫" in shown
    assert "<|assistant|>" in shown


def test_prompts_may_be_read_in_part(data: Path, tmp_path: Path) -> None:
    """As `... --show_prompts | head -1` does."""
    model = tiny_llama(tmp_path / "model", chat_template=True)
    command = [sys.executable, "-m", "malt_fast.train", *options(data, model), "--show_prompts"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None and program.stderr is not None
        program.stdout.close()
        assert b"BrokenPipeError" not in program.stderr.read()
    assert program.returncode == 0


def test_the_counts_are_those_of_the_prompts(finished_run: Path) -> None:

    setup = prepare(saved_config(Config, {"run": str(finished_run)}, ()))
    question = setup.prompts.encode_question(setup.task.train[0].text)
    text = (finished_run / "prompts.txt").read_text()
    built = setup.prompts.build(3, question, [question[:0], question[:0]])
    assert f"===== refiner: {len(built):,} tokens (" in text
    assert f"{len(question)} question" in text
    assert "prompts" in (finished_run / "report.html").read_text()
    assert "⟪one or two? (0)⟫" in (finished_run / "report.html").read_text()
