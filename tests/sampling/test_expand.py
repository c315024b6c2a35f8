"""Expansion against a recursive twin, with an engine that answers in any order."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malt_fast._core.forest import DONE, FAILED, RESERVED, Forest
from malt_fast.engines import (
    Completion,
    Policy,
    Request,
    SamplingParams,
)
from malt_fast.sampling.expand import (
    Expansion,
    Slot,
    expand,
    node_seed,
    shape_from_branching,
    slot_nodes,
)
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.task import Question
from malt_fast.tasks.wording import RolePrompt
from malt_fast.utils.errors import MaltError
from tests.tiny import byte_tokenizer
from tests.volume import volume

CHAIN = ["generator", "verifier", "refiner"]
WORDING = {
    "generator": RolePrompt(None, "{question}G"),
    "verifier": RolePrompt(None, "{question}G{generator}V"),
    "refiner": RolePrompt(None, "{question}G{generator}V{verifier}R"),
}
TOKENIZER = byte_tokenizer()
END = TOKENIZER.eos_token_id
PARAMS = [SamplingParams(stop_token_ids=(END,))] * 3
BASE = Policy("base")


class FakeEngine:
    """Output = the request's seed in letters; answers a few at a time, in a shuffled order."""

    def __init__(self, order: int = 0, refuse: Sequence[tuple[int, ...]] = ()) -> None:
        self.random = random.Random(order)
        self.refuse = set(refuse)
        self.wants = self.random.randint(1, 12)
        self.waiting: list[Request] = []
        self.seen: list[Request] = []

    def submit(self, requests: Sequence[Request]) -> None:
        self.waiting += requests
        self.seen += requests

    def poll(self) -> list[Completion]:
        self.random.shuffle(self.waiting)
        n = min(len(self.waiting), self.random.randint(1, 4))
        taken, self.waiting = self.waiting[:n], self.waiting[n:]
        return [self.answer(request) for request in taken]

    def answer(self, request: Request) -> Completion:
        if request.path in self.refuse:
            empty = np.empty(0, np.int32)
            return Completion(request.id, empty, empty.astype(np.float32), "error", "refused")
        tokens = output(request.seed)
        return Completion(request.id, tokens, -np.arange(len(tokens), dtype=np.float32), "stop")

    @property
    def pending(self) -> int:
        return len(self.waiting)

    def figures(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass


def output(seed: int) -> np.ndarray:
    return np.array([*(10 + int(digit) for digit in str(seed)[: 1 + seed % 7]), END], np.int32)


def questions(n: int) -> list[Question]:
    return [Question(f"q{i}", f"what is {i}?", "0") for i in range(n)]


def grow(n: int, branching: Sequence[int], engine: FakeEngine, seed: int = 5) -> Forest:
    chain = CHAIN[: len(branching)]
    prompts = Prompts(chain, WORDING, TOKENIZER, chat=False)
    shape = shape_from_branching(branching, [BASE] * len(chain))
    return expand(questions(n), shape, prompts, PARAMS[: len(chain)], engine, seed)


def twin(question: Question, branching: Sequence[int], path: tuple[int, ...] = ()) -> list:
    """(path, tokens) of every node below `path`, level by level within a subtree."""
    if not branching:
        return []
    below = [(*path, i) for i in range(branching[0])]
    here = [(p, output(node_seed(5, question.id, p)).tolist()) for p in below]
    return here + [node for p in below for node in twin(question, branching[1:], p)]


@settings(max_examples=volume(30), deadline=None)
@given(
    st.integers(0, 4), st.lists(st.integers(1, 3), min_size=1, max_size=3), st.integers(0, 10**6)
)
def test_every_node_is_sampled_once_whatever_the_order(n, branching, order):
    engine = FakeEngine(order)
    forest = grow(n, branching, engine)
    shape = shape_from_branching(branching, [BASE] * len(branching))
    assert len({(r.question, r.path) for r in engine.seen}) == len(engine.seen) == n * len(shape)
    nodes = slot_nodes(forest, shape)
    for t, question in enumerate(questions(n)):
        expected = dict(twin(question, branching))
        for s, slot in enumerate(shape):
            node = int(nodes[t, s])
            assert forest.tokens_of(node).tolist() == expected[slot.path]
            parent = t * (1 + len(shape)) if slot.parent < 0 else nodes[t, slot.parent]
            assert forest.parent[node] == parent and forest.level[node] == slot.role


def test_prompts_hold_the_outputs_above_without_their_end_tokens():
    engine = FakeEngine()
    grow(2, [2, 1, 2], engine)
    by_path = {(r.question, r.path): r for r in engine.seen}
    request = by_path["q1", (1, 0, 1)]
    draft = output(by_path["q1", (1,)].seed)[:-1]
    critique = output(by_path["q1", (1, 0)].seed)[:-1]
    encode = lambda text: np.array(TOKENIZER(text, add_special_tokens=False).input_ids)  # noqa: E731
    expected = [
        [TOKENIZER.bos_token_id],
        encode("what is 1?"),
        encode("G"),
        draft,
        encode("V"),
        critique,
        encode("R"),
    ]
    assert request.prompt.tolist() == np.concatenate(expected).tolist()
    assert by_path["q1", (1, 0, 0)].prompt is request.prompt


def test_a_refused_request_fails_its_subtree_and_nothing_else():
    engine = FakeEngine(refuse=[(1,)])
    forest = grow(3, [2, 2, 1], engine)
    shape = shape_from_branching([2, 2, 1], [BASE] * 3)
    nodes = slot_nodes(forest, shape)
    for s, slot in enumerate(shape):
        assert (nodes[:, s] == -1).all() == (slot.path[0] == 1)
    assert set(forest.state.tolist()) == {DONE, FAILED}
    assert not any(request.path[:1] == (1,) and len(request.path) > 1 for request in engine.seen)


@settings(max_examples=volume(30), deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 10**6))
def test_no_more_trees_are_open_than_requests_are_wanted(n, wants, order):
    engine = FakeEngine(order)
    engine.wants = wants
    most = 0
    submit = engine.submit

    def watch(requests):
        nonlocal most
        submit(requests)
        most = max(most, len({request.question for request in engine.waiting}))

    engine.submit = watch
    forest = grow(n, [2, 2, 1], engine)
    assert most <= wants and (forest.state == DONE).all()
    first = list(dict.fromkeys(request.question for request in engine.seen))
    assert first == [question.id for question in questions(n)]  # begun in order


