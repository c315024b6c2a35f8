"""SmolLM2: prompts are the whole text's tokens; greedy outputs are those of transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from malt_fast.config.load import make_config, with_task_defaults
from malt_fast.engines import Completion, Engine, Policy, Request, SamplingParams
from malt_fast.engines.hf import HFEngine
from malt_fast.sampling.prepare import load_setup
from tests.real.questions import ROWS, short_questions, write_rows

pytestmark = pytest.mark.real

TOKENS = 16  # of an output
SAID = (  # outputs, which begin and end with anything but newlines
    "The answer is 12.",
    "Step 1: Key information\n- 3 apples\n\nFinal Answer: 5",
    " a",
    "**B: bank**",
)


@pytest.mark.parametrize("task", ROWS)
def test_prompts_are_the_tokens_of_their_whole_text(
    task: str, checkpoint: str, tmp_path: Path
) -> None:
    data = {"name": task, "path": str(write_rows(task, tmp_path))}
    values = {"task": data, "model": {"name_or_path": checkpoint}}
    setup = load_setup(make_config(with_task_defaults(values)))
    prompts, tokenizer = setup.prompts, setup.prompts.tokenizer
    segments = [np.array(tokenizer(text)["input_ids"], np.int32) for text in SAID]
    for question in [*setup.task.train, *setup.task.test]:
        tokens = prompts.encode_question(question.text)
        for level in range(1, len(prompts.chain) + 1):
            for i in range(len(segments)):
                read = [segments[(i + k) % len(segments)] for k in range(level - 1)]
                prompt = prompts.build(level, tokens, read).tolist()
                text = tokenizer.decode(prompt, clean_up_tokenization_spaces=False)
                assert question.text in text
                assert tokenizer(text, add_special_tokens=False)["input_ids"] == prompt


# ---- greedy outputs ----


@pytest.fixture(scope="module")
def model(checkpoint: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def asked(tokenizer: Any) -> list[list[int]]:
    """The prompts of 100 short questions."""
    return [
        tokenizer(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
            ),
            add_special_tokens=False,
        )["input_ids"]
        for question in short_questions()
    ]


@pytest.fixture(scope="module")
def expected(model: Any, tokenizer: Any, asked: list[list[int]]) -> list[list[int]]:
    """What `generate` of transformers says, in batches of 25, each output up to its end."""
    outputs = []
    for begin in range(0, len(asked), 25):
        some = asked[begin : begin + 25]
        longest = max(map(len, some))
        pad = tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(one)) + one for one in some])
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in some])
        with torch.no_grad():
            made = model.generate(
                input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=TOKENS
            )
        outputs += [_until(row, tokenizer.eos_token_id) for row in made[:, longest:].tolist()]
    return outputs


def _until(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def sample(engine: Engine, base: str, asked: Sequence[list[int]], end: int) -> list[list[int]]:
    params = SamplingParams(temperature=0, max_tokens=TOKENS, stop_token_ids=(end,))
    engine.submit(
        [
            Request(i, str(i), (0,), Policy(base), np.array(prompt, np.int32), params, seed=i)
            for i, prompt in enumerate(asked)
        ]
    )
    done: dict[int, Completion] = {}
    while engine.pending:
        done |= {one.id: one for one in engine.poll()}
    engine.close()
    return [done[i].tokens.tolist() for i in range(len(asked))]


def are_ties(model: Any, prompt: list[int], ours: list[int], theirs: list[int]) -> bool:
    """Whether two outputs are equal, or first differ where their logits do not."""
    pairs = list(zip(ours, theirs, strict=False))
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if first is None:
        return len(ours) == len(theirs)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + ours[:first]])).logits[0, -1]
    return abs(float(logits[ours[first]] - logits[theirs[first]])) < 1e-3


@pytest.mark.parametrize("name", ["hf", "vllm"])
def test_greedy_outputs_are_those_of_transformers(
    name: str,
    checkpoint: str,
    model: Any,
    tokenizer: Any,
    asked: list[list[int]],
    expected: list[list[int]],
) -> None:
    engine: Engine
    if name == "hf":
        engine = HFEngine(dtype="float32", device="cpu")
    else:
        pytest.importorskip("vllm")
        from malt_fast.engines.vllm import VLLMEngine

        engine = VLLMEngine([Policy(checkpoint)], dtype="float32", max_model_len=128)
    outputs = sample(engine, checkpoint, asked, tokenizer.eos_token_id)
    for prompt, ours, theirs in zip(asked, outputs, expected, strict=True):
        assert are_ties(model, prompt, ours, theirs)
    assert sum(a == b for a, b in zip(outputs, expected, strict=True)) > 90
