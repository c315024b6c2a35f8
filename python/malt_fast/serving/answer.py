"""The answer to one question: what the passes of the chain said, and how they voted."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from malt_fast.engines import Completion, SamplingParams
from malt_fast.evaluation.scores import vote
from malt_fast.evaluation.shape import Used
from malt_fast.grading.verdicts import extract_answer, number_answers
from malt_fast.models.plain_text import Tokens
from malt_fast.sampling.setup import Setup
from malt_fast.tasks.task import Question
from malt_fast.utils.errors import MaltError, printable


@dataclass(frozen=True)
class Answer:
    """What the chain answers to a question."""

    question: str
    text: str  # the last role's output in the first pass that gives the winning answer
    answer: str | None  # what the grader reads in it
    votes: int  # passes that agree with it; 0 where none has an answer
    turns: list[dict[str, str | None]]  # per pass: every role's output, None where it failed
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int  # of all prompts of all roles and passes
    completion_tokens: int  # sampled in all of them
    error: str = ""  # why no pass finished, if none did
    outgrown: bool = False  # none did, and the outputs of roles outgrew the context

    def __str__(self) -> str:
        lines = [self.question]
        for k, turn in enumerate(self.turns, 1):
            for role, text in turn.items():
                lines += ["", f"--- {role}, pass {k} ---", "(failed)" if text is None else text]
        result = self.answer if self.votes else self.error or "none of the outputs has an answer"
        lines += ["", f"=== {self.votes} of {len(self.turns)} votes: {result}"]
        return printable("\n".join(lines))


@dataclass
class Asked:
    """A question whose tree is growing."""

    question: Question
    tokens: Tokens  # of the question
    seed: str
    params: list[SamplingParams]  # one per role
    outputs: dict[int, Completion] = field(default_factory=dict)  # by slot; none where it failed
    prompt_tokens: int = 0
    error: str = ""  # the first one
    outgrown: str = ""  # how a prompt became longer than the context


def judge(setup: Setup, asked: Asked, used: Used) -> Answer:
    """The answer to a question whose outputs are all there; a grader's failure is its error.

    used: [passes, roles], the slot of each role in each pass.
    """
    try:
        return _judge(setup, asked, used)
    except MaltError as error:
        return Answer(asked.question.text, "", None, 0, [], "stop", 0, 0, str(error))


def _judge(setup: Setup, asked: Asked, used: Used) -> Answer:
    """The vote over the last role's outputs, with all outputs that led to it. Raises MaltError as
    graders do."""
    outputs, level = asked.outputs, len(setup.config.chain)
    texts = {slot: setup.prompts.decode(output.tokens) for slot, output in outputs.items()}
    last, strict = used[:, -1].tolist(), setup.config.task.strict
    replies = [
        setup.prompts.reply(level, outputs[slot].tokens) if slot in outputs else None
        for slot in last
    ]
    best, votes = _vote(setup, asked, replies)
    reply = replies[best] if best >= 0 else None
    cut = best >= 0 and outputs[last[best]].finish_reason == "length"
    return Answer(
        question=asked.question.text,
        text=texts.get(last[best], "") if best >= 0 else "",
        answer=None
        if reply is None
        else extract_answer(setup.task.grader, reply, strict=strict, question=asked.question.text),
        votes=votes,
        turns=[
            {role: texts.get(slot) for role, slot in zip(setup.config.chain, slots, strict=True)}
            for slots in used.tolist()
        ],
        finish_reason="length" if cut else "stop",
        prompt_tokens=asked.prompt_tokens,
        completion_tokens=sum(len(output.tokens) for output in outputs.values()),
        error="" if reply is not None else f"no pass was finished: {asked.outgrown or asked.error}",
        outgrown=reply is None and bool(asked.outgrown),
    )


def _vote(setup: Setup, asked: Asked, finals: Sequence[str | None]) -> tuple[int, int]:
    """(winning pass, votes for it); evaluate.tie_break decides between tied answers.

    Without any answer the first output wins, with 0 votes; without any output, -1.
    """
    strict, text = setup.config.task.strict, asked.question.text
    rows = number_answers(setup.task.grader, [finals], strict=strict, questions=[text])
    numbers = rows[0].tolist()
    lots = random.Random(f"{asked.seed}/{asked.question.id}")
    best = vote(numbers, lots if setup.config.evaluate.tie_break == "random" else None)
    if best >= 0:
        return best, numbers.count(numbers[best])
    return next((k for k, text in enumerate(finals) if text is not None), -1), 0