def test_an_engine_that_answers_nothing_is_an_error():
    with pytest.raises(MaltError, match="answered no request: refused"):
        grow(2, [1], FakeEngine(refuse=[(0,)]))


def test_growing_the_branching_keeps_every_seed():
    small, large = FakeEngine(), FakeEngine()
    grow(2, [2, 2], small)
    grow(2, [3, 4], large)
    seeds = {(r.question, r.path): r.seed for r in large.seen}
    assert all(seeds[r.question, r.path] == r.seed for r in small.seen)


def test_seeds_differ_by_run_question_and_path():
    seeds = [node_seed(s, q, p) for s in (0, 1) for q in ("a", "b") for p in ((0,), (1,), (0, 0))]
    assert len(set(seeds)) == len(seeds)
    assert node_seed(0, "a", (1, 2)) != node_seed(0, "a", (12,))


def test_questions_may_come_while_an_expansion_runs():
    shape, engine = shape_from_branching([2, 2, 1], [BASE] * 3), FakeEngine()
    prompts = Prompts(CHAIN, WORDING, TOKENIZER, chat=False)
    known: dict[int, Question] = {}
    growth = Expansion(known, shape, prompts, PARAMS, 5)
    coming, said = enumerate(questions(4)), {}
    while (one := next(coming, None)) or growth.open:
        if one:
            known.update([one])
            engine.submit(growth.begin(one[0]))
        done = engine.poll()
        said |= {completion.id: completion.tokens.tolist() for completion in done}
        requests, failed = growth.settle(done)
        engine.submit(requests)
        assert not failed
    assert len(said) == 4 * len(shape) and not engine.pending and not growth.open
    whole = grow(4, [2, 2, 1], FakeEngine())
    assert all(whole.tokens_of(node).tolist() == tokens for node, tokens in said.items())


# ---- slots that read more than their ancestors ----


class Reading(FakeEngine):
    """Output = a hash of prompt and seed; some requests are refused, by that hash."""

    def answer(self, request: Request) -> Completion:
        tokens = heard(request.prompt, request.seed)
        if tokens is None:
            return Completion.failed(request.id, "refused")
        return Completion(request.id, tokens, np.zeros(len(tokens), np.float32), "stop")


def heard(prompt: np.ndarray, seed: int) -> np.ndarray | None:
    draw = random.Random(f"{prompt.tolist()} {seed}")
    return np.array([draw.randint(10, 99), END], np.int32) if draw.random() < 0.9 else None


