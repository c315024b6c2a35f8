"""Answers questions with the trained roles of a run: several passes of the chain, then a vote.

    with Pipeline.load("runs/gsm8k") as pipeline:
        answer = pipeline.answer("How many ...?")
        print(answer.answer, answer.votes, answer.text)
        print(answer)                    # every turn of every pass

A question's tree is the part of an evaluation's tree that MALT with voting uses, so that a seed
determines the answer, whatever else is being asked. Questions may come at any time: `submit` takes
one, `poll` works a little and returns what is finished.
"""

import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from malt_fast.config.changeable import SERVING_SETTINGS
from malt_fast.config.load import saved_config
from malt_fast.config.schema import Config
from malt_fast.config.values import nested
from malt_fast.engines import Completion, Engine, Policies, Policy, Request, SamplingParams
from malt_fast.evaluation.shape import Used, build_shape
from malt_fast.evaluation.systems import System, steps_of
from malt_fast.runs.run import Run
from malt_fast.runs.saved import check_trained, saved_policies
from malt_fast.sampling.engine_choice import choose, open_engine
from malt_fast.sampling.expand import Expansion, Slot, node_seed
from malt_fast.sampling.prepare import load_setup
from malt_fast.sampling.setup import Setup, context_of
from malt_fast.serving.answer import Answer, Asked, judge
from malt_fast.serving.reading import Reader, ReadQuestion
from malt_fast.tasks.task import Question
from malt_fast.utils.errors import MaltError

PATIENCE = 0.05  # seconds that `poll` waits for a vote
Greedy = tuple[Policy, SamplingParams, bytes]  # what an output depends on; the last: its prompt


