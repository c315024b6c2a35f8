"""Many engines: the router by itself, and real Ray actors that die."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malt_fast._core.forest import DONE, Forest
from malt_fast.config.schema import EngineConfig
from malt_fast.engines import Policy, Request, SamplingParams
from malt_fast.engines import ray as ray_engine
from malt_fast.engines.ray import RayEngine, check_room, room_for
from malt_fast.engines.router import Router
from malt_fast.engines.spec import EngineSpec
from malt_fast.grading.verdicts import (
    NOTHING,
    RIGHT,
    WRONG,
    grade_with_reasons,
)
from malt_fast.sampling.expand import Slot, expand, shape_from_branching
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.task import Question
from malt_fast.tasks.wording import RolePrompt
from malt_fast.utils.errors import MaltError
from malt_fast.utils.ray_cluster import Cluster, connected
from tests import small_run
from tests.small_run import load_forest
from tests.tiny import byte_tokenizer, tiny_llama
from tests.volume import volume

CHAIN = ["generator", "verifier", "refiner"]
SPEC = EngineSpec("hf", EngineConfig(batch_size=16), "float32", "cpu", ())


def request(id: int, tree: int) -> Request:
    prompt = np.zeros(1, np.int32)
    return Request(id, f"q{tree}", (id,), Policy("m"), prompt, SamplingParams(), 0, priority=tree)


# ---- the router ----


@settings(max_examples=volume(100))
@given(st.integers(1, 5), st.lists(st.integers(0, 9), max_size=60), st.randoms())
def test_every_request_is_taken_once_though_engines_die(engines, trees, rng):
    router = Router(engines)
    todo = [request(i, tree) for i, tree in enumerate(trees)]
    taken: dict[int, list[Request]] = {i: [] for i in range(engines)}
    answered: Counter[int] = Counter()
    while todo or router.pending:
        cut = rng.randint(0, len(todo))
        router.add(todo[:cut])
        todo = todo[cut:]
        engine = rng.randrange(engines)
        taken[engine] += router.take(engine, rng.randint(0, 4))
        if taken[engine] and rng.random() < 0.2:
            router.again(taken[engine])
            taken[engine] = []
        n = rng.randint(0, len(taken[engine]))
        done, taken[engine] = taken[engine][:n], taken[engine][n:]
        router.settle(done)
        answered.update(request.id for request in done)
    assert answered == Counter(range(len(trees)))
    router.take(0, 1)
    assert not router.home and not router.unsettled and not router.fresh  # nothing is kept


def test_a_tree_stays_where_it_began_and_old_trees_go_first():
    router = Router(2)
    router.add([request(0, 1), request(1, 0), request(2, 1), request(3, 0)])
    assert [r.id for r in router.take(0, 2)] == [0, 2]  # tree 1 arrived first
    assert [r.id for r in router.take(1, 1)] == [1]
    router.add([request(4, 1), request(5, 0), request(6, 0)])
    assert [r.id for r in router.take(1, 2)] == [3, 5]
    assert [r.id for r in router.take(0, 1)] == [4]


def test_an_idle_engine_takes_the_oldest_waiting_tree_of_another():
    router = Router(2)
    router.add([request(i, tree) for i, tree in enumerate([0, 1, 1, 2])])
    assert [r.id for r in router.take(0, 1)] == [0]
    router.take(0, 0)
    assert [r.id for r in router.take(1, 9)] == [1, 2, 3]  # began by nobody: all of them
    router.add([request(i, 1) for i in range(4, 8)])
    assert [r.id for r in router.take(0, 2)] == [4, 5]  # tree 1 moves
    assert [r.id for r in router.take(1, 9)] == [6, 7]  # and back: nobody is idle


def test_finished_trees_leave_nothing_behind():
    router = Router(3)
    for tree in range(1000):
        router.add([request(tree, tree)])
        router.settle(router.take(tree % 3, 1))
    router.take(0, 1)
    assert not router.home and not router.unsettled and not any(router.queues)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(1, 9))
def test_every_worker_gets_as_many_cores_as_leave_room_for_all(cores, workers):
    cluster = Cluster(cores, [0] * len(cores))
    share = cluster.share(workers)
    fits = [n for n in range(1, max(cores) + 1) if sum(c // n for c in cores) >= workers]
    assert share == max(fits, default=1)
    if fits:
        check_room(cluster, SPEC, workers)


# ---- Ray ----


@pytest.mark.parametrize(
    ("cluster", "gpus", "replicas", "says"),
    [
        (Cluster([8], [2]), 1, 3, r"3 need 1 GPU each.*machines with 2 GPUs, room for 2"),
        (Cluster([8, 8], [3, 3]), 2, 3, r"3 need 2 GPUs each.*with 3, 3 GPUs, room for 2"),
        (Cluster([2], [0]), 0, 3, r"3 need a core each.*2 cores, room for 2"),
    ],
)
def test_a_cluster_without_room_is_told_what_is_needed(cluster, gpus, replicas, says):
    spec = EngineSpec("vllm", EngineConfig(), "float32", "auto", (), gpus=gpus)
    with pytest.raises(MaltError, match=says):
        check_room(cluster, spec, replicas)
    check_room(cluster, spec, replicas - 1)


def test_a_cluster_that_does_not_answer_is_an_error():
    pytest.importorskip("ray")
    with pytest.raises(MaltError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        RayEngine(SPEC, 2, "127.0.0.1:1")


def odd_spec(poll: Callable[[], list], error: MaltError | None = None) -> EngineSpec:
    """Engines that do `poll`, or that cannot be opened."""

    class Odd:
        wants, pending = 4, 1

        def submit(self, requests) -> None:
            pass

        def poll(self) -> list:
            return poll()

        def figures(self) -> dict[str, float]:
            return {"good": 1.0}

    class OddSpec(EngineSpec):
        def open(self):
            if error:
                raise error
            return Odd()

    return OddSpec("hf", EngineConfig(), "float32", "cpu", ())


def test_an_engine_that_cannot_be_opened_says_so():
    pytest.importorskip("ray")
    with pytest.raises(MaltError, match="no such thing"):
        RayEngine(odd_spec(list, MaltError("no such thing")), 2)
    import ray

    assert not ray.is_initialized()


def grow(engine, base: str, on_progress=None) -> Forest:
    wording = {
        role: RolePrompt(None, "{question}" + "".join(f"|{{{r}}}" for r in CHAIN[:i]) + f" {role}:")
        for i, role in enumerate(CHAIN)
    }
    prompts = Prompts(CHAIN, wording, byte_tokenizer(), chat=False)
    params = [SamplingParams(max_tokens=6, stop_token_ids=(2,))] * 3
    shape: list[Slot] = shape_from_branching([2, 2, 2], [Policy(base)] * 3)
    questions = [Question(f"q{i}", f"what is {i}?", "0") for i in range(12)]
    forest = expand(questions, shape, prompts, params, engine, 5, on_progress)
    engine.close()
    return forest


def same(a: Forest, b: Forest) -> None:
    assert (a.state == DONE).all() and (b.state == DONE).all()
    for node in range(len(a)):
        x, y = a.tokens_of(node), b.tokens_of(node)
        assert x.tolist() == y.tolist()


def test_the_program_runs_on_two_actors(data, model, finished_run, tmp_path):
    pytest.importorskip("ray")
    assert small_run.run(data, model, tmp_path / "run", "--engine.replicas", "2") == 0
    same(load_forest(finished_run), load_forest(tmp_path / "run"))


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """One cluster for the tests below: each would start its own in seconds."""
    pytest.importorskip("ray")
    with connected(None):
        yield


def test_two_replicas_grow_the_forest_of_one_though_one_is_killed(ray_cluster, tmp_path, caplog):
    base = str(tiny_llama(tmp_path / "model"))
    alone = grow(SPEC.open(), base)
    two = RayEngine(SPEC, 2)
    assert two.wants == 2 * SPEC.open().wants
    same(alone, grow(two, base))

    import ray

    engine = RayEngine(SPEC, 2)
    pids = ray.get([replica.actor.pid.remote() for replica in engine.replicas])
    assert len(set(pids)) == 2
    seen = 0

    def kill(nodes: int, tokens: int) -> None:
        nonlocal seen
        if seen < 40 <= seen + nodes:  # of 168, in the middle of things
            os.kill(pids[0], signal.SIGKILL)
        seen += nodes

    same(alone, grow(engine, base, kill))
    assert seen == 168 and "a new one takes its place" in caplog.text


def test_an_engine_that_cannot_load_says_so_from_its_actor(ray_cluster, tmp_path):
    engine = RayEngine(SPEC, 2)
    engine.submit([request(0, 0)])  # the model 'm' does not exist
    with pytest.raises(MaltError, match="the model 'm' cannot be loaded"):
        while engine.pending:
            engine.poll()
    engine.close()


def test_engines_that_fail_again_and_again_end_the_run(ray_cluster, caplog):
    def poll() -> list:
        raise AssertionError("a bug")  # no MaltError: the actor lives on, and must make room

    engine = RayEngine(odd_spec(poll), 2)
    engine.submit([request(0, 0)])
    with pytest.raises(MaltError, match=r"replica \d failed 3 times without finishing .*a bug"):
        while True:
            assert engine.poll() == []
    assert caplog.text.count("a new one takes its place") >= 2
    assert engine.figures() == {}  # no turn ended
    engine.close()


def test_a_new_engine_that_dies_while_it_loads_is_replaced_too(ray_cluster, tmp_path, caplog):
    worked, deadly = tmp_path / "worked", tmp_path / "deadly"

    def poll() -> list:
        if worked.exists():
            return []
        worked.touch()
        deadly.touch()
        os._exit(1)

    class Mortal(EngineSpec):
        def open(self):
            if deadly.exists():
                deadly.unlink()
                os._exit(1)
            return odd_spec(poll).open()

    engine = RayEngine(Mortal("hf", EngineConfig(), "float32", "cpu", ()), 1)
    engine.submit([request(0, 0)])
    while caplog.text.count("a new one takes its place") < 2:
        assert engine.poll() == []
    assert engine.poll() == [] and engine.pending == 1
    engine.close()


def kill_one(engine: RayEngine) -> None:
    import ray

    os.kill(ray.get(engine.replicas[0].actor.pid.remote()), signal.SIGKILL)


def test_a_replica_without_room_for_another_is_done_without(
    ray_cluster, tmp_path, caplog, monkeypatch
):
    """As when its machine is lost; if none is left, the run ends."""
    base = str(tiny_llama(tmp_path / "model"))
    engine = RayEngine(SPEC, 2)
    monkeypatch.setattr(ray_engine, "describe_cluster", lambda: Cluster([1], [0]))
    kill_one(engine)
    same(grow(SPEC.open(), base), grow(engine, base))
    assert "has no room for another: 1 of 2 go on" in caplog.text
    monkeypatch.setattr(ray_engine, "describe_cluster", lambda: Cluster([], []))
    engine = RayEngine(odd_spec(list), 1)
    kill_one(engine)
    engine.submit([request(0, 0)])
    for _ in range(2):  # it is told again
        with pytest.raises(MaltError, match=r"replica 0 is lost .*no room for another: add a mach"):
            while True:
                assert engine.poll() == []
    engine.close()


def test_room_is_for_replicas_as_large_as_at_the_start():
    """Two of two cores each: the machine that is left has room for one, not for two of one core."""
    assert room_for(Cluster([2], [0]), SPEC, 2) == 1


def test_the_others_go_on_while_a_replica_loads(ray_cluster, tmp_path, caplog):
    slow, go = tmp_path / "slow", tmp_path / "go"

    class Slow(EngineSpec):
        def open(self):
            while slow.exists() and not go.exists():
                time.sleep(0.01)
            return odd_spec(list).open()

    engine = RayEngine(Slow("hf", EngineConfig(), "float32", "cpu", ()), 2)
    slow.touch()
    kill_one(engine)
    engine.submit([request(i, i) for i in range(2)])
    while "a new one takes its place" not in caplog.text:
        assert engine.poll() == []
    engine.replicas[1].figures = {}
    while not engine.replicas[1].figures:  # of a turn that ended meanwhile
        assert engine.poll() == []
    assert not engine.replicas[0].wants
    go.touch()
    while not engine.replicas[0].wants:
        assert engine.poll() == []
    engine.close()


def test_figures_are_the_mean_of_the_replicas_that_have_worked(ray_cluster):
    engine = RayEngine(odd_spec(list), 2)
    assert engine.figures() == {}
    engine.submit([request(0, 0)])
    assert engine.poll() == []  # one turn of one replica
    assert engine.figures() == {"good": 1.0}
    engine.close()


# ---- grading ----


def test_a_task_grades_as_this_process_does(ray_cluster) -> None:
    import ray

    completions = ["\\boxed{-x > -1}", "\\boxed{2}", "", "\\boxed{\\log_2 8}"]
    golds = ["x < 1", "3", "1", "x = 3"]
    reasons = ray.get(ray.remote(grade_with_reasons).remote("math", completions, golds))
    assert reasons.tolist() == grade_with_reasons("math", completions, golds).tolist()
    assert reasons.tolist() == [RIGHT, WRONG, NOTHING, RIGHT]