class Joined:
    """Prompts that are nothing but their parts: the role's number, the question, the segments."""

    def encode_question(self, text: str) -> np.ndarray:
        return np.array([int(text.split()[-1].strip("?"))], np.int32)

    def build(self, role: int, question: np.ndarray, segments: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([[-role], question, *segments]).astype(np.int32)


@st.composite
def graphs(draw) -> list[Slot]:
    """Slots in order of their parents; some read a few earlier ones beside their parent."""
    parents = sorted(draw(st.lists(st.integers(-1, 9), max_size=12)))
    shape: list[Slot] = []
    for s, parent in enumerate(parents):
        parent = min(parent, s - 1)
        more = draw(st.lists(st.integers(0, s - 1), unique=True, max_size=3)) if s else []
        reads = None
        if more and parent >= 0 and draw(st.booleans()):
            reads = tuple(draw(st.permutations(sorted({parent, *more}))))
        shape.append(Slot(parent, draw(st.integers(1, 3)), BASE, (s,), reads))
    return shape


def told(shape: list[Slot], slot: int, question: Question) -> np.ndarray | None:
    """What a slot's output has to be, by recursion; None if it or one that it reads fails."""
    reads, above = shape[slot].reads, shape[slot].parent
    if reads is None:
        reads = ()
        while above >= 0:
            reads, above = (above, *reads), shape[above].parent
    segments = [told(shape, s, question) for s in reads]
    if any(segment is None for segment in segments):
        return None
    prompts = Joined()
    prompt = prompts.build(shape[slot].role, prompts.encode_question(question.text), segments)
    return heard(prompt, node_seed(5, question.id, shape[slot].path))


@settings(max_examples=volume(150), deadline=None)
@given(graphs(), st.integers(1, 4), st.integers(0, 10**6))
def test_a_graph_is_its_recursive_twin_whatever_the_order(shape, n, order):
    engine = Reading(order)
    try:
        forest = expand(questions(n), shape, Joined(), PARAMS, engine, 5)
    except MaltError:  # nothing at all could be answered
        drafts = [s for s, slot in enumerate(shape) if slot.parent < 0]
        assert all(told(shape, s, q) is None for s in drafts for q in questions(n))
        return
    nodes = slot_nodes(forest, shape)
    for t, question in enumerate(questions(n)):
        for s in range(len(shape)):
            expected = told(shape, s, question)
            assert (nodes[t, s] < 0) == (expected is None)
            if expected is not None:
                assert forest.tokens_of(int(nodes[t, s])).tolist() == expected.tolist()
    assert RESERVED not in forest.state
    assert len({r.id for r in engine.seen}) == len(engine.seen)


def test_a_slot_waits_for_all_that_it_reads_and_siblings_share_their_prompt():
    """Two drafts; each draft's author reads both; two readers of the second with one prompt."""
    drafts = [Slot(-1, 1, BASE, (0,)), Slot(-1, 1, BASE, (1,))]
    both = [Slot(0, 2, BASE, (0, 0), (0, 1)), *(Slot(1, 2, BASE, (1, i), (1, 0)) for i in (0, 1))]
    for order in range(20):
        engine = FakeEngine(order)
        forest = expand(questions(1), drafts + both, Joined(), PARAMS, engine, 5)
        assert (forest.state == DONE).all()
        asked = [request.path for request in engine.seen]
        assert sorted(asked) == [(0,), (0, 0), (1,), (1, 0), (1, 1)]
        assert set(asked[:2]) == {(0,), (1,)}
        prompts = {request.path: request.prompt for request in engine.seen}
        assert prompts[1, 0] is prompts[1, 1]
        assert sorted(prompts[0, 0].tolist()) == sorted(prompts[1, 0].tolist())
    refusing = FakeEngine(refuse=[(1,)])
    forest = expand(questions(1), drafts + both, Joined(), PARAMS, refusing, 5)
    assert forest.state.tolist() == [DONE, DONE, FAILED, FAILED, FAILED, FAILED]
    assert len(refusing.seen) == 2
    for order in range(20):  # one after the other or together, what needs both fails once
        refusing = FakeEngine(order, refuse=[(1,), (2,)])
        three = [*drafts, Slot(-1, 1, BASE, (2,)), Slot(0, 2, BASE, (0, 0), (0, 1, 2))]
        forest = expand(questions(2), three, Joined(), PARAMS, refusing, 5)
        assert forest.state.tolist() == [DONE, DONE, FAILED, FAILED, FAILED] * 2