class Pipeline:
    """The chain of `policies` on one engine. Not thread-safe, because engines are not."""

    def __init__(
        self,
        setup: Setup,
        policies: Policies,
        engine: Engine,
        room: int,
        context: int = sys.maxsize,
    ) -> None:
        """room: tokens of the longest question that is accepted; context: tokens of the longest
        prompt with its output."""
        config = setup.config
        self.setup, self.engine, self.room, self.context = setup, engine, room, context
        self.read = Reader(setup.prompts, room).read  # may be called by any thread
        self.params = chain_params(setup)
        self.shape, self.used = chain_shape(config, policies)
        self.questions: dict[int, Question] = {}  # by ticket, the number of its tree
        self.growth = Expansion(self.questions, self.shape, setup.prompts, self.params, "")
        self.waiting: deque[int] = deque()  # tickets not begun
        self.asked: dict[int, Asked] = {}  # by ticket, begun or not
        self.requests: list[Request] = []  # to submit
        self.equal: dict[Greedy, list[int]] = {}  # ids that wait for the same output
        self.greedy: dict[int, Greedy] = {}  # by the id that was submitted for them
        self.judge = ThreadPoolExecutor(1, "judge")  # comparing answers can take seconds
        self.judging: dict[int, Future[Answer]] = {}  # by ticket
        self.done: list[tuple[int, Answer]] = []  # to return
        self.tickets = self.sampled = 0  # questions, and tokens of outputs, so far

    @classmethod
    def load(cls, run: str | Path, settings: Mapping[str, Any] | None = None) -> Self:
        """The final roles of a finished run; a role without an adapter is its base model.

        settings: override the run's own, such as {"evaluate.votes": 5, "engine.name": "hf"}; only
        those of SERVING_SETTINGS. Raises MaltError for a directory that holds no finished run,
        and as engines do.
        """
        values = nested([("run", run), *(settings or {}).items()])
        return cls.open(saved_config(Config, values, SERVING_SETTINGS))

    @classmethod
    def open(cls, config: Config) -> Self:
        """The pipeline of the run that a config names."""
        assert config.run is not None
        if config.engine.name == "replay":
            raise MaltError(
                "the replay engine answers recorded questions only: give --engine.name hf or vllm"
            )
        setup = load_setup(config, questions=False)
        _, policies = saved_policies(config.run, setup.base())
        Run(config.run, config).expect("prompts.json", setup.prompts.as_json().encode())
        pipeline = cls.of(setup, policies)
        for policy in policies.values():  # again: what was loaded is what was checked
            if policy.adapter is not None:
                check_trained(Path(policy.adapter))
        return pipeline

    @classmethod
    def of(cls, setup: Setup, policies: Policies) -> Self:
        """The pipeline of given roles, one policy each; all weights are loaded."""
        room, params = room_for_question(setup), chain_params(setup)
        shape, _ = chain_shape(setup.config, policies)
        levels = {slot.policy: slot.role for slot in shape}
        engine = open_engine(setup, levels, params, room, load=True)
        return cls(setup, policies, engine, room, context_served(setup))

    def close(self) -> None:
        self.judge.shutdown(wait=False, cancel_futures=True)
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- all at once ----

    def answer(self, question: str, *, seed: int | None = None) -> Answer:
        """Answer one question. Raises MaltError as `answers` does, and if no pass finished."""
        (answer,) = self.answers([question], seed=seed)
        if answer.error:
            raise MaltError(answer.error)
        return answer

    def answers(self, questions: Iterable[str], *, seed: int | None = None) -> list[Answer]:
        """Answer questions side by side; an answer whose passes all failed has an `error`.

        seed: replaces the run's. Raises MaltError for a question that is empty or too long, before
        any is asked, and when the engine cannot continue.
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
        question: str | ReadQuestion,
        *,
        seed: int | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> int:
        """Accept a question; returns the ticket under which `poll` returns its answer.

        seed: replaces the run's; temperature: replaces every role's; max_tokens: lowers the last
        role's. Raises MaltError for a question that is empty or too long.
        """
        read = self.read(question) if isinstance(question, str) else question
        asked = Question(read.text, read.text, "")
        self.tickets += 1
        self.asked[self.tickets] = Asked(
            question=asked,
            tokens=read.tokens,
            seed=f"{self.setup.config.seed if seed is None else seed}/answer",
            params=changed(self.params, temperature, max_tokens),
        )
        self.questions[self.tickets] = asked
        self.waiting.append(self.tickets)
        return self.tickets

    def poll(self) -> list[tuple[int, Answer]]:
        """Work or wait a little; (ticket, answer) of every question that is finished.

        Raises MaltError when the engine cannot continue.
        """
        while self.waiting and len(self.requests) < self.engine.wants - self.engine.pending:
            ticket = self.waiting.popleft()
            self._ask(ticket, self.growth.begin(ticket, self.asked[ticket].tokens))
        self._submit()
        if self.engine.pending:
            # All are taken off the lists first: what an error left there would wait for ever.
            done = [(output, self._equal_to(output.id)) for output in self.engine.poll()]
            for completion, ids in done:
                self.sampled += len(completion.tokens)
                for id in ids:
                    self._settle(replace(completion, id=id))
        elif self.judging and not self.waiting and not self.done:
            wait(self.judging.values(), PATIENCE, FIRST_COMPLETED)
        for ticket in [ticket for ticket, vote in self.judging.items() if vote.done()]:
            self.done.append((ticket, self.judging.pop(ticket).result()))
        answers, self.done = self.done, []
        return answers

    def drop(self, ticket: int) -> None:
        """Forget a question: nothing more is sampled for it, and what is under way is discarded."""
        self.judging.pop(ticket, None)
        if self.asked.pop(ticket, None) is None:
            return
        if ticket in self.waiting:
            self.waiting.remove(ticket)
        self.requests = [r for r in self.requests if self.growth.place(r.id)[0] != ticket]
        del self.questions[ticket]
        self.growth.open.pop(ticket, None)

    @property
    def pending(self) -> int:
        """Questions accepted whose answers `poll` has not returned yet."""
        return len(self.asked) + len(self.judging) + len(self.done)

    @property
    def at_work(self) -> tuple[int, int]:
        """(questions begun, questions that wait)."""
        return len(self.asked) - len(self.waiting) + len(self.judging), len(self.waiting)

    @property
    def busy(self) -> bool:
        """Whether `poll` has work to do; outputs of dropped questions count, too."""
        mine = self.waiting or self.requests or self.judging or self.done
        return bool(mine or self.engine.pending)

    def _ask(self, ticket: int, requests: Iterable[Request]) -> None:
        """Queue requests of a question with its own seed and settings; older questions go first."""
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

    def _submit(self) -> None:
        """Hand the requests to the engine; one whose prompt outgrew the context fails here."""
        requests, self.requests = self.requests, []
        fitting = [r for r in requests if len(r.prompt) < self.context]
        self.engine.submit([r for r in fitting if self._is_new(r)])
        for request in requests:
            if len(request.prompt) >= self.context:
                reason = self._outgrown(request)
                self.asked[self.growth.place(request.id)[0]].outgrown = reason
                self._settle(Completion.failed(request.id, reason))

    def _is_new(self, request: Request) -> bool:
        """Whether no equal request is under way: without temperature, a seed changes nothing."""
        if request.params.temperature > 0:
            return True
        key = request.policy, request.params, request.prompt.tobytes()
        self.equal.setdefault(key, []).append(request.id)
        if len(self.equal[key]) > 1:
            return False
        self.greedy[request.id] = key
        return True

    def _equal_to(self, id: int) -> list[int]:
        """The ids that an output is for, which wait no longer."""
        key = self.greedy.pop(id, None)
        return [id] if key is None else self.equal.pop(key)

    def _outgrown(self, request: Request) -> str:
        _, slot = self.growth.place(request.id)
        role = self.setup.config.chain[self.shape[slot].role - 1]
        return (
            f"what the {role} reads has grown to {len(request.prompt):,} tokens, and the model's "
            f"context holds {self.context:,} with the output: shorten the question, or lower "
            "sampling.max_tokens"
        )

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
            self.judging[ticket] = self.judge.submit(judge, self.setup, asked, self.used)
            del self.asked[ticket], self.questions[ticket]


def chain_shape(config: Config, policies: Policies) -> tuple[list[Slot], Used]:
    """The slots of `evaluate.votes` passes of the final roles; [votes, roles]: the slot of each."""
    system = System("MALT", steps_of(config.chain, "final"), config.evaluate.votes)
    numbers = {role: level for level, role in enumerate(config.chain, 1)}
    shape, (used,) = build_shape([system], numbers, {"final": policies})
    return shape, used


def chain_params(setup: Setup) -> list[SamplingParams]:
    """One per role of the chain, without the extra prompts of an evaluation."""
    return setup.params(evaluating=True)[: len(setup.config.chain)]


def room_for_question(setup: Setup) -> int:
    """Tokens of the longest question: serve.max_question, or what fits every role's prompt."""
    nothing = np.zeros(0, np.int32)
    prompts, roles = setup.prompts, range(1, len(setup.config.chain) + 1)
    around = max(len(prompts.build(k, nothing, [nothing] * (k - 1))) for k in roles)
    return min(setup.config.serve.max_question, context_served(setup) - 1 - around)


def context_served(setup: Setup) -> int:
    """The context of the chain's models in tokens, or the shorter one that vLLM is given."""
    context, asked = context_of(setup), setup.config.engine.vllm.get("max_model_len")
    if choose(setup.config)[0] != "vllm" or not isinstance(asked, int):
        return context
    return min(context, asked)


def changed(
    params: Sequence[SamplingParams], temperature: float | None, max_tokens: int | None
) -> list[SamplingParams]:
    """Sampling parameters with a question's own temperature, and its limit for the last role."""
    out = list(params)
    if temperature is not None:
        out = [replace(p, temperature=temperature) for p in out]
    if max_tokens is not None:
        out[-1] = replace(out[-1], max_tokens=min(max_tokens, out[-1].max_tokens))
    return out
