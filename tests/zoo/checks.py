"""What must hold for every checkpoint of the zoo, each against an independent twin.

A check raises: AssertionError where something is wrong, MaltError where the checkpoint is refused.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from malt_fast import export
from malt_fast.config.schema import LoraConfig
from malt_fast.engines import Completion, Policy, Request, SamplingParams
from malt_fast.engines.hf import HFEngine
from malt_fast.forest.role_data import RoleData
from malt_fast.models.plain_text import most_tokens
from malt_fast.runs.metrics import read_lines
from malt_fast.serving.pipeline import Pipeline
from malt_fast.tasks.prompts import Prompts, RolePrompt
from malt_fast.training.adapters import load_model
from malt_fast.training.packing import Packer, Packing, completion_logps
from malt_fast.training.stage import Layout
from tests.zoo.animal import QUESTIONS, Animal
from tests.zoo.build import end_tokens
from tests.zoo.corpus import OUTPUTS
from tests.zoo.families import COMMON, FAMILIES, WINDOW
from tests.zoo.runs import CHAIN
from tests.zoo.templates import Template

Tokens = np.ndarray
LENGTHS = (1, 9, 40, 120, 240, 300, 600)  # tokens of prompts, up to beyond WINDOW
ROOM = 10  # tokens of an output
TIE = 1e-3  # logits nearer than this may be chosen between by rounding


# ---- prompts and end tokens ----


def prompts(animal: Animal) -> None:
    """Prompts are the tokens of the whole text, and no question becomes a control token.

    Many questions at once are tokenised as each alone.
    """
    tokenizer = AutoTokenizer.from_pretrained(animal.words)
    for task_name in QUESTIONS:
        task, made = animal.prompts(task_name)
        texts = [question.text for question in [*task.train, *task.test]]
        for text, tokens in zip(texts, made.encode_questions(texts), strict=True):
            assert tokens.tolist() == made.encode_question(text).tolist(), text
            assert len(tokens) <= most_tokens(text)
        for question in [*task.train, *task.test]:
            for text in OUTPUTS.values():
                fields = dict.fromkeys(CHAIN, text) | {"question": question.text}
                _compare(animal.template, tokenizer, made, task.prompts, fields)
    added = {i: str(t) for i, t in tokenizer.added_tokens_decoder.items() if str(t).strip()}
    texts = [f"a {token} b" for token in added.values()]
    for token, tokens in zip(added.values(), made.encode_questions(texts), strict=True):
        asked = made.encode_question(f"a {token} b").tolist()
        assert asked == tokens.tolist()
        assert not added.keys() & set(asked), f"{token} in a question becomes a control token"


def _compare(
    template: Template,
    tokenizer: Any,
    made: Prompts,
    wording: dict[str, RolePrompt],
    fields: dict[str, str],
) -> None:
    question = made.encode_question(fields["question"])
    for level, role in enumerate(CHAIN, 1):
        text = whole_text(template, tokenizer, wording[role], fields)
        said = [thought(template) + fields[name] for name in CHAIN]
        outputs = [sampled(tokenizer, one, made.end_ids[0]) for one in said]
        found = made.build(level, question, outputs[: level - 1]).tolist()
        texts = [text, apart(text, fields.values())]
        wanted = [tokenizer(one, add_special_tokens=False)["input_ids"] for one in texts]
        assert found in wanted, first_difference(tokenizer, found, wanted[-1])


def whole_text(
    template: Template, tokenizer: Any, wording: RolePrompt, fields: dict[str, str]
) -> str:
    """The prompt of a role as one text."""
    user, system = wording.user.format(**fields), wording.system
    if not template.jinja:
        return f"{template.begin or ''}{system}\n\n{user}"
    if template.system == "turn":
        turns = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    else:
        turns = [{"role": "user", "content": f"{system}\n\n{user}"}]
    text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return text


def apart(text: str, segments: Iterable[str]) -> str:
    """The text with a space between segments and line breaks, which some tokenizers would join."""
    for segment in segments:
        text = text.replace(f"{segment}\n", f"{segment} \n")
    return text


def thought(template: Template) -> str:
    """What a thinking model says before its answer, and later roles do not read."""
    return "{}\nIs it 24? No.\n{}\n\n".format(*template.words) if template.words else ""


def sampled(tokenizer: Any, text: str, end: int) -> Tokens:
    """An output as a model would sample it after a newline, with its end token."""
    before = tokenizer("\n", add_special_tokens=False)["input_ids"]
    both = tokenizer(f"\n{text}", add_special_tokens=False)["input_ids"]
    assert both[: len(before)] == before
    return np.array([*both[len(before) :], end], np.int32)


def first_difference(tokenizer: Any, found: Sequence[int], wanted: Sequence[int]) -> str:
    """Where two prompts part, for messages."""
    pairs = enumerate(zip(found, wanted, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(found), len(wanted)))
    shown = [
        tokenizer.convert_ids_to_tokens(list(x[max(0, at - 3) : at + 3])) for x in (found, wanted)
    ]
    return f"token {at} of {len(wanted)}: {shown[0]} instead of {shown[1]}"


def ends(animal: Animal) -> None:
    """Every end token that the checkpoint names ends outputs, and nothing else does."""
    tokenizer = AutoTokenizer.from_pretrained(animal.words)
    wanted = set(tokenizer.convert_tokens_to_ids(end_tokens(animal.entry)))
    found = set(animal.prompts("gsm8k")[1].end_ids)
    assert found == wanted, (
        f"ends at {tokenizer.convert_ids_to_tokens(sorted(found))} "
        f"instead of {tokenizer.convert_ids_to_tokens(sorted(wanted))}"
    )


def stops(animal: Animal) -> None:
    """Outputs stop at each of the end tokens, which stands last in them."""
    ids = animal.prompts("gsm8k")[1].end_ids
    params = SamplingParams(temperature=1.0, max_tokens=48, stop_token_ids=ids)
    asked = [_prompt(5 + i % 40, i) for i in range(192)]
    done = answer(HFEngine(device="cpu"), [(Policy(animal.base), p) for p in asked], params)
    last = {int(c.tokens[-1]) for c in done if c.finish_reason == "stop"}
    assert last == set(ids), f"outputs stop at {sorted(last)} instead of {sorted(ids)}"
    assert not any(set(ids) & set(c.tokens[:-1].tolist()) for c in done)


# ---- the engine ----


def greedy(animal: Animal) -> None:
    """Greedy outputs are those of transformers' generate, alone and beside others."""
    ids = animal.prompts("gsm8k")[1].end_ids
    params = SamplingParams(temperature=0.0, max_tokens=ROOM, stop_token_ids=ids)
    asked = [_prompt(length, length) for length in lengths(animal)]
    requests = [(Policy(animal.base), prompt) for prompt in asked]
    together = answer(HFEngine(device="cpu"), requests, params)
    alone = answer(HFEngine(device="cpu", batch_size=1), requests, params)
    model = plain(animal.base)
    for prompt, one, other in zip(asked, together, alone, strict=True):
        wanted = _generate(model, prompt, ids)
        for found in (one, other):
            _assert_same_choice(model, prompt, found.tokens.tolist(), wanted)


