"""What this machine lacks is told at the start; every base model's end tokens are known."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from malt_fast.config.load import make_config
from malt_fast.sampling import prepare
from malt_fast.sampling.prepare import load_setup
from malt_fast.tasks.load import load_task
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.task import Question, Task
from malt_fast.utils.errors import MaltError
from tests.tiny import byte_tokenizer, tiny_llama

BUNDLED = make_config({"task": {"limit": 3, "test_limit": 3}, "model": {"name_or_path": "bundled"}})


def test_end_tokens_of_every_base_in_the_chain_end_an_output(tmp_path: Path) -> None:
    base, other = tiny_llama(tmp_path / "base"), tiny_llama(tmp_path / "other", seed=1)
    for folder, ids in [(base, 2), (other, [2, 7, 9])]:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = "<s>"
    tokenizer.save_pretrained(other)
    model = {"name_or_path": str(base), "roles": {"verifier": str(other)}}
    task = {"limit": 1, "test_limit": 1}
    mixed = make_config({"model": model, "task": task})
    assert set(load_setup(mixed).prompts.end_ids) == {1, 2, 7, 9}
    plain = make_config({"model": {"name_or_path": str(base)}, "task": task})
    assert load_setup(plain).prompts.end_ids == (2,)


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Task:
    """The task that `load_setup` gets; the bundled model reads 128 tokens."""
    made = load_task(BUNDLED)
    monkeypatch.setattr(prepare, "load_task", lambda config, questions: made)
    return made


def test_the_longest_question_fits_and_a_longer_one_is_told(task: Task) -> None:
    prompts = load_setup(BUNDLED).prompts
    nothing = prompts.filler(0)
    around = max(len(prompts.build(k, nothing, [nothing] * (k - 1))) for k in (1, 2, 3))
    text = "1" * (128 - 1 - around)
    for questions in (task.train, task.test):
        kept = questions[1]
        questions[1] = Question("long", text, "1")
        load_setup(BUNDLED)
        questions[1] = Question("long", f"{text}1", "1")
        with pytest.raises(MaltError, match="'long' makes a prompt of 128 tokens"):
            load_setup(BUNDLED)
        questions[1] = kept


def test_questions_that_surely_fit_are_not_tokenised(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def encode(prompts: Prompts, texts: Iterable[str]) -> Iterator[Any]:
        asked.extend(texts)
        return iter(())

    monkeypatch.setattr(prepare, "context_length", lambda config: 10_000)
    monkeypatch.setattr(Prompts, "encode_questions", encode)
    load_setup(BUNDLED)
    assert not asked
