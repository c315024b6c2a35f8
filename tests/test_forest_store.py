"""A forest on disk: the same again, or a sentence saying why not."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malt_fast import forest as store
from malt_fast.errors import MaltError
from malt_fast.forest import Forest, load_forest, save_forest
from tests.core_forests import Node, grow, trees

SCALARS = ["parent", "first_child", "n_children", "level", "state", "finish", "outcome"]


def assert_same(a: Forest, b: Forest) -> None:
    for name in [*SCALARS, "token_len"]:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
    for node in range(len(a)):
        np.testing.assert_array_equal(a.tokens_of(node), b.tokens_of(node))
        np.testing.assert_array_equal(logprobs_of(a, node), logprobs_of(b, node))


def logprobs_of(forest: Forest, node: int) -> np.ndarray:
    begin = int(forest.token_begin[node])
    return forest.logprobs[begin : begin + int(forest.token_len[node])]


def small(order: tuple[int, ...] = (1, 2, 3)) -> Forest:
    """A question with three outputs, the second failed, completed in any order."""
    forest = Forest()
    forest.add_questions(1)
    forest.reserve([0], [3])
    for node in order:
        if node == 2:
            forest.fail([2])
        else:
            forest.complete([node], [node] * node, [0, node], [node % 2], np.full(node, -node / 8))
    forest.set_outcomes([3], [1])
    return forest


@settings(max_examples=25, deadline=None)
@given(trees(), st.sampled_from([7, 1 << 16]))
def test_round_trip(questions: list[Node], batch: int) -> None:
    forest, _ = grow(questions)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "BATCH", batch)
        path = Path(folder) / "forest.arrows"
        save_forest(forest, path)
        again = load_forest(path)
        assert_same(again, forest)
        assert [file.name for file in Path(folder).iterdir()] == ["forest.arrows"]
        save_forest(again, path.with_name("again"))
        assert path.with_name("again").read_bytes() == path.read_bytes()


def test_the_file_forgets_the_order_of_completion_and_missing_logprobs_are_nan(
    tmp_path: Path,
) -> None:
    save_forest(small(), tmp_path / "a")
    save_forest(small((3, 2, 1)), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    bare = Forest()
    bare.add_questions(1)
    bare.reserve([0], [1])
    bare.complete([1], [5, 6], [0, 2], [0])
    save_forest(bare, tmp_path / "c")
    assert np.isnan(load_forest(tmp_path / "c").logprobs).all()


def test_any_arrow_tool_reads_it(tmp_path: Path) -> None:
    save_forest(small(), tmp_path / "forest.arrows")
    rows = pa.ipc.open_stream((tmp_path / "forest.arrows").read_bytes()).read_all().to_pylist()
    assert [row["tokens"] for row in rows] == [[], [1], [], [3, 3, 3]]
    assert rows[3]["logprobs"] == [-0.375] * 3
    assert [row["outcome"] for row in rows] == [255, 255, 255, 1]


def test_a_loaded_forest_grows_on(tmp_path: Path) -> None:
    save_forest(small(), tmp_path / "f")
    forest = load_forest(tmp_path / "f")
    assert forest.reserve([1], [2]).tolist() == [4]
    forest.complete([5], [7], [0, 1], [0])
    assert forest.tokens_of(5).tolist() == [7]


def test_every_cut_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BATCH", 2)
    save_forest(small(), tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    end_of_stream = 8  # the last marker says nothing that the node count does not
    for cut in range(0, len(data) - end_of_stream, 7):
        (tmp_path / "cut").write_bytes(data[:cut])
        with pytest.raises(MaltError, match="cut"):
            load_forest(tmp_path / "cut")


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    whole = small()
    save_forest(whole, tmp_path / "f")
    data = (tmp_path / "f").read_bytes()
    noticed = 0
    for i in range(0, len(data), 3):
        (tmp_path / "f").write_bytes(data[:i] + bytes([data[i] ^ 0x41]) + data[i + 1 :])
        try:
            assert_same(load_forest(tmp_path / "f"), whole)
        except MaltError:
            noticed += 1
    assert noticed > 50


def test_files_that_are_no_forest(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with pytest.raises(MaltError, match="does not exist"):
        load_forest(path)
    with pytest.raises(MaltError, match="no forest"):
        load_forest(tmp_path)
    for text in ("", "id,text\n1,a\n", "x" * 10_000):
        path.write_text(text)
        with pytest.raises(MaltError, match="no forest"):
            load_forest(path)
    for metadata in ({}, {"malt_forest": "2", "nodes": "0"}, {"malt_forest": "1", "nodes": "no"}):
        schema = pa.schema([("parent", pa.uint32())], metadata=metadata)
        with pa.ipc.new_stream(str(path), schema):
            pass
        with pytest.raises(MaltError):
            load_forest(path)
    schema = pa.schema([("parent", pa.uint32())], metadata={"malt_forest": "1", "nodes": "0"})
    with pa.ipc.new_stream(str(path), schema):
        pass
    with pytest.raises(MaltError, match="columns"):
        load_forest(path)


def test_columns_that_are_no_forest_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = store._columns_of

    def twisted(forest: Forest, begin: int, end: int) -> store.Columns:
        return honest(forest, begin, end) | {"level": np.full(end - begin, 3, np.uint8)}

    monkeypatch.setattr(store, "_columns_of", twisted)
    save_forest(small(), tmp_path / "f")
    with pytest.raises(MaltError, match="damaged"):
        load_forest(tmp_path / "f")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    save_forest(small(), path)

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(store, "_to_batch", full_disk)
    with pytest.raises(OSError, match="space"):
        save_forest(small((3, 2, 1)), path)
    assert [file.name for file in tmp_path.iterdir()] == ["f"]
    assert_same(load_forest(path), small())