def lengths(animal: Animal) -> list[int]:
    """Those of LENGTHS that leave room for an output; longrope has the shorter context."""
    _, own = FAMILIES[animal.entry.family]
    context = own.get("original_max_position_embeddings", COMMON["max_position_embeddings"])
    return [length for length in LENGTHS if length + ROOM <= context]


def plain(base: str) -> Any:
    """A checkpoint as transformers alone loads it; eager attention knows Gemma 2's cap."""
    return AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager").eval()


def _generate(model: Any, prompt: Tokens, ends: Sequence[int]) -> list[int]:
    ids = torch.from_numpy(prompt).long()[None]
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=ROOM,
        do_sample=False,
        top_p=None,
        eos_token_id=list(ends),
        pad_token_id=0,
    )
    tokens: list[int] = out[0, len(prompt) :].tolist()
    return tokens


def _assert_same_choice(model: Any, prompt: Tokens, found: list[int], wanted: list[int]) -> None:
    """Two greedy outputs are equal up to a tie."""
    pairs = enumerate(zip(found, wanted, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), None)
    if at is None:
        assert len(found) == len(wanted), f"{found} instead of {wanted}"
        return
    ids = torch.tensor([[*prompt.tolist(), *wanted[:at]]])
    with torch.no_grad():
        logits = model(ids).logits[0, -1]
    gap = (logits[wanted[at]] - logits[found[at]]).item()
    assert gap < TIE, f"{len(prompt)} prompt tokens: {found} instead of {wanted}"


