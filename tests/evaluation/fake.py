"""An engine without a model, and every system answering by it on its own, in plain Python."""

import hashlib
import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from malt_fast.config.load import make_config
from malt_fast.config.schema import Config
from malt_fast.engines import (
    Completion,
    Policy,
    Request,
    SamplingParams,
)
from malt_fast.evaluation.design import EvaluationDesign
from malt_fast.evaluation.judge import judge
from malt_fast.evaluation.paper import paper_figures
from malt_fast.evaluation.result import EvaluationResult
from malt_fast.evaluation.scores import summarise
from malt_fast.evaluation.shape import build_shape
from malt_fast.evaluation.systems import (
    System,
    Training,
    paper_systems,
    pools,
    systems_of,
)
from malt_fast.sampling.expand import expand, node_seed
from malt_fast.tasks.evaluation_prompts import EvaluationPrompts
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.task import Question
from malt_fast.tasks.wording import RolePrompt
from tests.tiny import byte_tokenizer

Policies = dict[Training, dict[str, Policy]]
CHAIN = ["generator", "verifier", "refiner"]
TOKENIZER = byte_tokenizer()
EXTRA = {
    "direct": RolePrompt(None, "{question}#{generator}# direct:"),
    "debater": RolePrompt(None, "{question}~{own}~{first}~{second}~ debater:"),
}


def say(request: Request) -> str | None:
    """What the fake engine answers: a hash of all that may matter; None is a failure."""
    key = (request.policy, request.prompt.tobytes(), request.seed, request.params.max_tokens)
    draw = hashlib.sha256(repr(key).encode()).digest()
    if draw[0] < 5:
        return None
    if draw[0] < 25:
        return "no idea"
    trained = request.policy.adapter is not None
    return f"{'x' * (draw[1] % 4)} A:{draw[2] % (2 if trained else 4)}"


