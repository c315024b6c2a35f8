"""Outputs that fail: counted, with the first reason, wherever people look; fitting advice."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malt_fast import report
from malt_fast.config.load import make_config, with_task_defaults
from malt_fast.engines import Completion
from malt_fast.runs.metrics import named_figure
from malt_fast.sampling.failures import Failures
from malt_fast.sampling.prepare import load_setup
from tests.small_run import run
from tests.tiny import tiny_llama

TOKENS = ("--sampling.max_tokens", "3")


def short_model(folder: Path, data: Path, room: int, **likes: float) -> Path:
    """A model whose context leaves the refiner's prompt `room` tokens for what it reads."""
    said = {"1": 12.0, "2": 12.0} | {"</s>": likes.get("end", 0.0)}
    tiny_llama(folder, chat_template=True, layers=1)
    task = {"name": "jsonl", "path": str(data), "grader": "number"}
    setup = load_setup(
        make_config(with_task_defaults({"task": task, "model": {"name_or_path": str(folder)}}))
    )
    nothing = [np.empty(0, np.int32)] * 2
    longest = max(
        len(setup.prompts.build(3, setup.prompts.encode_question(question.text), nothing))
        for question in [*setup.task.train, *setup.task.test]
    )
    context = longest + room + 1  # one for the answer
    return tiny_llama(
        folder, chat_template=True, layers=1, likes=said, max_position_embeddings=context
    )


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_failures_are_counted_and_told_once() -> None:
    told: list[tuple[str, str]] = []
    seen = Failures(lambda *warning: told.append(warning))
    assert seen.figures() == {"failed": 0}
    seen.see([Completion.failed(3, "no room"), Completion.failed(9, "gone")], [3, 4, 5, 9])
    seen.see([Completion.failed(12, "gone")], [12])
    assert seen.figures() == {"failed": 5, "first_failure": "no room"}
    ((text, kind),) = told
    assert text.endswith(": no room") and kind == "failed"
    assert named_figure("first_failure", "no room") == "first failure: no room"
    assert named_figure("reused_tokens", 1200) == "1,200 reused tokens"
    assert named_figure("first_loss", 0.1449) == "first loss 0.145"


def test_some_outputs_without_room(data: Path, tmp_path: Path, capsys) -> None:
    """Training goes on with the others; terminal, metrics and report give number and reason."""
    model, folder = short_model(tmp_path / "model", data, 2, end=11.0), tmp_path / "run"
    assert run(data, model, folder, *TOKENS, "--preferences.sft_source", "all") == 0
    out, lines = capsys.readouterr().out, lines_of(folder)
    for stage in ("sample round 0", "evaluate"):
        (line,) = [line for line in lines if line["stage"] == stage]
        assert 0 < line["failed"] < line["outputs"]
        assert line["first_failure"].startswith("the prompt has ")
        (closing,) = [text for text in out.splitlines() if text.startswith(f"{stage} ")]
        assert f"{line['failed']:,} failed" in closing
        assert f"first failure: {line['first_failure']}" in closing
    warned = [line["text"] for line in lines if line.get("kind") == "failed"]
    assert len(warned) == 2 and all("lower sampling.max_tokens" in text for text in warned)
    assert report.main(["--run", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert "failed outputs" in page and ", the first: the prompt has" in page


@pytest.mark.parametrize(
    ("likes", "room", "said", "advice"),
    [
        ({}, 2, "144 failed", "first failure was: the prompt has"),
        ({}, 9, "are wrong", "easier questions"),
    ],
)
def test_nothing_to_learn_says_what_happened(
    data: Path, tmp_path: Path, capsys, likes: dict[str, float], room: int, said: str, advice: str
) -> None:
    model, folder = short_model(tmp_path / "model", data, room, **likes), tmp_path / "run"
    for _ in range(2):  # the second time, the forest is there already
        assert run(data, model, folder, *TOKENS, "--tree.branching", "2,2,2") == 2
        error = capsys.readouterr().err
        assert said in error and advice in error
        assert ("temperature" in error) == (said == "are wrong")


@pytest.mark.parametrize(
    ("end", "said", "advice"),
    [
        (0.0, "were cut off before an answer", "raise sampling.max_tokens"),
        (30.0, "end without an answer", "the marker that the grader looks for"),
    ],
)
def test_outputs_without_an_answer_are_not_called_wrong(
    tmp_path: Path, capsys, end: float, said: str, advice: str
) -> None:
    """A letter is asked for, and the model knows digits alone."""
    rows = [{"question": f"a or b? {i}", "answer": "A"} for i in range(20)]
    data = tmp_path / "letters.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    likes = {"1": 12.0, "</s>": end}
    model = tiny_llama(tmp_path / "model", chat_template=True, layers=1, likes=likes)
    assert run(data, model, tmp_path / "run", "--task.grader", "choice", *TOKENS) == 2
    error = capsys.readouterr().err
    assert f" {said}" in error and error.strip().endswith(")") == (end > 0) and advice in error
    assert "wrong" not in error and "temperature" not in error