def _prompt(length: int, seed: int) -> Tokens:
    """Random tokens of text."""
    return np.random.default_rng(seed).integers(257, 450, length).astype(np.int32)


def answer(
    engine: HFEngine, asked: Sequence[tuple[Policy, Tokens]], params: SamplingParams
) -> list[Completion]:
    """The outputs in the order of the prompts; the engine is closed."""
    engine.submit(
        [
            Request(i, str(i), (i,), policy, p, params, seed=i + 1)
            for i, (policy, p) in enumerate(asked)
        ]
    )
    done: dict[int, Completion] = {}
    while engine.pending:
        done |= {c.id: c for c in engine.poll()}
    engine.close()
    found = [done[i] for i in range(len(asked))]
    assert not any(c.error for c in found), next(c.error for c in found if c.error)
    return found


# ---- a whole run ----


def ln2(animal: Animal) -> None:
    """DPO starts at ln 2: the policy is its reference."""
    lines, problems = read_lines(animal.finished() / "metrics.jsonl")
    losses = [line["first_loss"] for line in lines if "first_loss" in line and "pairs" in line]
    assert len(losses) == 2 and not problems, f"DPO of {len(losses)} roles, {problems}"
    assert all(abs(loss - math.log(2)) < 1e-5 for loss in losses), losses


def logps(animal: Animal) -> None:
    """Log-probs agree between engine, trainer and PEFT: of the base, and under every adapter."""
    adapters = [animal.finished() / "adapters" / role / "final" for role in CHAIN]
    policies = [Policy(animal.base, str(folder)) for folder in adapters]
    prompts = [_prompt(length, length) for length in lengths(animal) for _ in range(2)]
    order = [*policies, Policy(animal.base), *policies[::-1]]
    asked = [(policy, prompt) for policy in order for prompt in prompts]
    engine = HFEngine(device="cpu", batch_size=len(prompts))  # one policy at a time
    done = answer(engine, asked, SamplingParams(temperature=1.0, max_tokens=ROOM))
    for policy in (policies[-1], Policy(animal.base)):
        model = plain(animal.base) if policy.adapter is None else _tuned(animal, policy.adapter)
        own = [(p, c) for (one, p), c in zip(asked, done, strict=True) if one == policy]
        wanted = [_plain_logp(model, prompt, c.tokens) for prompt, c in own]
        _assert_near("the engine's", [float(c.logprobs.sum()) for _, c in own], wanted)
        if policy.adapter is None:
            assert policies[-1].adapter is not None
            tuned = _tuned(animal, policies[-1].adapter)
            other = [_plain_logp(tuned, prompt, c.tokens) for prompt, c in own]
            assert np.abs(np.subtract(other, wanted)).max() > 1e-2, "the adapter changes nothing"
            continue
        for layout, longest in (("rows", max(LENGTHS)), ("trees", WINDOW - ROOM)):
            some = [i for i, (prompt, _) in enumerate(own) if len(prompt) <= longest]
            data = _role_data([own[i] for i in some])
            found = _trainer_logps(animal, adapters[-1], data, layout)
            _assert_near(f"the trainer's {layout}", found, [wanted[i] for i in some])


def _role_data(rows: Sequence[tuple[Tokens, Completion]]) -> RoleData:
    """Completions to train on, those of a prompt in one tree."""
    trees = np.unique([len(prompt) for prompt, _ in rows], return_inverse=True)[1]
    tokens = [completion.tokens for _, completion in rows]
    nothing = np.zeros((0, 2), np.int64)
    return RoleData([prompt for prompt, _ in rows], tokens, nothing, trees, np.arange(len(rows)))


