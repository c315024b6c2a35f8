"""The run whose page the tests of this folder look at, made once in a process."""

from pathlib import Path

import pytest

from tests.small_run import run, write_model, write_questions


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with the evaluation of the suite `paper`. Tests read it, or change a copy."""
    home = tmp_path_factory.mktemp("evaluated")
    data, model = write_questions(home / "q.jsonl"), write_model(home / "model")
    more = ["--task.test_path", str(data), "--task.decontaminate", "false"]
    assert run(data, model, home / "run", *more, "--evaluate.suite", "paper") == 0
    return home / "run"
