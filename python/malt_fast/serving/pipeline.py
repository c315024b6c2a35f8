"""Answers questions with the trained roles of a run: several passes of the chain, then a vote.

    with Pipeline.load("runs/gsm8k") as pipeline:
        answer = pipeline.answer("How many ...?")
        print(answer.answer, answer.votes, answer.text)
        print(answer)                    # every turn of every pass

A question's tree is the part of an evaluation's that MALT with voting uses, so one seed gives one
answer, whatever else is asked meanwhile. Questions may come at any time: `submit` takes one, `poll`
works a little and returns what is finished.
"""

import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from malt_fast.config.load import saved_config
from malt_fast.config.schema import Config
from malt_fast.config.values import nested
from malt_fast.engines import (
    Completion,
    Engine,
    Policies,
    Request,
    SamplingParams,
)
from malt_fast.evaluation.scores import vote
from malt_fast.evaluation.systems import (
    System,
    Used,
    build_shape,
    steps_of,
)
from malt_fast.grading.verdicts import extract_answer, number_answers
from malt_fast.runs.run import Run
from malt_fast.runs.saved import saved_policies
from malt_fast.sampling.engine_choice import open_engine
from malt_fast.sampling.expand import Expansion, Slot, node_seed
from malt_fast.sampling.prepare import load_setup
from malt_fast.sampling.setup import Setup, context_of
from malt_fast.tasks.task import Question
from malt_fast.utils.errors import MaltError, printable

MAY_CHANGE = ("serve.", "evaluate.", "engine.", "model.device", "sampling.max_tokens")


@dataclass(frozen=True)
class Answer:
    """What the chain says to a question; `error` tells why no pass was finished, if none was."""

    question: str
    text: str  # the last role's output in the first pass that gives the winning answer
    answer: str | None  # what the grader reads in it
    votes: int  # passes that agree with it; 0 where none has an answer
    turns: list[dict[str, str | None]]  # per pass: every role's output, None where it failed
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int  # of every prompt of every role and pass
    completion_tokens: int  # sampled in all of them
    error: str = ""

    def __str__(self) -> str:
        lines = [self.question]
        for k, turn in enumerate(self.turns, 1):
            for role, text in turn.items():
                lines += ["", f"--- {role}, pass {k} ---", "(failed)" if text is None else text]
        told = self.answer if self.votes else self.error or "none of the outputs has an answer"
        lines += ["", f"=== {self.votes} of {len(self.turns)} votes: {told}"]
        return printable("\n".join(lines))


@dataclass
class Asked:
    """A question whose tree is growing."""

    question: Question
    seed: str
    params: list[SamplingParams]  # one a role
    outputs: dict[int, Completion] = field(default_factory=dict)  # by slot; none where it failed
    prompt_tokens: int = 0
    error: str = ""  # the first