class FakeEngine:
    """Answers by `say`, in an order that has nothing to do with the requests'."""

    wants = 50

    def __init__(self, order: int = 0) -> None:
        self.waiting: list[Request] = []
        self.seen: list[Request] = []
        self.rng = random.Random(order)

    def submit(self, requests: Sequence[Request]) -> None:
        self.waiting += requests
        self.seen += requests

    def poll(self) -> list[Completion]:
        self.rng.shuffle(self.waiting)
        cut = min(len(self.waiting), 7)
        done, self.waiting = self.waiting[:cut], self.waiting[cut:]
        return [self.answer(request) for request in done]

    def answer(self, request: Request) -> Completion:
        text = say(request)
        if text is None:
            return Completion.failed(request.id, "lost")
        tokens = encode(text)
        return Completion(request.id, tokens, np.zeros(len(tokens), np.float32), "stop")

    @property
    def pending(self) -> int:
        return len(self.waiting)

    def figures(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass


@cache
def encode(text: str) -> np.ndarray:
    return np.array([*TOKENIZER(text)["input_ids"], TOKENIZER.eos_token_id], np.int32)


def policies_of(chain: Sequence[str]) -> Policies:
    """Every role has all three kinds, but the first's final policy is its SFT one."""
    kinds: list[Training] = ["base", "sft", "final"]
    made: Policies = {
        kind: {role: Policy("m", None if kind == "base" else f"{role}/{kind}") for role in chain}
        for kind in kinds
    }
    made["final"][chain[0]] = made["sft"][chain[0]]
    return made


def prompts_of(chain: Sequence[str]) -> EvaluationPrompts:
    return make_prompts(tuple(chain))


def texts_of(chain: Sequence[str]) -> dict[str, RolePrompt]:
    return {
        role: RolePrompt(None, "{question}" + "".join(f"|{{{r}}}" for r in chain[:i]) + f" {role}:")
        for i, role in enumerate(chain)
    }


@cache
def make_prompts(chain: tuple[str, ...]) -> EvaluationPrompts:
    prompts = Prompts(chain, texts_of(chain), TOKENIZER, chat=False)
    return EvaluationPrompts(prompts, EXTRA)


def questions_of(n: int) -> list[Question]:
    return [Question(f"q{i}", f"question {i}", str(i % 2)) for i in range(n)]


def config_of(chain: Sequence[str] = CHAIN, **evaluating: Any) -> Config:
    evaluating = {"bootstrap": 300, **evaluating}
    tree = {"branching": [2] * len(chain)}
    return make_config({"chain": list(chain), "evaluate": evaluating, "tree": tree, "seed": 4})


def run_all(config: Config, questions: list[Question], engine: FakeEngine) -> EvaluationResult:
    """The evaluation as the program does it, but for the model."""
    prompts = prompts_of(config.chain)
    paper = config.evaluate.suite == "paper"
    pooled = pools(config.chain, config.evaluate.calls) if paper else []
    design = design_of(config.chain, questions, systems_to(config), pooled)
    params = [SamplingParams()] * len(prompts.names)
    forest = expand(questions, design.shape, prompts, params, engine, "4/evaluate")
    judged = judge(forest, design.shape, questions, prompts.reply, "number")
    result = summarise(judged, design, config)
    return paper_figures(result, judged, design, config) if paper else result


def design_of(
    chain: Sequence[str],
    questions: list[Question],
    systems: Sequence[System],
    pooled: Sequence[System] = (),
) -> EvaluationDesign:
    numbers = prompts_of(chain).numbers
    shape, slots = build_shape([*systems, *pooled], numbers, policies_of(chain))
    used = iter(slots)
    own = {system.name: (system, next(used)) for system in systems}
    curves = {system.name: (system, next(used)) for system in pooled}
    return EvaluationDesign(questions, shape, own, curves)


def as_json(result: EvaluationResult) -> dict[str, Any]:
    return result.model_dump(mode="json", by_alias=True)


def systems_to(config: Config) -> list[System]:
    if config.evaluate.suite == "standard":
        return systems_of(config.chain, config.evaluate.votes)
    return paper_systems(config.chain, config.evaluate.votes, list(EXTRA))


def answer_alone(
    system: System, chain: Sequence[str], question: Question
) -> tuple[list[str | None], int, list[list[str | None]]]:
    """A system's answers per pass, its tokens and every turn's text, without shape or forest."""
    policies, prompts = policies_of(chain), texts_of(chain) | EXTRA
    said: list[list[str | None]] = [[] for _ in range(system.votes)]
    for level, step in enumerate(system.steps, 1):
        before = [list(texts) for texts in said]
        for k, texts in enumerate(said):
            names, heard = list(chain[: level - 1]), before[k]
            if step.prompt == "direct":
                names = ["generator"]
            if step.prompt == "debater":
                names = ["own", "first", "second"]
                heard = [before[(k + i) % 3][-1] for i in range(3)]
            if None in heard:
                texts.append(None)
                continue
            parts = dict(zip(names, heard, strict=True)) | {"question": question.text}
            text = prompts[step.prompt].user.format(**parts)
            prompt = np.array([TOKENIZER.bos_token_id, *TOKENIZER(text)["input_ids"]], np.int32)
            policy, path = policies[step.training][step.role], (k,) * level
            seed = node_seed("4/evaluate", question.id, path)
            texts.append(say(Request(0, question.id, path, policy, prompt, SamplingParams(), seed)))
    tokens = sum(len(encode(text)) for texts in said for text in texts if text is not None)
    final = [texts[-1] for texts in said]
    answers = [text.partition("A:")[2] if text and "A:" in text else None for text in final]
    return answers, tokens, said


def voted(answers: Sequence[str | None]) -> str | None:
    cast = [a for a in answers if a is not None]
    return max(cast, key=lambda a: (cast.count(a), -cast.index(a))) if cast else None


def answer_in(text: str | None) -> str | None:
    return text.partition("A:")[2] if text and "A:" in text else None
