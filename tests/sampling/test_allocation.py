"""The choice of outputs against a plain twin, and its promises: budgets, prefixes, any order."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malt_fast._core.forest import DONE, FINISH_STOP, RESERVED, Credit, Forest
from malt_fast.config.schema import Config, TreeConfig
from malt_fast.forest.credit import assign_credit
from malt_fast.sampling.allocation import ENOUGH, PRIOR, WAVE, Allocation, next_nodes
from malt_fast.sampling.expand import Wave, complete, grow, reserve, shape_from_branching
from malt_fast.sampling.waves import allocation_of, check_budget, full_outputs
from malt_fast.tasks.prompts import Prompts
from malt_fast.utils.errors import MaltError
from tests.sampling.test_expand import (
    BASE,
    CHAIN,
    PARAMS,
    TOKENIZER,
    WORDING,
    FakeEngine,
    questions,
)
from tests.volume import volume

Ids = tuple[int, ...]  # a tree, and child numbers below it


class World:
    """What every output would be: its length, and whether a leaf is right."""

    def __init__(
        self, branching: Sequence[int], trees: int, seed: int, length: int = 0, fails: float = 0.0
    ) -> None:
        rng = np.random.default_rng(seed)
        self.branching = list(branching)
        self.shape = shape_from_branching(branching, [BASE] * len(branching))
        self.size, self.trees = 1 + len(self.shape), trees
        hardness = np.repeat(rng.choice([0.0, 0.3, 0.6, 1.0], trees), self.size)
        self.outcome = (rng.random(trees * self.size) < hardness).astype(np.uint8)
        drawn = rng.integers(1, 9, trees * self.size)
        self.length = np.full_like(drawn, length) if length else drawn
        self.fails = rng.random(trees * self.size) < fails  # and takes along what is below
        whole = reserve(trees, self.shape)
        for node in np.flatnonzero(whole.level > 0):  # parents come first
            self.fails[node] |= whole.level[node] > 1 and self.fails[whole.parent[node]]

    def forest(self, sampled: set[int]) -> Forest:
        forest = reserve(self.trees, self.shape)
        asked = np.array(sorted(sampled), np.uint32)
        forest.fail(asked[self.fails[asked]])
        ids = asked[~self.fails[asked]]
        lengths = self.length[ids]
        forest.complete(
            ids,
            np.zeros(lengths.sum(), np.int32),
            np.cumsum([0, *lengths], dtype=np.int64),
            np.full(len(ids), FINISH_STOP, np.uint8),
        )
        leaves = ids[forest.level[ids] == len(self.branching)]
        forest.set_outcomes(leaves, self.outcome[leaves])
        return forest

    def sample(self, how: Allocation, waves: int = 10**6) -> list[set[int]]:
        """The nodes that are sampled after each wave."""
        steps, last = [set[int]()], False
        while not last and len(steps) <= waves:
            forest = self.forest(steps[-1])
            credit = assign_credit(TreeConfig(branching=self.branching), forest)
            counts = pair_counts(forest, credit, self.branching)
            nodes, last = next_nodes(how, forest, credit, counts)
            assert last or len(nodes)
            assert not steps[-1] & set(nodes.tolist())
            wave = Wave(nodes, forest)
            for tree in wave.wanted:  # refuses nodes below failed ones
                wave.outputs(tree, self.shape)
            steps.append(steps[-1] | set(nodes.tolist()))
        return steps


def pair_counts(forest: Forest, credit: Credit, branching: Sequence[int]) -> list[int]:
    counts = [0] * len(branching)
    for parent in range(len(forest)):
        first, n = int(forest.first_child[parent]), int(forest.n_children[parent])
        if n:
            labels = credit.label[first : first + n].tolist()
            counts[forest.level[parent]] += labels.count(1) * labels.count(0)
    return counts


def how_of(world: World, learns: Sequence[int] | None = None, **more: object) -> Allocation:
    levels = list(range(1, len(world.branching) + 1)) if learns is None else list(learns)
    order = np.random.default_rng(3).permutation(world.trees)
    return Allocation(world.branching, levels, order, **more)


worlds = st.builds(
    World,
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.integers(1, 12),
    st.integers(0, 10**6),
    fails=st.sampled_from([0.0, 0.2]),
)


# ---- the twin ----


class Twin:
    """The rule by plain recursion."""

    def __init__(self, how: Allocation, forest: Forest, credit: Credit) -> None:
        self.how, self.forest, self.credit, self.depth = how, forest, credit, len(how.branching)
        done, levels = forest.state == DONE, range(1, self.depth + 1)
        lengths = [forest.token_len[done & (forest.level == k)] for k in levels]
        self.length = [float(some.mean()) if len(some) else 1.0 for some in lengths]
        self.roots = np.flatnonzero(forest.level == 0).tolist()
        every = [leaf for root in self.roots for leaf in self.leaves(root)]
        n = len(every)
        self.shares: dict[int, float] = {}
        for root in self.roots:
            self.see(root, min(max(sum(every) / max(1, n), 1 / (n + 2)), (n + 1) / (n + 2)))

    def children(self, node: int) -> list[int]:
        first, n = int(self.forest.first_child[node]), int(self.forest.n_children[node])
        return list(range(first, first + n)) if n else []

    def asked(self, node: int) -> list[int]:
        return [child for child in self.children(node) if self.forest.state[child] != RESERVED]

    def leaves(self, node: int) -> list[int]:
        if self.forest.level[node] == self.depth:
            return [int(self.forest.outcome[node])] if self.forest.outcome[node] < 2 else []
        return [leaf for child in self.children(node) for leaf in self.leaves(child)]

    def see(self, node: int, above: float) -> None:
        mine = self.leaves(node)
        self.shares[node] = (sum(mine) + PRIOR * above) / (len(mine) + PRIOR)
        for child in self.children(node):
            self.see(child, self.shares[node])

    def next_child(self, node: int) -> set[int]:
        """The next child of a node and what comes below it; none if it failed or has all."""

        def below(child: int) -> set[int]:
            level = int(self.forest.level[child])
            more = self.children(child)[: self.how.narrow[level]] if level < self.depth else []
            return {child}.union(*(below(one) for one in more))

        if self.forest.level[node] and self.forest.state[node] != DONE:
            return set()
        asked, children = self.asked(node), self.children(node)
        return below(children[len(asked)]) if 0 < len(asked) < len(children) else set()

    def candidates(self, pairs: Sequence[int]) -> list[tuple[float, set[int]]]:
        """(gain per token, nodes) of every candidate."""
        forest, label = self.forest, self.credit.label
        weight = {k: 1 / (1 + pairs[k - 1]) for k in self.how.learns if pairs[k - 1] != ENOUGH}
        for k in weight:
            differ, expected = 1.0, 1.0
            for parent in np.flatnonzero(forest.level == k - 1).tolist():
                labels = [int(label[child]) for child in self.children(parent)]
                n, p = len(labels) - labels.count(-1), self.shares[parent]
                differ += labels.count(0) * labels.count(1)
                expected += n * (n - 1) * p * (1 - p)
            weight[k] *= differ / expected
        found = []
        for node in range(len(forest)):
            nodes, level = self.next_child(node), int(forest.level[node]) + 1
            labels, p = [int(label[child]) for child in self.children(node)], self.shares[node]
            gain = weight.get(level, 0.0) * (p * labels.count(0) + (1 - p) * labels.count(1))
            for k in range(level + 1, self.depth + 1):
                m, blocks = self.how.narrow[k - 1], sum(forest.level[n] == k - 1 for n in nodes)
                gain += weight.get(k, 0.0) * blocks * m * (m - 1) * p * (1 - p)
            if nodes and gain > 0:
                cost = sum(self.length[forest.level[n] - 1] for n in nodes)
                found.append((gain / cost, nodes))
        return found


@settings(max_examples=volume(60), deadline=None)
@given(worlds, st.data())
def test_a_wave_takes_the_best_candidates(world, data):
    learns = data.draw(st.sets(st.integers(1, len(world.branching)), min_size=1))
    how = how_of(world, sorted(learns))
    steps = world.sample(how, waves=data.draw(st.integers(2, 40)))
    forest = world.forest(steps[-1])
    credit = assign_credit(TreeConfig(branching=world.branching), forest)
    pairs = pair_counts(forest, credit, world.branching)
    enough = data.draw(st.sets(st.sampled_from(sorted(learns))))
    pairs = [ENOUGH if k in enough else n for k, n in enumerate(pairs, 1)]
    chosen, last = next_nodes(how, forest, credit, pairs)
    nodes = set(chosen.tolist())
    if not (forest.state[1 :: world.size] != RESERVED).all():
        return  # trees still begin
    candidates = Twin(how, forest, credit).candidates(pairs)
    assert last == (not candidates)
    taken = [c for c in candidates if c[1] <= nodes]
    assert set().union(*(c[1] for c in taken)) == nodes  # a wave is made of candidates
    assert bool(taken) == bool(candidates)
    best = sorted((rank for rank, _ in candidates), reverse=True)[: len(taken)]
    assert sorted((rank for rank, _ in taken), reverse=True) == pytest.approx(best)
    most = world.trees * len(world.branching) / WAVE
    assert len(nodes) <= max(most, max((len(c[1]) for c in taken), default=0))


# ---- promises ----


@settings(max_examples=volume(40), deadline=None)
@given(worlds, st.data())
def test_a_larger_budget_keeps_what_a_smaller_one_samples(world, data):
    total = world.trees * (world.size - 1)
    less = data.draw(st.integers(1, total))
    more = less + data.draw(st.one_of(st.integers(0, 12), st.integers(0, total)))
    few = world.sample(how_of(world, most_outputs=less))[-1]
    many = world.sample(how_of(world, most_outputs=more))[-1]
    assert few <= many
    assert len(few) <= less
    assert len(many) <= more


@pytest.mark.parametrize(
    ("branching", "trees", "seed", "learns", "budgets"),
    [
        ([4, 3, 4], 10, 50, [1, 2], (42, 53)),
        ([3, 3, 4], 8, 59, [1, 3], (72, 73)),
        ([3, 3, 3], 8, 358, [2, 3], (51, 53)),
    ],
)
def test_nothing_cheaper_is_taken_where_the_best_does_not_fit(
    branching, trees, seed, learns, budgets
):
    world = World(branching, trees, seed)
    few, many = (world.sample(how_of(world, learns, most_outputs=n))[-1] for n in budgets)
    assert few <= many


@settings(max_examples=volume(40), deadline=None)
@given(worlds)
def test_without_a_budget_a_forest_grows_until_nothing_is_gained(world):
    nodes = world.sample(how_of(world))[-1]
    forest = world.forest(nodes)
    for node in nodes:  # no output without its parent, and siblings in order
        parent = int(forest.parent[node])
        assert forest.level[parent] == 0 or parent in nodes
        assert set(range(int(forest.first_child[parent]), node)) <= nodes
    credit = assign_credit(TreeConfig(branching=world.branching), forest)
    pairs = pair_counts(forest, credit, world.branching)
    assert not Twin(how_of(world), forest, credit).candidates(pairs)


def test_a_budget_of_tokens_is_kept_for_equal_lengths():
    world = World([3, 3, 3], 40, 1, length=10)
    for tokens in (700, 5_000, 9_999):  # the first eighth of the trees is begun in any case
        assert 10 * len(world.sample(how_of(world, most_tokens=tokens))[-1]) <= tokens


def test_full_trees_are_whole_within_a_budget():
    world = World([2, 2], 20, 0)
    how = Allocation([2, 2], [], np.arange(20)[::-1], most_outputs=45)
    nodes = world.sample(how)[-1]
    assert len(nodes) == 42
    assert {node // world.size for node in nodes} == set(range(13, 20))


def test_pairs_per_output_where_questions_differ():
    """Most questions are easy or hopeless: half of the outputs make nearly all of the pairs."""
    world = World([3, 3, 3], 400, 7)
    world.outcome[: 320 * world.size] = np.repeat(np.arange(320) % 2, world.size)
    full = world.forest({n for n in range(400 * world.size) if n % world.size})
    tree = TreeConfig(branching=[3, 3, 3])
    everything = pair_counts(full, assign_credit(tree, full), world.branching)
    for learns, least in (([1], 1.8), ([2], 1.8), ([3], 1.8), ([1, 2, 3], 1.5)):
        nodes = world.sample(how_of(world, learns, most_outputs=400 * 39 // 2))[-1]
        forest = world.forest(nodes)
        pairs = pair_counts(forest, assign_credit(tree, forest), world.branching)
        rates = [pairs[k - 1] / len(nodes) / (everything[k - 1] / (400 * 39)) for k in learns]
        assert np.exp(np.mean(np.log(rates))) > least


def test_roles_that_have_enough_are_left_out():
    world = World([3, 3], 30, 2)
    how = how_of(world)
    forest = world.forest(world.sample(how, waves=2)[-1])
    credit = assign_credit(TreeConfig(branching=[3, 3]), forest)
    nodes, last = next_nodes(how, forest, credit, [ENOUGH, ENOUGH])
    assert last and not len(nodes)
    drafts, _ = next_nodes(how, forest, credit, [5, ENOUGH])
    assert len(drafts)
    assert len(drafts[forest.level[drafts] == 1]) > 0


@pytest.mark.parametrize("learns", [[1], [2], [1, 2, 3]])
def test_nothing_is_asked_below_failed_outputs(learns):
    world = World([3, 3, 3], 60, 5, fails=0.2)
    nodes = world.sample(how_of(world, learns))[-1]  # looks at every wave
    assert world.fails[list(nodes)].any()


def test_a_forest_that_is_all_wrong_so_far_goes_on():
    world = World([3, 3, 3], 4, 0)
    world.outcome[:] = 0
    assert len(world.sample(how_of(world, most_outputs=100))[-1]) > 90


def test_questions_that_were_settled_before_get_less():
    world = World([3, 3, 3], 64, 4)
    right = np.where(np.arange(64) < 32, [0.0, 1.0] * 32, 0.5)
    world.outcome[: 32 * world.size] = np.repeat(np.arange(32) % 2, world.size)
    known, unknown = (
        np.bincount([node // world.size for node in world.sample(how)[-1]], minlength=64)
        for how in (how_of(world, right=right, most_outputs=800), how_of(world, most_outputs=800))
    )
    assert known[:32].mean() < 0.8 * unknown[:32].mean()
    assert known[32:].mean() > unknown[32:].mean()


# ---- sampled by an engine ----


@settings(max_examples=volume(15), deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_waves_ask_for_their_nodes_in_any_order_of_answers(order, seed):
    branching, rng = [2, 2, 2], random.Random(seed)
    shape = shape_from_branching(branching, [BASE] * 3)
    prompts = Prompts(CHAIN, WORDING, TOKENIZER, chat=False)
    full = reserve(3, shape)
    for done, _ in grow(questions(3), shape, prompts, PARAMS, FakeEngine(1), 5):
        complete(full, done)
    known, asked = reserve(3, shape), set[int]()
    parts = [{n for n in range(len(full)) if full.level[n] and rng.random() < 0.5}, set[int]()]
    parts[1] = {n for n in range(len(full)) if full.level[n]} - parts[0]
    for part in parts:  # nodes whose ancestors are known, or asked too
        nodes = [n for n in sorted(part) if reachable(full, n, asked | part)]
        asked |= set(nodes)
        engine = FakeEngine(order)
        wave = Wave(np.array(nodes, np.int64), known)
        done = [
            one
            for some, failed in grow(questions(3), shape, prompts, PARAMS, engine, 5, wave)
            for one in some
            if not failed
        ]
        assert sorted(one.id for one in done) == nodes
        assert [one.tokens.tolist() for one in done] == [
            full.tokens_of(one.id).tolist() for one in done
        ]
        complete(known, done)


def reachable(forest: Forest, node: int, there: set[int]) -> bool:
    while forest.level[node]:
        if node not in there:
            return False
        node = int(forest.parent[node])
    return True


def test_an_empty_wave_asks_for_nothing():
    shape = shape_from_branching([2, 2], [BASE] * 2)
    prompts = Prompts(CHAIN[:2], WORDING, TOKENIZER, chat=False)
    wave = Wave(np.zeros(0, np.int64), reserve(1, shape))
    assert not list(grow(questions(1), shape, prompts, PARAMS[:2], FakeEngine(), 5, wave))


def test_a_refused_output_takes_only_what_the_wave_asked_for():
    shape = shape_from_branching([2, 2], [BASE] * 2)
    prompts = Prompts(CHAIN[:2], WORDING, TOKENIZER, chat=False)
    wave = Wave(np.array([1, 2, 3, 5]), reserve(1, shape))
    engine = FakeEngine(0, refuse=[(0,)])
    settled = list(grow(questions(1), shape, prompts, PARAMS[:2], engine, 5, wave))
    assert sorted(node for _, failed in settled for node in failed) == [1, 3]
    assert sorted(c.id for done, _ in settled for c in done if not c.error) == [2, 5]


# ---- settings ----


def config_of(**tree: object) -> Config:
    return Config(tree=TreeConfig(**tree))


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"max_outputs": 9}, "tree.max_outputs = 9 is less than one output for each of the 10"),
        ({"max_tokens": 9}, "tree.max_tokens = 9 is less than one output for each of the 10"),
        ({"max_outputs": 391}, "is more than the 390 outputs of full trees"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(tree, says):
    with pytest.raises(MaltError, match=says):
        check_budget(config_of(allocation="adaptive", **tree), 10)


def test_plain_full_trees_need_no_waves():
    assert allocation_of(config_of(), 10, CHAIN) is None
    assert full_outputs(config_of()) == 39


def test_an_adaptive_forest_takes_half_of_full_trees():
    how = allocation_of(config_of(allocation="adaptive"), 10, ["verifier"])
    assert how is not None
    assert (how.most_outputs, how.start, how.narrow, how.learns) == (195, [1] * 3, [1, 2, 1], [2])
    part = allocation_of(config_of(allocation="adaptive"), 4, CHAIN, share=0.4)
    assert part is not None
    assert part.most_outputs == pytest.approx(78)