class Pipeline:
    """The chain of `policies` on one engine. Not thread-safe, since engines are not."""

    def __init__(self, setup: Setup, policies: Policies, engine: Engine, room: int) -> None:
        """room: tokens of the longest question taken."""
        config = setup.config
        self.setup, self.engine, self.room = setup, engine, room
        self.params = chain_params(setup)
        self.shape, self.used = chain_shape(config, policies)
        self.questions: dict[int, Question] = {}  # by ticket, the number of its tree
        self.growth = Expansion(self.questions, self.shape, setup.prompts, self.params, "")
        self.waiting: deque[int] = deque()  # tickets not begun
        self.asked: dict[int, Asked] = {}  # by ticket, begun or not
        self.requests: list[Request] = []  # to submit
        self.done: list[tuple[int, Answer]] = []  # to return
        self.tickets = 0

    @classmethod
    def load(cls, run: str | Path, settings: Mapping[str, Any] | None = None) -> Self:
        """The final roles of a finished run; one without an adapter answers as its base model.

        settings: over the run's own, such as {"evaluate.votes": 5, "engine.name": "hf"}; only those
        of MAY_CHANGE. Raises MaltError for a directory that holds no finished run, and as engines
        do.
        """
        values = nested([("run", run), *(settings or {}).items()])
        return cls.open(saved_config(Config, values, MAY_CHANGE))

    @classmethod
    def open(cls, config: Config) -> Self:
        """Of the run that a config names."""
        assert config.run is not None
        if config.engine.name == "replay":
            raise MaltError(
                "the replay engine knows recorded questions only: give --engine.name hf or vllm"
            )
        setup = load_setup(config, questions=False)
        _, policies = saved_policies(config.run, setup.base())
        Run(config.run, config).expect("prompts.json", setup.prompts.as_json())
        return cls.of(setup, policies)

    @classmethod
    def of(cls, setup: Setup, policies: Policies) -> Self:
        """Of roles that are at hand, one policy each."""
        room, params = room_for_question(setup), chain_params(setup)
        shape, _ = chain_shape(setup.config, policies)
        levels = {slot.policy: slot.role for slot in shape}
        return cls(setup, policies, open_engine(setup, levels, params, room), room)

    def close(self) -> None:
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- all at once ----

    def answer(self, question: str, *, seed: int | None = None) -> Answer:
        """Answer one question. Raises MaltError as `answers` does, and if no pass was finished."""
        (answer,) = self.answers([question], seed=seed)
        if answer.error:
            raise MaltError(answer.error)
        return answer

    def answers(self, questions: Iterable[str], *, seed: int | None = None) -> list[Answer]:
        """Answer questions side by side; one on which every pass failed has an `error`.

        seed: over the run's own. Raises MaltError for a question that is empty or too long, before
        any is asked, and when the engine cannot go on.
        """
        tickets: list[int] = []
        found: dict[int, Answer] = {}
        others: list[tuple[int, Answer]] = []
        try:
            for question in questions:
                tickets.append(self.submit(question, seed=seed))
            mine = set(tickets)
            while len(found) < len(tickets):
                for ticket, answer in self.poll():
                    if ticket in mine:
                        found[ticket] = answer
                    else:
                        others.append((ticket, answer))
        finally:
            self.done += others
            for ticket in tickets:
                self.drop(ticket)
        return [found[ticket] for ticket in tickets]

    # ---- one by one, at any time ----

    def submit(
        self,
        question: str,
        *,
        seed: int | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> int:
        """Take a question; a ticket by which `poll` names it.

        seed: over the run's own; temperature: over every role's; max_tokens: lowers the last
        role's. Raises MaltError for a question that is empty or too long.
        """
        text = self._checked(question)
        asked = Question(text, text, "")
        self.tickets += 1
        self.asked[self.tickets] = Asked(
            question=asked,
            seed=f"{self.setup.config.seed if seed is None else seed}/answer",
            params=changed(self.params, temperature, max_tokens),
        )
        self.questions[self.tickets] = asked
        self.waiting.append(self.tickets)
        return self.tickets

    def poll(self) -> list[tuple[int, Answer]]:
        """Work, or wait, a little; (ticket, answer) of what is finished. Raises MaltError when the
        engine cannot go on."""
        while self.waiting and len(self.requests) < self.engine.wants - self.engine.pending:
            ticket = self.waiting.popleft()
            self._ask(ticket, self.growth.begin(ticket))
        requests, self.requests = self.requests, []
        self.engine.submit(requests)
        if self.engine.pending:
            for completion in self.engine.poll():
                self._settle(completion)
        done, self.done = self.done, []
        return done

    def drop(self, ticket: int) -> None:
        """Forget a question: nothing more is asked for it, what is being sampled is thrown away."""
        if self.asked.pop(ticket, None) is None:
            return
        if ticket in self.waiting:
            self.waiting.remove(ticket)
        self.requests = [r for r in self.requests if self.growth.place(r.id)[0] != ticket]
        del self.questions[ticket]
        self.growth.open.pop(ticket, None)

    @property
    def pending(self) -> int:
        """Questions taken and not returned by `poll` yet."""
        return len(self.asked) + len(self.done)

    @property
    def busy(self) -> bool:
        """Has `poll` anything to do? Outputs of dropped questions count, too."""
        return bool(self.waiting or self.done or self.requests or self.engine.pending)

    def _checked(self, question: str) -> str:
        text = question.strip()
        try:
            text.encode()
        except UnicodeEncodeError:
            raise MaltError("the question has half a Unicode character: correct it") from None
        if not text:
            raise MaltError("the question is empty: ask something")
        length = len(self.setup.prompts.encode_question(text))
        if length > self.room:
            raise MaltError(
                f"the question has {length:,} tokens, and {self.room:,} fit: shorten it, or raise "
                "serve.max_question where the model reads more"
            )
        return text

    def _ask(self, ticket: int, requests: Iterable[Request]) -> None:
        """Hand on requests of a question with its own seed and settings, older questions first."""
        asked = self.asked[ticket]
        for request in requests:
            asked.prompt_tokens += len(request.prompt)
            _, slot = self.growth.place(request.id)
            own = replace(
                request,
                params=asked.params[self.shape[slot].role - 1],
                seed=node_seed(asked.seed, request.question, request.path),
                priority=ticket,
            )
            self.requests.append(own)

    def _settle(self, completion: Completion) -> None:
        ticket, slot = self.growth.place(completion.id)
        asked = self.asked.get(ticket)
        if asked is None:  # dropped
            return
        asked.error = asked.error or completion.error
        if completion.finish_reason != "error":
            asked.outputs[slot] = completion
        requests, _ = self.growth.settle([completion])
        self._ask(ticket, requests)
        if ticket not in self.growth.open:
            try:
                answer = self._judged(asked)
            except MaltError as error:  # of the grader: of this question only
                answer = Answer(asked.question.text, "", None, 0, [], "stop", 0, 0, str(error))
            self.done.append((ticket, answer))
            del self.asked[ticket], self.questions[ticket]

    def _judged(self, asked: Asked) -> Answer:
        """The vote over the last role's outputs, and all that led to it."""
        chain, outputs = self.setup.config.chain, asked.outputs
        said = {slot: self.setup.prompts.decode(out.tokens) for slot, out in outputs.items()}
        turns = [
            {role: said.get(slot) for role, slot in zip(chain, slots, strict=True)}
            for slots in self.used.tolist()
        ]
        last = self.used[:, -1].tolist()
        best, votes = self._vote(asked, [said.get(slot) for slot in last])
        text = said[last[best]] if best >= 0 else None
        cut = best >= 0 and outputs[last[best]].finish_reason == "length"
        return Answer(
            question=asked.question.text,
            text=text or "",
            answer=None if text is None else extract_answer(self.setup.task.grader, text),
            votes=votes,
            turns=turns,
            finish_reason="length" if cut else "stop",
            prompt_tokens=asked.prompt_tokens,
            completion_tokens=sum(len(output.tokens) for output in outputs.values()),
            error="" if text is not None else f"no pass was finished: {asked.error}",
        )

    def _vote(self, asked: Asked, finals: Sequence[str | None]) -> tuple[int, int]:
        """(the winning pass, how many agree with it); of tied answers as evaluate.tie_break says.

        Where none has an answer, the first output that there is, and 0; -1 where there is none.
        """
        numbers = number_answers(self.setup.task.grader, [finals])[0].tolist()
        lots = random.Random(f"{asked.seed}/{asked.question.id}")
        best = vote(numbers, lots if self.setup.config.evaluate.tie_break == "random" else None)
        if best >= 0:
            return best, numbers.count(numbers[best])
        return next((k for k, text in enumerate(finals) if text is not None), -1), 0


def chain_shape(config: Config, policies: Policies) -> tuple[list[Slot], Used]:
    """The slots of `evaluate.votes` passes of the final roles, and [votes, roles]: who is where."""
    system = System("MALT", steps_of(config.chain, "final"), config.evaluate.votes)
    numbers = {role: level for level, role in enumerate(config.chain, 1)}
    shape, (used,) = build_shape([system], numbers, {"final": policies})
    return shape, used


def chain_params(setup: Setup) -> list[SamplingParams]:
    """Of the chain's roles; what else an evaluation asks is not asked here."""
    return setup.params(evaluating=True)[: len(setup.config.chain)]


def room_for_question(setup: Setup) -> int:
    """Tokens of the longest question: serve.max_question, or what leaves every role room."""
    nothing = np.zeros(0, np.int32)
    prompts, roles = setup.prompts, range(1, len(setup.config.chain) + 1)
    around = max(len(prompts.build(k, nothing, [nothing] * (k - 1))) for k in roles)
    return min(setup.config.serve.max_question, context_of(setup) - 1 - around)


def changed(
    params: Sequence[SamplingParams], temperature: float | None, max_tokens: int | None
) -> list[SamplingParams]:
    """Sampling parameters with a question's own temperature, and limit of its last role."""
    out = list(params)
    if temperature is not None:
        out = [replace(p, temperature=temperature) for p in out]
    if max_tokens is not None:
        out[-1] = replace(out[-1], max_tokens=min(max_tokens, out[-1].max_tokens))
    return out
