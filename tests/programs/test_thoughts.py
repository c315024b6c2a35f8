"""A model whose template opens a thought: what is cut off before its end is no answer."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import malt_fast.api as mf
from tests.small_run import run, write_model, write_questions


def write_thinking_model(folder: Path) -> Path:
    """A random model that mostly says 1 or 2, and never ends the thought that its prompt opens."""
    model = AutoModelForCausalLM.from_pretrained(write_model(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "<|assistant|>\n", "<|assistant|>\n<think>"
    )
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():  # what makes the other tokens likely (tests/tiny.py)
        model.model.embed_tokens.weight[:, 0] = 100.0
        model.lm_head.weight[-2:, 0] = 0.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_thought_that_does_not_end_has_no_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, model = write_questions(tmp_path / "q.jsonl"), write_thinking_model(tmp_path / "model")
    assert run(data, model, tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "were cut off before an answer" in said and "are right" not in said
    settings = {"task.path": str(data), "task.grader": "number", "model.name_or_path": str(model)}
    sampling = {"evaluate.sampling.temperature": 1, "evaluate.sampling.max_tokens": 1}
    setup = mf.prepare("jsonl", {**settings, **sampling, "model.dtype": "float32"})
    assert {system.accuracy for system in mf.evaluate(setup).systems} == {0}
    with mf.answering(setup) as pipeline:
        (answer,) = pipeline.answers(["one or two? (0)"])
    assert answer.votes == 0 and answer.answer is None
    outputs = [text for turn in answer.turns for text in turn.values()]
    assert "1" in outputs or "2" in outputs
