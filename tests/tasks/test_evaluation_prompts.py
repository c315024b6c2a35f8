"""Extra wordings: numbered after the chain's, asked of whom they say, given room."""

import numpy as np
import pytest

from malt_fast.config.load import make_config
from malt_fast.engines import SamplingParams
from malt_fast.sampling.prepare import load_setup
from malt_fast.sampling.setup import longest
from malt_fast.tasks.evaluation_prompts import EvaluationPrompts
from malt_fast.tasks.load import load_task
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.wording import RolePrompt
from malt_fast.utils.errors import MaltError
from tests.tiny import byte_tokenizer

TASK = {"limit": 3, "test_limit": 3}
BUNDLED = {"task": TASK, "model": {"name_or_path": "bundled"}}
SAMPLING = {"max_tokens": 7, "roles": {"refiner": {"max_tokens": 5}}}
PAPER = BUNDLED | {"sampling": SAMPLING, "evaluate": {"suite": "paper"}}


def test_extra_wordings_come_after_the_chain_and_are_sampled_as_their_role_is():
    setup = load_setup(make_config(PAPER))
    assert setup.evaluation_prompts.names == [
        "generator",
        "verifier",
        "refiner",
        "direct",
        "debater",
    ]
    assert [setup.evaluation_prompts.role(i) for i in (2, 4, 5)] == [
        "verifier",
        "refiner",
        "generator",
    ]
    assert [p.max_tokens for p in setup.params(evaluating=True)] == [7, 7, 5, 5, 7]
    assert len(setup.params()) == 3
    assert load_setup(make_config(BUNDLED)).evaluation_prompts.names == setup.config.chain


def test_their_prompts_hold_what_they_read():
    setup = load_setup(make_config(PAPER))
    encode = setup.prompts.encode_question
    question, said = encode("11+11"), [encode(text) for text in ("22", "33", "44")]
    prompt = setup.evaluation_prompts.build(5, question, said)
    assert setup.prompts.decode(prompt) == "11+11\nDraft:22\nCheck:3344\nFinal:"
    prompt = setup.evaluation_prompts.build(4, question, said[:1])
    assert setup.prompts.decode(prompt) == "11+11\nDraft:22\nCheck:\nFinal:"
    assert setup.evaluation_prompts.build(2, question, said[:1]).tolist() == (
        setup.prompts.build(2, question, said[:1]).tolist()
    )


def test_a_debater_needs_room_for_three_whole_outputs():
    setup = load_setup(make_config(PAPER))
    question = setup.prompts.encode_question(setup.task.train[0].text)
    params = [SamplingParams(max_tokens=n) for n in (20, 1, 1, 1, 2)]
    three = [np.full(20, 5, np.int32)] * 3
    assert longest(setup, params) == len(setup.evaluation_prompts.build(5, question, three)) + 2
    assert longest(setup, params[:3]) < longest(setup, params)


def test_a_wording_that_leaves_no_room_is_told_at_the_start(monkeypatch):
    """The bundled model reads 128 tokens."""
    module = "malt_fast.sampling.prepare.load_task"
    config = make_config(PAPER)
    task = load_task(config)
    task.extra["direct"] = RolePrompt(None, "1" * 100 + "{question}{generator}+22222222222")
    monkeypatch.setattr(module, lambda config, questions: task)
    with pytest.raises(MaltError, match="makes a prompt of 130 tokens"):
        load_setup(config)
    load_setup(make_config(BUNDLED))


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"debate": RolePrompt(None, "{question}")}, "did you mean 'debater'"),
        ({"direct": RolePrompt(None, "{question}{draft}")}, "names {draft}"),
        ({"debater": RolePrompt(None, "{question}{first}{own}")}, "in chain order"),
    ],
)
def test_wordings_that_cannot_serve_are_told(extra, says):
    prompts = Prompts(["a"], {"a": RolePrompt(None, "{question}")}, byte_tokenizer(), chat=False)
    with pytest.raises(MaltError, match=says):
        EvaluationPrompts(prompts, extra)
