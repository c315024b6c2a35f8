"""The forest: what goes in comes out, views stay valid, and wrong input changes nothing."""

import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malt_fast._core.forest import DONE, NO_NODE, PAGE, RESERVED, UNGRADED, Forest, map_files
from tests.core.forests import Node, columns, grow, trees


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
        assert root[i] == node.path[0]
        assert column["n_children"][i] == len(node.children)
        first = int(column["first_child"][i])
        assert (first == NO_NODE) == (not node.children)
        assert [node_of[first + k] for k in range(len(node.children))] == node.children
        assert all(column["parent"][first + k] == i for k in range(len(node.children)))
    assert all(column["parent"][i] == NO_NODE for i in range(len(questions)))
    assert forest.nbytes == 26 * len(forest) + 4 * len(column["tokens"])


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=6, max_size=6), st.data())
def test_lent_tokens_are_as_good_as_its_own(texts: list[list[int]], data: st.DataObject) -> None:
    """The same outputs from an arena that is not copied, in any order and with gaps."""
    own, lent = Forest(), Forest()
    for forest in (own, lent):
        forest.add_trees(2, [-1, -1, 0])
    ids = np.array([1, 2, 3, 5, 6, 7], np.uint32)
    length = np.array([len(text) for text in texts], np.uint32)
    finish = length % 2
    offsets = np.cumsum([0, *length])
    own.complete(ids, [token for text in texts for token in text], offsets, finish)
    arena, begin = [-1], np.zeros(6, np.uint64)
    for i in data.draw(st.permutations(range(6))):
        begin[i] = len(arena)
        arena += [*texts[i], -1]
    values = np.array(arena, np.int32)
    lent.lend(values, ids, begin, length, finish)
    for node in range(len(own)):
        assert lent.tokens_of(node).tolist() == own.tokens_of(node).tolist()
    assert lent.finish.tolist() == own.finish.tolist() and (lent.state == DONE).all()
    assert lent.nbytes == 26 * len(lent) and np.shares_memory(lent.tokens, values)
    view = lent.tokens
    del values, lent
    gc.collect()
    assert view.tolist() == arena  # which lives as long as a view of it
    if own.tokens.size:
        with pytest.raises(ValueError, match="has tokens already"):
            own.lend([1], [], [], [], [])


def test_lending_is_refused_whole() -> None:
    forest, values = Forest(), np.arange(5, dtype=np.int32)
    forest.add_trees(1, [-1, -1])
    for ids, begin, length, finish in [
        ([1], [4], [2], [0]),
        ([1], [2**64 - 1], [1], [0]),
        ([1], [0], [1], [2]),
        ([1, 1], [0, 0], [1, 1], [0, 0]),
        ([0], [0], [1], [0]),
        ([1, 2], [0], [1, 1], [0, 0]),
    ]:
        with pytest.raises(ValueError):
            forest.lend(values, ids, begin, length, finish)
    assert forest.state.tolist() == [DONE, RESERVED, RESERVED] and forest.tokens.size == 0
    forest.lend(values, [1], [1], [2], [0])
    with pytest.raises(ValueError, match="lent"):
        forest.complete([2], [1], [0, 1], [0])
    forest.fail([2])


def test_files_become_one_array(tmp_path: Path) -> None:
    sizes = [12, 0, 70_000, 4]
    paths = [tmp_path / str(i) for i in range(4)]
    for i, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        path.write_bytes(np.full(size // 4 + 3, i, np.int32).tobytes())  # longer than is mapped
    mapped = map_files([str(path) for path in paths], sizes)
    begin = 0
    for i, size in enumerate(sizes):
        assert (mapped[begin : begin + size // 4] == i).all()
        begin += -(-size // PAGE) * PAGE // 4
    assert len(mapped) == begin and not mapped.flags.writeable
    assert map_files([], []).size == 0
    with pytest.raises(OSError, match="absent"):
        map_files([str(paths[0]), str(tmp_path / "absent")], [4, 4])
    with pytest.raises(OSError):
        map_files([str(paths[0])], [1000])
    with pytest.raises(ValueError, match="differ in length"):
        map_files([str(paths[0])], [])


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


def test_tree_size() -> None:
    forest = Forest()
    assert forest.tree_size == 0
    forest.add_trees(2, [-1, -1, 0])
    forest.add_trees(1, [-1, 0, 0])
    assert forest.tree_size == 4
    forest.add_trees(1, [-1])
    assert forest.tree_size == 0
    questions = Forest()
    questions.add_questions(3)
    questions.add_trees(3, [-1])
    assert questions.tree_size == 0