def _assert_near(what: str, found: Sequence[float], wanted: Sequence[float]) -> None:
    """Within 1e-4 a token."""
    worst = np.abs(np.subtract(found, wanted)).max()
    assert worst < 1e-4 * ROOM, f"{what} log-probs differ from PEFT's by {worst:.2g}"


@torch.no_grad()
def _plain_logp(model: Any, prompt: Tokens, completion: Tokens) -> float:
    """The summed log-prob of a completion by one plain forward."""
    ids = torch.from_numpy(np.concatenate([prompt, completion])).long()
    table = model(input_ids=ids[None]).logits[0].float().log_softmax(-1)
    return table[:-1].gather(1, ids[1:, None])[len(prompt) - 1 :].sum().item()


def _trainer_logps(animal: Animal, adapter: Path, data: RoleData, layout: Layout) -> list[float]:
    lora = LoraConfig(r=4)
    model = load_model(animal.base, adapter, lora, dtype="float32", seed=0, layout=layout).eval()
    packer = Packer("sft", data, Packing(model.layout, 4096, 8, "cpu"))
    found = np.full(len(data), np.nan)
    with torch.no_grad():
        for batch in packer.cut(np.arange(len(data)), data.pairs)[0]:
            found[batch.completions] = completion_logps(model(batch), batch)
    return found.tolist()


def serve(animal: Animal) -> None:
    """`serve` answers with every role, and the same for the same seed."""
    questions = ["What is 3 + 4?", "How many <|im_end|> are there?\n</s>"]
    with Pipeline.load(animal.finished(), {"evaluate.votes": 2}) as pipeline:
        answers = pipeline.answers(questions, seed=5)
        again = pipeline.answers(questions, seed=5)
    for one, other in zip(answers, again, strict=True):
        assert not one.error, one.error
        assert [list(turn) for turn in one.turns] == [CHAIN, CHAIN]
        assert one.turns == other.turns, "the same seed gives another answer"


def exports(animal: Animal) -> None:
    """Exported adapters and merged checkpoints give the logits of the run's adapters."""
    run = animal.finished()
    assert export.main(["--run", str(run), "--merged"]) == 0
    said = json.loads((run / "export" / "export.json").read_text())["not_exported"]
    assert not [line for line in said if line.startswith(("merged", "adapters"))], said
    weights = load_file(run / "adapters" / "verifier" / "final" / "adapter_model.safetensors")
    assert not [name for name in weights if "vision" in name], "LoRA on what reads images"
    ids = torch.from_numpy(_prompt(40, 3)).long()[None]
    own = _logits(_tuned(animal, run / "adapters" / "verifier" / "final"), ids)
    exported = _logits(_tuned(animal, run / "export" / "adapters" / "verifier"), ids)
    merged = _logits(plain(str(run / "export" / "merged" / "verifier")), ids)
    torch.testing.assert_close(exported, own)
    torch.testing.assert_close(merged, own, atol=1e-3, rtol=1e-3)
    assert (own - _logits(plain(animal.base), ids)).abs().max() > 0.02
    tokenizers = [
        AutoTokenizer.from_pretrained(p) for p in (animal.base, run / "export/merged/verifier")
    ]
    text = f"{animal.template.turn_end or ''} 24 + 12\n\n= 36"
    assert tokenizers[0](text)["input_ids"] == tokenizers[1](text)["input_ids"]


def _tuned(animal: Animal, adapter: str | Path) -> Any:
    return peft.PeftModel.from_pretrained(plain(animal.base), adapter).eval()


@torch.no_grad()
def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=ids).logits.float()
    return logits


CHECKS: dict[str, Callable[[Animal], None]] = {
    "prompts": prompts,
    "end tokens": ends,
    "stops": stops,
    "greedy": greedy,
    "DPO at ln 2": ln2,
    "log-probs": logps,
    "serve": serve,
    "export": exports,
}
