"""Examples and pairs against plain Python loops over the tree."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malt_fast._core.forest import Credit, Forest, credit, examples, labelled, pairs
from tests.core.forests import Node, Path, grow, trees
from tests.core.test_credit import average, tree_with_leaves, value_of

HALF = Fraction(1, 2)


@dataclass
class Candidate:
    path: Path
    tokens: list[int]
    value: Fraction


def blocks_at(questions: list[Node], level: int, dedup: bool) -> list[list[Candidate]]:
    """The valued nodes of a level: those of a parent, or if dedup groups of equal texts below
    parents whose paths have the same tokens."""
    blocks: dict[object, list[Candidate]] = {}
    for path, texts, parent in (row for q in questions for row in with_texts(q)):
        if len(path) == level and parent.children:
            own = blocks.setdefault((path[0], texts) if dedup else path, [])
            own += [
                Candidate(child.path, child.tokens, value)
                for child in parent.children
                if (value := value_of(child)) is not None
            ]
    return [merged(block) if dedup else block for block in blocks.values()]


def with_texts(
    node: Node, above: tuple[tuple[int, ...], ...] = ()
) -> Iterator[tuple[Path, tuple[tuple[int, ...], ...], Node]]:
    """(path, tokens of each output on it, node) of every node, in the order of paths."""
    texts = (*above, tuple(node.tokens))
    yield node.path, texts, node
    for child in node.children:
        yield from with_texts(child, texts)


def merged(block: list[Candidate]) -> list[Candidate]:
    groups: dict[tuple[int, ...], list[Candidate]] = {}
    for candidate in block:
        groups.setdefault(tuple(candidate.tokens), []).append(candidate)
    means = [(group[0], average([c.value for c in group])) for group in groups.values()]
    return [Candidate(first.path, first.tokens, mean) for first, mean in means if mean is not None]


def allowed(block: list[Candidate], margin: Fraction) -> list[tuple[Candidate, Candidate]]:
    return [
        (chosen, rejected)
        for chosen in block
        for rejected in block
        if chosen.value > HALF >= rejected.value
        and chosen.tokens != rejected.tokens
        and chosen.value - rejected.value >= margin
    ]


def paths(node_of: dict[int, Node], *columns: np.ndarray) -> list[tuple[Path, ...]]:
    return [tuple(node_of[int(i)].path for i in row) for row in zip(*columns, strict=True)]


LEVELS = st.integers(1, 4)
MARGINS = st.fractions(0, 1, max_denominator=12)


@given(trees(), LEVELS, st.sampled_from(["paired", "all"]), st.booleans())
def test_examples_are_the_positives(
    questions: list[Node], level: int, source: Literal["paired", "all"], dedup: bool
) -> None:
    forest, node_of = grow(questions)
    found = examples(forest, credit(forest), level, source, dedup)
    expected = [
        (candidate.path,)
        for block in blocks_at(questions, level, dedup)
        if source == "all" or any(c.value <= HALF for c in block)
        for candidate in block
        if candidate.value > HALF
    ]
    assert sorted(paths(node_of, found)) == sorted(expected)
    assert found.tolist() == sorted(found.tolist())


@given(trees(), LEVELS, st.booleans(), MARGINS)
def test_all_pairs(questions: list[Node], level: int, dedup: bool, margin: Fraction) -> None:
    forest, node_of = grow(questions)
    chosen, rejected = pairs(
        forest, credit(forest), level, min_margin=margin.as_integer_ratio(), dedup=dedup
    )
    blocks = [
        [(c.path, r.path) for c, r in allowed(block, margin)]
        for block in blocks_at(questions, level, dedup)
    ]
    block_of = {pair: i for i, block in enumerate(blocks) for pair in block}
    found = paths(node_of, chosen, rejected)
    together = [list(own) for _, own in groupby(found, lambda pair: block_of.get(pair))]
    assert sorted(together) == sorted(filter(None, blocks)), "whole blocks, in the order of paths"
    first = forest.first_child[forest.parent[chosen]].tolist()
    assert dedup or first == sorted(first)


@given(trees(), LEVELS, st.booleans())
def test_labelled_are_all_with_a_value(questions: list[Node], level: int, dedup: bool) -> None:
    forest, node_of = grow(questions)
    ids, labels = labelled(forest, credit(forest), level, dedup)
    assert ids.tolist() == sorted(ids.tolist())
    found = {node_of[i].path: label for i, label in zip(ids.tolist(), labels, strict=True)}
    assert found == {
        c.path: int(c.value > HALF) for block in blocks_at(questions, level, dedup) for c in block
    }


def test_cousins_with_the_same_prompt_are_one_block() -> None:
    """Two equal drafts: a critique of the one is paired with a critique of the other."""
    question = Node((0,))
    for i, outcomes in enumerate(([1, 1], [0, 1], [0, 0])):
        draft = Node((0, i), tokens=[7] if i < 2 else [8])
        draft.children = [Node((0, i, k), tokens=[k], outcome=o) for k, o in enumerate(outcomes)]
        question.children.append(draft)
    forest, node_of = grow([question], 3)
    scores = credit(forest)
    assert paths(node_of, *pairs(forest, scores, 2)) == [((0, 1, 1), (0, 1, 0))]
    assert paths(node_of, *pairs(forest, scores, 2, dedup=True)) == [((0, 0, 1), (0, 0, 0))]
    ids, labels = labelled(forest, scores, 2, dedup=True)
    found = {node_of[int(i)].path: label for i, label in zip(ids, labels, strict=True)}
    assert found == {(0, 0, 0): 0, (0, 0, 1): 1, (0, 2, 0): 0, (0, 2, 1): 0}


@given(trees(), LEVELS, st.booleans(), MARGINS)
def test_best_against_worst(
    questions: list[Node], level: int, dedup: bool, margin: Fraction
) -> None:
    forest, node_of = grow(questions)
    found = pairs(
        forest,
        credit(forest),
        level,
        "best_worst",
        min_margin=margin.as_integer_ratio(),
        dedup=dedup,
    )
    expected = []
    for block in blocks_at(questions, level, dedup):
        if options := allowed(block, margin):
            best = max(options, key=lambda pair: (pair[0].value, -pair[1].value))
            expected.append((best[0].path, best[1].path))
    assert sorted(paths(node_of, *found)) == sorted(expected)


@given(trees(), LEVELS, st.booleans(), st.integers(0, 2**64 - 1))
def test_one_pair_per_parent(questions: list[Node], level: int, dedup: bool, seed: int) -> None:
    forest, node_of = grow(questions)
    found = paths(node_of, *pairs(forest, credit(forest), level, "one", seed, dedup=dedup))
    options = [allowed(block, Fraction(0)) for block in blocks_at(questions, level, dedup)]
    assert len(found) == sum(1 for block in options if block)
    assert all(
        len(set(found) & {(c.path, r.path) for c, r in block}) == bool(block) for block in options
    )


@given(trees(), LEVELS, st.integers(1, 5), st.integers(0, 99))
def test_limit_per_question(questions: list[Node], level: int, limit: int, seed: int) -> None:
    forest, node_of = grow(questions)
    scores = credit(forest)
    every = paths(node_of, *pairs(forest, scores, level))
    chosen, rejected = pairs(forest, scores, level, seed=seed, max_per_question=limit)
    kept = paths(node_of, chosen, rejected)
    assert [pair for pair in every if pair in set(kept)] == kept, "a subset in the same order"
    for question in range(len(questions)):
        available = sum(1 for pair in every if pair[0][0] == question)
        assert sum(1 for pair in kept if pair[0][0] == question) == min(limit, available)


@given(
    trees(), LEVELS, st.sampled_from(["all", "one", "best_worst"]), st.integers(0, 3), st.booleans()
)
def test_the_order_of_arrival_changes_nothing(
    questions: list[Node],
    level: int,
    policy: Literal["all", "one", "best_worst"],
    limit: int,
    dedup: bool,
) -> None:
    results = []
    for order in (1, 2):
        forest, node_of = grow(questions, order)
        found = pairs(forest, credit(forest), level, policy, 5, limit, dedup=dedup)
        ids, labels = labelled(forest, credit(forest), level, dedup)
        scores = dict(zip((node_of[int(i)].path for i in ids), labels.tolist(), strict=True))
        results.append((sorted(paths(node_of, *found)), scores))
    assert results[0] == results[1]


def contrasts(n_questions: int) -> tuple[Forest, Credit]:
    """Questions with three right and three wrong answers each."""
    forest = Forest()
    forest.add_questions(n_questions)
    forest.reserve(np.arange(n_questions), np.full(n_questions, 6))
    ids = np.arange(n_questions, 7 * n_questions)
    tokens = np.tile(np.arange(6), n_questions)
    forest.complete(ids, tokens, np.arange(ids.size + 1), np.zeros(ids.size))
    forest.set_outcomes(ids, tokens % 2)
    return forest, credit(forest)


@pytest.mark.parametrize("how", [{"policy": "one"}, {"max_per_question": 1}])
def test_random_pairs_are_spread_evenly_and_follow_the_seed(how: dict[str, object]) -> None:
    n = 3000
    forest, scores = contrasts(n)
    chosen, rejected = pairs(forest, scores, 1, seed=1, **how)  # type: ignore[arg-type]
    assert chosen.size == n
    kind = (chosen - n) % 6 // 2 * 3 + (rejected - n) % 6 // 2
    counts = np.bincount(kind, minlength=9)
    assert counts.min() > n / 9 - 5 * np.sqrt(n / 9), "nine equally likely pairs a question"
    again, other = (pairs(forest, scores, 1, seed=s, **how)[0] for s in (1, 2))  # type: ignore[arg-type]
    assert (again == chosen).all()
    assert 0.2 < (other == chosen).mean() < 0.5, "another seed agrees by chance only"


def test_margin_is_exact() -> None:
    """2/3 - 1/3 against 1/3: floats would need a tolerance."""
    forest, _ = tree_with_leaves([[1, 1, 0], [1, 0, 0]])
    scores = credit(forest)
    assert pairs(forest, scores, 1, min_margin=(1, 3))[0].size == 1
    assert pairs(forest, scores, 1, min_margin=(333334, 1000000))[0].size == 0


def test_equal_texts_are_never_a_pair() -> None:
    question = Node((0,))
    question.children = [Node((0, i), tokens=[4, 4], outcome=i % 2) for i in range(4)]
    forest, _ = grow([question])
    scores = credit(forest, (1, 4))
    for dedup in (False, True):
        assert pairs(forest, scores, 1, dedup=dedup)[0].size == 0
    assert examples(forest, scores, 1, "all", dedup=False).tolist() == [2, 4]
    assert examples(forest, scores, 1, "all", dedup=True).tolist() == [1], "their mean is 1/2"


def test_groups_empty_levels() -> None:
    forest, scores = contrasts(1)
    assert examples(forest, scores, 7).shape == (0,)
    assert [column.shape for column in pairs(forest, scores, 7)] == [(0,), (0,)]
    assert examples(Forest(), credit(Forest()), 1).dtype == np.uint32


def test_credit_of_a_forest_that_grew_is_refused() -> None:
    forest, scores = contrasts(2)
    forest.add_questions(1)
    for find in (examples, labelled, pairs):
        with pytest.raises(ValueError, match="grown"):
            find(forest, scores, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"level": 0},
        {"level": 256},
        {"policy": "best"},
        {"min_margin": (1, 0)},
        {"min_margin": (-1, 2)},
        {"min_margin": (2, 1)},
    ],
)
def test_misuse_raises(wrong: dict[str, object]) -> None:
    forest, scores = contrasts(1)
    with pytest.raises(ValueError):
        pairs(forest, scores, **({"level": 1} | wrong))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="paired, all"):
        examples(forest, scores, 1, "some")  # type: ignore[arg-type]
