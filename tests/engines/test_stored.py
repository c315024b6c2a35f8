"""What is sampled once is never sampled again; what depends on a change is, and nothing else."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from malt_fast._core.forest import FINISH_LENGTH, FINISH_STOP, Forest
from malt_fast.engines import (
    Completion,
    Policy,
    Request,
    SamplingParams,
)
from malt_fast.engines import stored as module
from malt_fast.engines.stored import StoredEngine
from malt_fast.forest.build import build_forest
from malt_fast.sampling.expand import (
    Slot,
    expand,
    grow,
    shape_from_branching,
)
from malt_fast.store.store import Store, open_store
from malt_fast.utils.errors import MaltError
from tests.sampling.test_expand import END, PARAMS, FakeEngine, Joined, Reading, questions
from tests.store.stored import same

POLICIES = [Policy("base", name) for name in ("g", "v", "r")]


class Breaking(Reading):
    """Raises at its `last` poll."""

    last = 5

    def poll(self) -> list[Completion]:
        self.last -= 1
        if self.last < 0:
            raise MaltError("gone")
        return super().poll()


def sample(
    store: Store,
    shape: Sequence[Slot],
    engine: FakeEngine,
    *,
    n: int = 6,
    others: Sequence[Store] = (),
    params: Sequence[SamplingParams] = PARAMS,
    weights: dict[str | None, str] | None = None,
    tokenizer: str = "",
) -> Forest:
    rows = np.full(n * (1 + len(shape)), -1, np.int64)
    names = weights or {}
    stored = StoredEngine(
        store, others, lambda: engine, lambda p: names.get(p.adapter, str(p)), tokenizer, rows
    )
    try:
        for _ in grow(questions(n), shape, Joined(), params, stored, 5):  # type: ignore[arg-type]
            pass
        assert not stored.pending and stored.waiting == 0
    finally:
        store.commit_all()
    forest = build_forest([slot.parent for slot in shape], n, rows, store)
    assert forest is not None
    return forest


def twin(shape: Sequence[Slot], n: int = 6, params: Sequence[SamplingParams] = PARAMS) -> Forest:
    return expand(questions(n), shape, Joined(), params, Reading(3), 5)  # type: ignore[arg-type]


def assert_same(a: Forest, b: Forest) -> None:
    assert a.state.tolist() == b.state.tolist() and a.parent.tolist() == b.parent.tolist()
    for node in range(len(a)):
        assert a.tokens_of(node).tolist() == b.tokens_of(node).tolist()


SMALL = shape_from_branching([2, 2, 1], POLICIES)
LARGE = shape_from_branching([3, 2, 2], POLICIES)


def test_a_second_time_nothing_is_asked_and_no_engine_opened(tmp_path: Path) -> None:
    store, engine = open_store(tmp_path), Reading(1)
    assert_same(sample(store, SMALL, engine), twin(SMALL))
    asked = [request for request in engine.seen if engine.answer(request).finish_reason != "error"]
    assert store.next_row == len(asked)
    again = Reading(2)
    assert_same(sample(open_store(tmp_path), SMALL, again), twin(SMALL))
    refused = {request.seed for request in engine.seen} - {request.seed for request in asked}
    assert {request.seed for request in again.seen} == refused  # what failed is tried again


def test_larger_trees_and_more_questions_ask_for_what_is_new(tmp_path: Path) -> None:
    first = Reading(1)
    sample(open_store(tmp_path), SMALL, first, n=4)
    good = {r.seed for r in first.seen if first.answer(r).finish_reason != "error"}
    more = Reading(2)
    assert_same(sample(open_store(tmp_path), LARGE, more, n=7), twin(LARGE, 7))
    assert not good & {request.seed for request in more.seen}


@pytest.mark.parametrize("order", range(5))
def test_what_breaks_off_goes_on(tmp_path: Path, order: int) -> None:
    engine = Breaking(order)
    with pytest.raises(MaltError, match="gone"):
        sample(open_store(tmp_path), LARGE, engine)
    rest = Reading(order + 1)
    assert_same(sample(open_store(tmp_path), LARGE, rest), twin(LARGE))
    kept = open_store(tmp_path).next_row
    assert kept == int((twin(LARGE).state == 1).sum()) - 6  # every output once; questions are none


@pytest.mark.parametrize(
    ("change", "roles"),
    [
        ({"params": [replace(PARAMS[0], temperature=0.5), *PARAMS[1:]]}, {1}),
        ({"params": [*PARAMS[:2], replace(PARAMS[2], max_tokens=9)]}, {3}),
        ({"weights": {"v": "trained"}}, {2}),
        ({"tokenizer": "another"}, {1, 2, 3}),
        ({}, set()),
    ],
)
def test_a_change_asks_again_for_what_depends_on_it(tmp_path: Path, change, roles) -> None:
    """The fake engine answers as before, so that the prompts of other roles are what they were."""
    sample(open_store(tmp_path), SMALL, FakeEngine(1))
    engine = FakeEngine(2)
    sample(open_store(tmp_path), SMALL, engine, **change)
    assert {len(request.path) for request in engine.seen} == roles


def test_another_prompt_asks_again_for_all_that_reads_it(tmp_path: Path) -> None:
    sample(open_store(tmp_path), SMALL, FakeEngine(1), n=3)
    engine = FakeEngine(2)
    store, rows = open_store(tmp_path), np.full(3 * (1 + len(SMALL)), -1, np.int64)
    stored = StoredEngine(store, [], lambda: engine, str, "", rows)

    class Reworded(Joined):
        def build(self, role: int, question: np.ndarray, segments: Sequence[np.ndarray]):
            prompt = super().build(role, question, segments)
            return np.append(prompt, 99).astype(np.int32) if role == 2 else prompt

    list(grow(questions(3), SMALL, Reworded(), PARAMS, stored, 5))  # type: ignore[arg-type]
    assert {len(request.path) for request in engine.seen} == {2}


def test_samples_of_another_run_are_taken_over_and_kept(tmp_path: Path) -> None:
    sample(open_store(tmp_path / "a"), SMALL, FakeEngine(1))
    theirs = open_store(tmp_path / "a", writable=False)
    engine = FakeEngine(2)
    mine = open_store(tmp_path / "b")
    forest = sample(mine, SMALL, engine, others=[theirs])
    assert not engine.seen and mine.next_row == theirs.next_row
    nothing = FakeEngine(3)
    assert_same(sample(open_store(tmp_path / "b"), SMALL, nothing), forest)  # by itself
    assert not nothing.seen
    for sample_ in (theirs.reader.decoded[0].sample(i) for i in range(theirs.next_row)):
        (found,) = mine.find([sample_.key])
        assert found is not None and same(found[1], sample_)


def test_requests_that_are_the_same_are_asked_once(tmp_path: Path) -> None:
    """Two drafts of equal path and weights, as systems have that share one."""
    slots = [Slot(-1, 1, POLICIES[0], (0,)), Slot(-1, 1, POLICIES[1], (0,))]
    engine = FakeEngine(1)
    store = open_store(tmp_path)
    forest = sample(store, slots, engine, n=4, weights={"g": "same", "v": "same"})
    assert len(engine.seen) == 4 == store.next_row
    for tree in range(4):
        first, second = (forest.tokens_of(3 * tree + i).tolist() for i in (1, 2))
        assert first == second


def test_greedy_outputs_are_asked_once_whatever_their_seeds(tmp_path: Path) -> None:
    """Siblings have one prompt, so without temperature a tree is a chain."""
    engine = FakeEngine(1)
    greedy = [replace(params, temperature=0.0) for params in PARAMS]
    forest = sample(open_store(tmp_path), LARGE, engine, n=2, params=greedy)
    assert len(engine.seen) == 2 * 3
    assert {forest.tokens_of(1 + i).tobytes() for i in range(3)} == {forest.tokens_of(1).tobytes()}
    again = FakeEngine(2)
    sample(open_store(tmp_path), LARGE, again, n=2, params=greedy)
    assert not again.seen


def test_what_is_known_waits_for_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 3600.0)
    first = [Request(0, "q", (0,), POLICIES[0], np.ones(3, np.int32), PARAMS[0], 7)]
    second = [replace(first[0], id=1, seed=8)]
    rows = np.full(2, -1, np.int64)
    stored = StoredEngine(open_store(tmp_path), [], FakeEngine, str, "", rows)
    stored.submit(first)
    while stored.pending:
        stored.poll()
    engine = Breaking(1)
    engine.last = 0  # polls that it answers
    stored = StoredEngine(stored.store, [], lambda: engine, str, "", rows)
    stored.submit([*second, *first])
    assert [completion.id for completion in stored.poll()] == [0]
    with pytest.raises(MaltError, match="gone"):
        stored.poll()


def test_an_engine_is_opened_when_something_is_missing(tmp_path: Path) -> None:
    rows = np.full(1, -1, np.int64)

    def refuse() -> FakeEngine:
        raise MaltError("no engine here")

    stored = StoredEngine(open_store(tmp_path), [], refuse, str, "", rows)
    assert stored.poll() == [] and stored.figures() == {}
    request = Request(0, "q", (0,), POLICIES[0], np.ones(1, np.int32), PARAMS[0], 7)
    with pytest.raises(MaltError, match="no engine here"):
        stored.submit([request])
    stored.close()


class Cut(Reading):
    """Reading, whose outputs of odd seeds are cut off before their end token."""

    def answer(self, request: Request) -> Completion:
        whole = super().answer(request)
        if not request.seed % 2 or whole.finish_reason == "error":
            return whole
        return replace(
            whole, tokens=whole.tokens[:-1], logprobs=whole.logprobs[:-1], finish_reason="length"
        )


def test_outputs_that_were_cut_off_stay_so(tmp_path: Path) -> None:
    """In the forest, and when they come back from the store."""
    store, shape = open_store(tmp_path), shape_from_branching([2, 2], POLICIES[:2])
    for engine in (Cut(0), Cut(1)):
        forest = sample(store, shape, engine)
        for node in np.flatnonzero(forest.token_len > 0).tolist():
            ended = forest.tokens_of(node)[-1] == END
            assert forest.finish[node] == (FINISH_STOP if ended else FINISH_LENGTH)
    assert not engine.seen or {engine.answer(r).finish_reason for r in engine.seen} == {"error"}
    assert len(set(forest.finish[forest.token_len > 0].tolist())) == 2
