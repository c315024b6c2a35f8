"""The forest: what goes in comes out, views stay valid, and wrong input changes nothing."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malt_fast._core import DONE, FAILED, NO_NODE, RESERVED, UNGRADED, Forest
from tests.core_forests import Node, columns, grow, trees


def small() -> Forest:
    """Two questions; 0 has children 2 (done, two tokens), 3 (failed), 4 (reserved)."""
    forest = Forest()
    forest.add_questions(2)
    forest.reserve([0], [3])
    forest.complete([2], np.array([7, 8], np.int32), [0, 2], [0])
    forest.fail([3])
    return forest


@given(trees(), st.integers(0, 99))
def test_columns_hold_what_was_put_in(questions: list[Node], seed: int) -> None:
    forest, node_of = grow(questions, seed)
    assert len(forest) == len(node_of) == sum(1 for q in questions for _ in q.walk())
    column, root = columns(forest), forest.roots()
    for i, node in node_of.items():
        assert column["state"][i] == node.state
        assert column["level"][i] == len(node.path) - 1
        assert column["outcome"][i] == (UNGRADED if node.outcome is None else node.outcome)
        assert column["finish"][i] == node.finish
        assert forest.tokens_of(i).tolist() == node.tokens
        begin, length = int(column["token_begin"][i]), int(column["token_len"][i])
        assert column["logprobs"][begin : begin + length].tolist() == [t / 2 for t in node.tokens]
        assert root[i] == node.path[0]
        assert column["n_children"][i] == len(node.children)
        first = int(column["first_child"][i])
        assert (first == NO_NODE) == (not node.children)
        assert [node_of[first + k] for k in range(len(node.children))] == node.children
        assert all(column["parent"][first + k] == i for k in range(len(node.children)))
    assert all(column["parent"][i] == NO_NODE for i in range(len(questions)))
    assert forest.nbytes == 26 * len(forest) + 8 * len(column["tokens"])


@given(trees())
def test_columns_rebuild_the_forest(questions: list[Node]) -> None:
    forest, _ = grow(questions)
    rebuilt = Forest.from_columns(**columns(forest))
    for name, values in columns(forest).items():
        np.testing.assert_array_equal(getattr(rebuilt, name), values, strict=True)
    rebuilt.add_questions(1)
    assert len(rebuilt) == len(forest) + 1


def test_views_are_frozen_read_only_and_stay_valid_while_the_forest_grows() -> None:
    forest = small()
    views, text = columns(forest), forest.tokens_of(2)
    before = {name: view.copy() for name, view in views.items()}
    address = forest.tokens.ctypes.data
    first = int(forest.add_questions(1000))
    blocks = forest.reserve(np.arange(first, first + 1000), np.full(1000, 8))
    ids = (blocks[:, None] + np.arange(8, dtype=np.uint32)).ravel()
    tokens = np.arange(500 * ids.size, dtype=np.int32)
    forest.complete(ids, tokens, np.arange(ids.size + 1) * 500, np.zeros(ids.size, np.uint8))
    assert forest.tokens.ctypes.data == address
    assert text.tolist() == [7, 8]
    for name, view in views.items():
        np.testing.assert_array_equal(view, before[name])
        assert not view.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 0
    forest.complete([4], [], [0, 0], [1])
    assert views["state"][4] == DONE, "a view shows what becomes of its nodes"
    del forest
    assert text.tolist() == [7, 8], "a view keeps the forest alive"


SHAPE = [-1, -1, 0, 0, 0, 1]  # two children; three below the first, one below the second


def test_whole_trees_are_the_trees_that_reserve_makes() -> None:
    whole, grown = Forest(), Forest()
    whole.add_questions(1)
    grown.add_questions(1)
    assert whole.add_trees(2, SHAPE) == 1
    for root in (1, 8):
        assert grown.add_questions(1) == root
        grown.reserve([root], [2])
        grown.complete([root + 1, root + 2], [], [0, 0, 0], [0, 0])
        grown.reserve([root + 1, root + 2], [3, 1])
    whole.complete([1 + 1, 1 + 2, 8 + 1, 8 + 2], [], [0] * 5, [0] * 4)
    for name, values in columns(grown).items():
        np.testing.assert_array_equal(getattr(whole, name), values, strict=True)


def test_trees_without_nodes_are_questions() -> None:
    forest = Forest()
    assert forest.add_trees(3, []) == 0
    assert forest.add_trees(0, SHAPE) == 3
    assert forest.level.tolist() == [0, 0, 0]


def test_logprobs_are_nan_where_not_given() -> None:
    forest = small()
    forest.complete([4], [1, 2, 3], [0, 3], [0], [-0.5, -1.0, -2.0])
    forest.reserve([1], [1])
    forest.complete([5], [9], [0, 1], [0])
    np.testing.assert_array_equal(
        forest.logprobs, np.array([np.nan, np.nan, -0.5, -1, -2, np.nan], np.float32)
    )


def test_grading_again_replaces_the_outcome() -> None:
    forest = small()
    forest.set_outcomes([2], [True])
    forest.set_outcomes(np.array([2], np.int64), np.array([0], np.uint8))
    assert forest.outcome[2] == 0


def test_empty_batches_change_nothing() -> None:
    forest = Forest()
    forest.add_questions(0)
    assert forest.reserve([], []).shape == (0,)
    forest.complete([], [], [0], [])
    forest.fail([])
    forest.set_outcomes([], [])
    assert len(forest) == 0
    assert all(view.shape == (0,) for view in columns(forest).values())


MISUSE: dict[str, Callable[[Forest], Any]] = {
    "parent not done": lambda f: f.reserve([1, 4], [1, 1]),
    "parent failed": lambda f: f.reserve([3], [1]),
    "parent has children": lambda f: f.reserve([0], [1]),
    "parent named twice": lambda f: f.reserve([1, 1], [1, 1]),
    "parent does not exist": lambda f: f.reserve([1, 5], [1, 1]),
    "no children": lambda f: f.reserve([1], [0]),
    "too many children": lambda f: f.reserve([1], [65536]),
    "parents and counts differ": lambda f: f.reserve([1], [1, 1]),
    "complete a done node": lambda f: f.complete([4, 2], [1], [0, 1, 1], [0, 0]),
    "complete a node twice": lambda f: f.complete([4, 4], [1, 2], [0, 1, 2], [0, 0]),
    "complete an unknown node": lambda f: f.complete([4, 9], [1, 2], [0, 1, 2], [0, 0]),
    "offsets too short": lambda f: f.complete([4], [1, 2], [0], [0]),
    "offsets decrease": lambda f: f.complete([4], [], [0, -1], [0]),
    "offsets miss tokens": lambda f: f.complete([4], [1, 2], [0, 1], [0]),
    "offsets start late": lambda f: f.complete([4], [1, 2], [1, 2], [0]),
    "unknown finish": lambda f: f.complete([4], [1], [0, 1], [2]),
    "finish too short": lambda f: f.complete([4], [1], [0, 1], []),
    "logprobs too short": lambda f: f.complete([4], [1], [0, 1], [0], []),
    "tokens not integers": lambda f: f.complete([4], [1.5], [0, 1], [0]),
    "tokens too large": lambda f: f.complete([4], [2**31], [0, 1], [0]),
    "tokens two-dimensional": lambda f: f.complete([4], [[1]], [0, 1], [0]),
    "tokens are text": lambda f: f.complete([4], ["a"], [0, 1], [0]),
    "fail a failed node": lambda f: f.fail([4, 3]),
    "fail a negative id": lambda f: f.fail([-1]),
    "fail nothing known": lambda f: f.fail(None),  # type: ignore[arg-type]
    "grade a reserved node": lambda f: f.set_outcomes([2, 4], [1, 1]),
    "grade a failed node": lambda f: f.set_outcomes([3], [1]),
    "grade an inner node": lambda f: f.set_outcomes([0], [1]),
    "grade a question": lambda f: f.set_outcomes([1], [1]),
    "unknown outcome": lambda f: f.set_outcomes([2], [2]),
    "outcomes too short": lambda f: f.set_outcomes([2], []),
    "tokens of nothing": lambda f: f.tokens_of(5),
    "shape names a later parent": lambda f: f.add_trees(1, [-1, 1]),
    "shape names no parent": lambda f: f.add_trees(1, [-2]),
    "shape parts siblings": lambda f: f.add_trees(1, [-1, 0, -1]),
    "shape too wide": lambda f: f.add_trees(1, np.full(65536, -1)),
    "shape too deep": lambda f: f.add_trees(1, np.arange(-1, 255)),
    "too many trees": lambda f: f.add_trees(2**31, SHAPE),
    "too many nodes": lambda f: f.add_questions(2**32),
}


@pytest.mark.parametrize("misuse", MISUSE.values(), ids=MISUSE.keys())
def test_misuse_raises_and_changes_nothing(misuse: Callable[[Forest], Any]) -> None:
    forest, untouched = small(), small()
    with pytest.raises(ValueError):
        misuse(forest)
    for name, values in columns(untouched).items():
        np.testing.assert_array_equal(getattr(forest, name), values, strict=True)


def test_a_graded_leaf_cannot_have_children() -> None:
    forest = small()
    forest.set_outcomes([2], [1])
    with pytest.raises(ValueError, match="graded"):
        forest.reserve([2], [1])


BROKEN: dict[str, tuple[str, int, int]] = {  # column, node, value
    "parent after child": ("parent", 2, 4),
    "parent elsewhere": ("parent", 4, 1),
    "orphan": ("parent", 2, NO_NODE),
    "block beyond the end": ("n_children", 0, 4),
    "block too short": ("n_children", 0, 2),
    "block without a count": ("n_children", 0, 0),
    "children before the parent": ("first_child", 0, 0),
    "level skipped": ("level", 3, 2),
    "question below level 0": ("level", 1, 1),
    "question not done": ("state", 1, RESERVED),
    "parent failed": ("state", 0, FAILED),
    "unknown state": ("state", 3, 3),
    "unknown finish": ("finish", 2, 2),
    "unknown outcome": ("outcome", 2, 2),
    "outcome of a failed node": ("outcome", 3, 1),
    "outcome of an inner node": ("outcome", 0, 1),
    "tokens past the arena": ("token_begin", 2, 1),
    "tokens far past the arena": ("token_begin", 2, 2**64 - 1),
    "tokens of a failed node": ("token_len", 3, 1),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_columns_that_are_no_forest_are_refused(broken: tuple[str, int, int]) -> None:
    given = {name: values.copy() for name, values in columns(small()).items()}
    Forest.from_columns(**given)
    name, node, value = broken
    given[name][node] = value
    with pytest.raises(ValueError):
        Forest.from_columns(**given)


@pytest.mark.parametrize("name", ["level", "first_child", "token_len", "logprobs"])
def test_columns_of_unequal_length_are_refused(name: str) -> None:
    given = columns(small())
    with pytest.raises(ValueError, match="differ in length"):
        Forest.from_columns(**(given | {name: given[name][:-1]}))


def test_threads_may_share_a_forest() -> None:
    forest = Forest()
    forest.add_questions(400)

    def work(part: int) -> None:
        for question in range(part, 400, 4):
            first = int(forest.reserve([question], [3])[0])
            tokens = np.full(6, question, np.int32)
            forest.complete(range(first, first + 3), tokens, [0, 2, 4, 6], [0, 0, 0])

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(forest) == 1600
    for node in range(400, 1600):
        assert forest.tokens_of(node).tolist() == [forest.parent[node]] * 2
