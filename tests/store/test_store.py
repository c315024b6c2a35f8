"""The store: what was committed comes back, and of damage no more is lost than what it hit."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malt_fast.forest.build import build_forest
from malt_fast.forest.file import forest_of, read_forest, save_forest
from malt_fast.store import live_segment, recovery
from malt_fast.store.arrow_batches import (
    decode,
    encode,
    encode_head,
    scan,
)
from malt_fast.store.segments import read_index, scan_parts
from malt_fast.store.store import open_store
from malt_fast.utils.errors import MaltError
from tests.store.stored import fill, key_of, known, open_small, same, sample_of
from tests.volume import volume

PLACE = ("begin", "end")


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("samples-*.arrows"))


@settings(max_examples=volume(25), deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.booleans(), st.booleans()), max_size=12),
    st.integers(1, 9),
    st.integers(300, 9000),
)
def test_what_is_committed_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, bool, bool]],
    batch: int,
    segment_bytes: int,
) -> None:
    """Against a dict: appends, commits, and openings in any order."""
    folder = tmp_path_factory.mktemp("store")
    store = open_store(folder, batch=batch, interval=3600, segment_bytes=segment_bytes)
    appended = committed = 0
    for count, commits, opens in steps:
        rows = store.append([sample_of(i) for i in range(appended, appended + count)])
        assert rows == list(range(appended, appended + count))
        appended += count
        store.commit_if_due()
        if commits:
            store.commit_all()
        committed = appended - len(store.live.waiting)
        assert known(store, appended + 3) == list(range(appended))  # waiting ones, too
        if opens:
            store = open_store(folder, batch=batch, interval=3600, segment_bytes=segment_bytes)
            assert known(store, appended + 3) == list(range(committed))
            appended = committed
    reader = open_store(folder, writable=False)
    assert known(reader, appended + 3) == list(range(committed))
    table = reader.rows()
    want = [sample_of(i) for i in range(committed)]
    assert table.length.tolist() == [len(sample.tokens) for sample in want]
    assert table.finish.tolist() == [sample.finish for sample in want]
    assert table.check.tolist() == [int.from_bytes(s.key[:4], "little") for s in want]


def test_any_arrow_tool_reads_a_segment(tmp_path: Path) -> None:
    fill(open_small(tmp_path, segment_bytes=10**6), range(10))
    (path,) = segments(tmp_path)
    rows = pa.ipc.open_stream(path.read_bytes()).read_all().to_pylist()
    for i, row in enumerate(rows):
        want = sample_of(i)
        assert row["key"] == want.key and row["question"] == want.question
        assert row["tokens"] == want.tokens.tolist() and row["path"] == list(want.path)
    schema = pa.ipc.open_stream(path.read_bytes()).schema
    assert schema.field("tokens").type == pa.large_list(pa.int32())
    polars = pytest.importorskip("polars")
    assert len(polars.read_ipc_stream(path)) == 10


def test_a_commit_is_due_by_rows_or_by_time(tmp_path: Path, monkeypatch) -> None:
    now = 100.0
    monkeypatch.setattr("malt_fast.store.live_segment.time.monotonic", lambda: now)
    monkeypatch.setattr("malt_fast.store.live_segment.time.time", lambda: -now)
    store = open_store(tmp_path, batch=5, interval=2)
    store.append([sample_of(i) for i in range(4)])
    store.commit_if_due()
    assert store.next_row == 0
    now = 101.9
    store.append([sample_of(4)])
    store.commit_if_due()
    assert store.next_row == 5
    store.append([sample_of(5)])
    now = 103.8
    store.commit_if_due()
    assert store.next_row == 5
    now = 103.9
    store.commit_if_due()
    assert store.next_row == 6


def test_a_commit_is_synced_whole(tmp_path: Path, monkeypatch) -> None:
    """Else a power cut could lose what the store says is committed."""
    store, real, synced = open_store(tmp_path), os.fsync, []

    def fsync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size))
        real(descriptor)

    store.append([sample_of(i) for i in range(4)])
    monkeypatch.setattr(os, "fsync", fsync)
    store.commit_all()
    file = store.live.path.stat()
    assert (file.st_ino, file.st_size) in synced


def test_sealed_segments_are_opened_by_their_index_alone(tmp_path: Path, monkeypatch) -> None:
    fill(open_small(tmp_path), range(300))
    sealed = segments(tmp_path)[:-1]
    assert len(sealed) > 2
    scanned: list[Path] = []
    scan = lambda path, *a, **k: scanned.append(path) or scan_parts(path, *a, **k)  # noqa: E731
    for module in (live_segment, recovery):
        monkeypatch.setattr(module, "scan_parts", scan)
    store = open_small(tmp_path)
    assert scanned == segments(tmp_path)[-1:]
    assert known(store, 310) == list(range(300))


@pytest.mark.parametrize("what", ["index", "manifest", "both", "index cut", "manifest cut"])
def test_what_is_derived_is_made_again(tmp_path: Path, what: str) -> None:
    fill(open_small(tmp_path), range(300))
    id = open_small(tmp_path).id
    files = [] if "manifest" in what else [*tmp_path.glob("*.index")]
    files += [] if "index" in what else [tmp_path / "manifest.json"]
    for file in files:
        if "cut" in what:
            file.write_bytes(file.read_bytes()[:-30])
        else:
            file.unlink()
    store = open_small(tmp_path)
    assert known(store, 310) == list(range(300)) and store.id == id
    fill(store, range(300, 310))
    assert known(open_small(tmp_path), 320) == list(range(310))
    assert json.loads((tmp_path / "manifest.json").read_text())["store"] == id


def test_a_torn_tail_loses_its_batch_and_is_cut_off(tmp_path: Path) -> None:
    fill(open_small(tmp_path, segment_bytes=10**6), range(40))
    (path,) = segments(tmp_path)
    data = path.read_bytes()
    ends = [message.end for message in scan(data, open_small(tmp_path).head)]
    for cut in range(0, len(data), 97):
        path.write_bytes(data[:cut])
        whole = 4 * sum(end <= cut for end in ends)
        store = open_small(tmp_path, segment_bytes=10**6)
        assert known(store, 40) == list(range(whole))
        fill(store, range(whole, whole + 2))
        assert known(open_small(tmp_path), 40) == list(range(whole + 2))


def test_a_damaged_batch_is_left_out_and_nothing_else(tmp_path: Path, caplog) -> None:
    fill(open_small(tmp_path / "whole"), range(200))
    for number, byte in [(0, 900), (0, 2500), (1, 1200), (-1, 700)]:
        folder = tmp_path / f"{number} {byte}"
        shutil.copytree(tmp_path / "whole", folder)
        path = segments(folder)[number]
        data = bytearray(path.read_bytes())
        data[byte] ^= 4
        path.write_bytes(data)
        caplog.clear()
        store = open_small(folder)
        there = known(store, 200)
        lost = sorted(set(range(200)) - set(there))
        assert len(lost) == 4 and lost == list(range(lost[0], lost[0] + 4))
        assert "left out" in caplog.text and caplog.text.count("\n") == 1
        again = open_small(folder)
        assert known(again, 200) == there  # told once, known for good
        fill(again, range(lost[0], lost[0] + 4))
        assert known(open_small(folder), 200) == list(range(200))


def test_bytes_that_are_no_store_are_refused_or_unread(tmp_path: Path) -> None:
    with pytest.raises(MaltError, match="holds no samples"):
        open_store(tmp_path / "none", writable=False)
    (tmp_path / "file").write_text("x")
    with pytest.raises(MaltError, match="cannot be used"):
        open_store(tmp_path / "file")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "samples-00000.arrows").write_text("hello" * 100)
    (tmp_path / "s" / "manifest.json").write_text("[]")
    store = open_small(tmp_path / "s")
    fill(store, range(10))
    assert known(open_small(tmp_path / "s"), 12) == list(range(10))
    manifest = tmp_path / "s" / "manifest.json"
    import xxhash

    values = json.loads(manifest.read_text()) | {"version": "9"}
    del values["xxh3"]
    values["xxh3"] = xxhash.xxh3_64_hexdigest(json.dumps(values).encode())
    manifest.write_text(json.dumps(values))
    with pytest.raises(MaltError, match="format 9, this version reads 2"):
        open_small(tmp_path / "s")


# ---- messages ----


def test_messages_among_rubbish_are_found() -> None:
    schema = pa.schema([("x", pa.int32()), ("y", pa.large_list(pa.int32()))])
    head = encode_head(schema)
    batches = [
        pa.record_batch(
            [pa.array([i, -1], pa.int32()), pa.array([[i], [-1] * i], schema[1].type)],
            schema=schema,
        )
        for i in range(5)
    ]
    pieces = [encode(batch, head, {"i": str(i)}) for i, batch in enumerate(batches)]
    junk = [b"\xff" * 16, b"\0" * 8, b"\xff\xff\xff\xff\x10\0\0\0" + b"a" * 32, pieces[0][:-64]]
    data = b"".join(piece + part for piece, part in zip(pieces, [*junk, b""], strict=True))
    for before in (head, b"", b"\xff" * 8 * 5):
        found = list(scan(before + data, head))
        assert [message.metadata for message in found] == [{"i": str(i)} for i in range(5)]
        assert [message.batch for message in found] == batches
    assert decode(head, 0, head) is None and decode(b"", 0, head) is None


# ---- forests ----


def test_a_forest_comes_back_from_its_rows(tmp_path: Path) -> None:
    store = open_small(tmp_path / "samples")
    fill(store, range(60))
    parents = [-1, -1, 0, 0, 1]
    rows = np.full(5 * 6, -1, np.int64)
    numbers = [v for v in range(30) if v % 6]
    for v in numbers:
        rows[v] = (v * 7) % 60
    rows[[8, 11]] = -1  # a draft that failed, and its critique
    forest = build_forest(parents, 5, rows, store)
    assert forest is not None
    forest.set_outcomes([5], [1])
    path = tmp_path / "forest.arrows"
    save_forest(path, forest, store, "f", "g", parents, rows, "")
    reader = open_store(tmp_path / "samples", writable=False)
    file = read_forest(path, reader)
    assert file is not None and (file.fingerprint, file.grading) == ("f", "g")
    again = forest_of(file, reader)
    assert again is not None and again.outcome.tolist() == forest.outcome.tolist()
    for v in numbers:
        want = [] if rows[v] < 0 else sample_of(int(rows[v])).tokens.tolist()
        assert again.tokens_of(v).tolist() == want
        assert again.state[v] == (2 if rows[v] < 0 else 1)
    ungraded = forest_of(file, reader, graded=False)
    assert ungraded is not None and set(ungraded.outcome.tolist()) == {255}
    bare = pa.ipc.open_stream(path.read_bytes()).read_all()
    assert bare.column_names == ["sample", "check", "outcome"]


def test_a_forest_of_samples_that_are_not_there_any_more_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    store = open_small(folder)
    fill(store, range(60))
    rows = np.arange(-1, 59)
    rows[0] = -1
    forest = build_forest([-1] * 59, 1, rows, store)
    assert forest is not None
    path = tmp_path / "forest.arrows"
    save_forest(path, forest, store, "", "", [-1] * 59, rows, "")

    def there() -> bool:
        store = open_small(folder)
        file = read_forest(path, store)
        return file is not None and forest_of(file, store) is not None

    assert there()
    first = segments(folder)[0]
    data = first.read_bytes()
    first.write_bytes(data[:1000] + b"?" + data[1001:])
    assert not there()
    shutil.rmtree(folder)
    fill(open_small(folder), range(60))  # another store with the same rows
    assert not there()
    whole = path.read_bytes()
    for i in range(0, len(whole), 50):
        path.write_bytes(whole[:i])
        assert read_forest(path, open_small(folder)) is None


def test_rows_that_became_others_are_noticed(tmp_path: Path) -> None:
    """The last batch is damaged, cut off as torn, and its row numbers are given again."""
    folder = tmp_path / "samples"
    store = open_small(folder, segment_bytes=10**6)
    fill(store, range(8))
    rows = np.arange(-1, 8)
    forest = build_forest([-1] * 8, 1, rows, store)
    assert forest is not None
    save_forest(tmp_path / "f", forest, store, "", "", [-1] * 8, rows, "")
    (path,) = segments(folder)
    path.write_bytes(path.read_bytes()[:-20])
    store = open_small(folder, segment_bytes=10**6)
    fill(store, range(100, 104))
    file = read_forest(tmp_path / "f", store)
    assert file is not None and forest_of(file, store) is None


def test_what_is_damaged_after_it_was_opened_is_not_read(tmp_path: Path, caplog) -> None:
    store = open_small(tmp_path)
    fill(store, range(100))
    path = segments(tmp_path)[0]
    path.write_bytes(b"\0" * path.stat().st_size)
    caplog.set_level(logging.WARNING)
    assert 0 not in known(store, 100) and "left out" in caplog.text
    assert same(store.find([key_of(99)])[0][1], sample_of(99))  # type: ignore[index]


# ---- numbers and names that were given once ----


def test_numbers_of_a_batch_that_was_left_out_are_not_given_again(tmp_path: Path) -> None:
    """Else the next opening would leave the new rows out."""
    store = open_small(tmp_path, segment_bytes=10**6)
    fill(store, range(12))
    flip(store.live.path, int(store.live.batches[-1].parts["end"][0]) - 20)
    assert known(store, 12) == list(range(8))
    again = open_small(tmp_path, segment_bytes=10**6)
    assert again.next_row == 12
    fill(again, range(8, 12))
    assert known(open_small(tmp_path, segment_bytes=10**6), 12) == list(range(12))


def test_the_name_of_a_lost_segment_is_not_given_again(tmp_path: Path) -> None:
    store, n = open_small(tmp_path), 0
    while len(store.sealed) < 3 or store.live.path.exists():
        fill(store, range(n, n + 4))
        n += 4
    store.sealed[-1].path.unlink()
    again = open_small(tmp_path)
    missing = sorted(set(range(n)) - set(known(again, n)))
    assert missing
    for i in missing:
        fill(again, range(i, i + 1))
    assert known(open_small(tmp_path), n) == list(range(n))


def test_an_index_that_changes_below_an_open_store_misleads_nobody(tmp_path: Path) -> None:
    fill(open_small(tmp_path), range(100))
    for at in range(400, segments(tmp_path)[0].with_suffix(".index").stat().st_size, 97):
        store = open_small(tmp_path)
        index = store.sealed[0].path.with_suffix(".index")
        before = index.read_bytes()
        flip(index, at)
        known(store, 100)  # asserts that what comes back is right
        rows = store.rows()
        for i, place in enumerate(rows.begin[: store.sealed[0].rows].tolist()):
            words = np.fromfile(rows.paths[0], np.int32)
            there = words[place : place + int(rows.length[i])]
            assert there.tolist() == sample_of(i).tokens.tolist()
        index.write_bytes(before)


def test_every_bit_of_an_index_counts(tmp_path: Path) -> None:
    """Those of its head too, which say what type its values have."""
    fill(open_small(tmp_path), range(30))
    index = segments(tmp_path)[0].with_suffix(".index")
    whole = index.read_bytes()
    for at in range(8 * len(whole)):
        if at % 8 and at > 8 * 1500:  # of the head every bit, then the first one of every byte
            continue
        data = bytearray(whole)
        data[at // 8] ^= 1 << at % 8
        index.write_bytes(data)
        found = read_index(segments(tmp_path)[0])
        if found is not None:  # nothing that counts was hit
            index.write_bytes(whole)
            wanted = read_index(segments(tmp_path)[0])
            assert wanted is not None
            for name in ("hashes", "order", "check", "begin", "length", "finish", "parts"):
                a, b = getattr(found, name), getattr(wanted, name)
                assert a.dtype == b.dtype and np.array_equal(a, b), (name, at)


def test_no_bit_of_a_batch_costs_another_batch(tmp_path: Path) -> None:
    """Not even those that say how long it is."""
    fill(open_small(tmp_path, segment_bytes=10**6), range(12))
    (path,) = segments(tmp_path)
    whole = path.read_bytes()
    begin, end = (int(scan_parts(path, open_small(tmp_path).head)[1].parts[n][0]) for n in PLACE)
    for bit in range(8 * begin, 8 * min(end, begin + 450)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        there = known(open_small(tmp_path, segment_bytes=10**6, writable=False), 12)
        assert set(there) >= set(range(12)) - set(range(4, 8)), bit


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))


def test_a_reader_survives_that_the_writer_cuts_the_file(tmp_path: Path) -> None:
    """A torn tail is cut off by the next writer: under a map, a reader would be killed."""
    fill(open_small(tmp_path, segment_bytes=10**6), range(40))
    path = segments(tmp_path)[-1]
    program = (
        "import os, sys; from pathlib import Path; import malt_fast.store.segments as s\n"
        "from malt_fast.store.store import open_store\n"
        "scan = s.scan\n"
        "def cut(data, head):\n"
        "    os.truncate(sys.argv[1], 100)\n"
        "    yield from scan(data, head)\n"
        "s.scan = cut\n"
        "print(open_store(Path(sys.argv[1]).parent, writable=False).next_row)\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "40\n"
