"""The store: appending durably, and opening again.

    python benchmarks/bench_store.py [--nodes N] [--tokens T] [--large N] [--json FILE]

Outputs of 0 to 2 T tokens with their log-probs arrive one by one and are made durable (fsync) every
4,096 outputs, the store's default. Opening means to count them and to read a thousand by their
keys. The contenders:

- jsonl: one orjson line per output, one file;
- parquet: one part per commit, as distilabel and others write them;
- sqlite: one row per output, arrays as blobs, WAL, synchronous=NORMAL, a checkpoint per commit;
- malt_fast: the store.

--large also opens a store of that many outputs: its time and memory, those of its trees, and those
of values, examples and pairs of every role after grading.
"""

import argparse
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from common import environment, print_table, resident_bytes, summary, timed, write_json

from malt_fast._core.forest import Forest, credit
from malt_fast.config.schema import PreferencesConfig
from malt_fast.forest.build import build_forest
from malt_fast.forest.file import forest_of, read_forest, save_forest
from malt_fast.forest.preferences import select_examples, select_pairs
from malt_fast.store.segments import Sample
from malt_fast.store.store import Store, open_store

GROUP = 4096
SAMPLED = 1000  # keys looked up after opening
ROUNDS = 3


def make_samples(n: int, mean: int, seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 2 * mean, n, endpoint=True)
    tokens = rng.integers(0, 128_000, int(lengths.sum()), dtype=np.int32)
    logprobs = rng.random(len(tokens), np.float32)
    ends, keys = np.cumsum(lengths), rng.bytes(16 * n)
    return [
        Sample(
            keys[16 * i : 16 * i + 16],
            f"train-{i // 39}",
            (i % 3, i % 9 // 3),
            i % 2,
            tokens[end - length : end],
            logprobs[end - length : end],
        )
        for i, (end, length) in enumerate(zip(ends.tolist(), lengths.tolist(), strict=True))
    ]


def groups(samples: Sequence[Sample]) -> Iterator[Sequence[Sample]]:
    for begin in range(0, len(samples), GROUP):
        yield samples[begin : begin + GROUP]


# --- contenders: append to a folder; open it and read keys ----------------------------------------


def append_store(folder: Path, samples: Sequence[Sample]) -> None:
    store = open_store(folder)
    for sample in samples:
        store.append([sample])
        store.commit_if_due()
    store.commit_all()


def read_store(folder: Path, keys: Sequence[bytes]) -> int:
    store = open_store(folder, writable=False)
    assert all(store.find(keys))
    return store.next_row


def dump_line(sample: Sample) -> bytes:
    row = {
        "key": sample.key.hex(),
        "question": sample.question,
        "path": sample.path,
        "finish": sample.finish,
        "tokens": sample.tokens,
        "logprobs": sample.logprobs,
    }
    return orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def append_jsonl(folder: Path, samples: Sequence[Sample]) -> None:
    folder.mkdir()
    with (folder / "samples.jsonl").open("ab") as file:
        for some in groups(samples):
            file.writelines(dump_line(sample) for sample in some)
            file.flush()
            os.fsync(file.fileno())


def read_jsonl(folder: Path, keys: Sequence[bytes]) -> int:
    wanted, rows = {key.hex() for key in keys}, {}
    n = 0
    with (folder / "samples.jsonl").open("rb") as file:
        for line in file:
            n, row = n + 1, orjson.loads(line)
            if row["key"] in wanted:
                rows[row["key"]] = np.array(row["tokens"], np.int32)
    assert len(rows) == len(keys)
    return n


def append_parquet(folder: Path, samples: Sequence[Sample]) -> None:
    folder.mkdir()
    for number, some in enumerate(groups(samples)):
        table = pa.table(
            {
                "key": [sample.key for sample in some],
                "question": [sample.question for sample in some],
                "path": [sample.path for sample in some],
                "finish": [sample.finish for sample in some],
                "tokens": [sample.tokens for sample in some],
                "logprobs": [sample.logprobs for sample in some],
            }
        )
        path = folder / f"{number:06d}.parquet"
        pq.write_table(table, path)
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def read_parquet(folder: Path, keys: Sequence[bytes]) -> int:
    paths = sorted(folder.glob("*.parquet"))
    place = {
        key: (part, i)
        for part, path in enumerate(paths)
        for i, key in enumerate(pq.read_table(path, columns=["key"])["key"].to_pylist())
    }
    wanted: dict[int, list[int]] = {}
    for key in keys:
        part, i = place[key]
        wanted.setdefault(part, []).append(i)
    for part, rows in wanted.items():
        tokens = pq.read_table(paths[part], columns=["tokens"])["tokens"]
        assert all(tokens[i].as_py() is not None for i in rows)
    return len(place)


def append_sqlite(folder: Path, samples: Sequence[Sample]) -> None:
    folder.mkdir()
    base = sqlite3.connect(folder / "samples.db")
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("PRAGMA synchronous=NORMAL")
    base.execute(
        "CREATE TABLE samples (key BLOB PRIMARY KEY, question TEXT, path TEXT, finish INTEGER, "
        "tokens BLOB, logprobs BLOB) WITHOUT ROWID"
    )
    for some in groups(samples):
        with base:
            base.executemany(
                "INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (s.key, s.question, str(s.path), s.finish, s.tokens.data, s.logprobs.data)
                    for s in some
                ],
            )
        base.execute("PRAGMA wal_checkpoint(PASSIVE)")  # syncs, like the others
    base.close()


def read_sqlite(folder: Path, keys: Sequence[bytes]) -> int:
    base = sqlite3.connect(folder / "samples.db")
    for key in keys:
        (tokens,) = base.execute("SELECT tokens FROM samples WHERE key = ?", (key,)).fetchone()
        np.frombuffer(tokens, np.int32)
    (n,) = base.execute("SELECT count(*) FROM samples").fetchone()
    base.close()
    return int(n)


Ways = tuple[Callable[[Path, Sequence[Sample]], None], Callable[[Path, Sequence[bytes]], int]]
CONTENDERS: dict[str, Ways] = {
    "malt_fast": (append_store, read_store),
    "jsonl": (append_jsonl, read_jsonl),
    "parquet": (append_parquet, read_parquet),
    "sqlite": (append_sqlite, read_sqlite),
}


def compare(samples: Sequence[Sample], work: Path) -> dict[str, Any]:
    """In turns; each round writes to a fresh folder."""
    rng = np.random.default_rng(1)
    keys = [samples[i].key for i in rng.choice(len(samples), SAMPLED, replace=False)]
    appends: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    opens: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    size: dict[str, int] = {}
    for _ in range(ROUNDS):
        for name, (append, read) in CONTENDERS.items():
            folder = work / name
            shutil.rmtree(folder, ignore_errors=True)
            appends[name].append(timed(lambda a=append, f=folder: a(f, samples)))
            counted: list[int] = []
            opens[name].append(timed(lambda r=read, f=folder, c=counted: c.append(r(f, keys))))
            assert counted == [len(samples)], (name, counted)
            size[name] = sum(path.stat().st_size for path in folder.iterdir())
    return {
        name: {
            "append": summary(appends[name]),
            "nodes_per_s": len(samples) / float(np.median(appends[name])),
            "open": summary(opens[name]),
            "bytes": size[name],
        }
        for name in CONTENDERS
    }


def large(nodes: int, mean: int, work: Path) -> dict[str, Any]:
    """A large store: append, open; save and open trees over it."""
    folder = work / "large"
    store = open_store(folder)
    begun, written = time.perf_counter(), 0
    block, keys = make_samples(100_000, mean), np.random.default_rng(2)
    while written < nodes:
        names = keys.bytes(16 * len(block))
        for i, sample in enumerate(block):
            object.__setattr__(sample, "key", names[16 * i : 16 * i + 16])
        store.append(block)
        store.commit_if_due()
        written += len(block)
    store.commit_all()
    append_s = time.perf_counter() - begun
    shape = [-1] * 3 + [i // 3 for i in range(9)] + [3 + i // 3 for i in range(27)]
    trees = nodes // len(shape)
    rows = np.full((trees, 1 + len(shape)), -1, np.int64)
    rows[:, 1:] = np.arange(trees * len(shape)).reshape(trees, -1)
    forest = build_forest(shape, trees, rows.ravel(), store)
    assert forest is not None
    save_forest(work / "forest.arrows", forest, store, "", "", shape, rows.ravel(), "")
    del forest, store, rows
    before = resident_bytes()
    opened: list[Store] = []
    seconds = [
        timed(lambda: (opened.clear(), opened.append(open_store(folder, writable=False))))
        for _ in range(ROUNDS)
    ]
    held = resident_bytes() - before
    reader = opened[0]
    file = read_forest(work / "forest.arrows", reader)
    assert file is not None
    first = timed(lambda: forest_of(file, reader))  # reads and checks every batch
    again = [timed(lambda: forest_of(file, reader)) for _ in range(ROUNDS)]
    graded = forest_of(file, reader)
    assert graded is not None
    leaves = np.flatnonzero(graded.level == 3).astype(np.uint32)
    outcomes = np.random.default_rng(3).integers(0, 2, len(leaves), np.uint8)
    graded.set_outcomes(leaves, outcomes)
    return {
        "nodes": reader.next_row,
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "append_nodes_per_s": written / append_s,
        "open": summary(seconds),
        "open_resident_bytes": held,
        "trees_checking_every_batch_s": first,
        "trees": summary(again),
        "pair_again": summary([timed(lambda: pair(graded)) for _ in range(ROUNDS)]),
    }


def pair(forest: Forest) -> None:
    """What is computed again after a change of θ or of the pair policy."""
    values, preferences = credit(forest), PreferencesConfig()
    for level in (1, 2, 3):
        select_examples(forest, values, level, preferences, seed=0)
        select_pairs(forest, values, level, preferences, seed=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--tokens", type=int, default=100, help="mean tokens per output")
    parser.add_argument("--large", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("build/bench_store"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    packages = ("malt-fast", "numpy", "pyarrow", "orjson")
    report: dict[str, Any] = {
        "environment": environment(packages) | {"sqlite": sqlite3.sqlite_version},
        "nodes": args.nodes,
        "mean_tokens": args.tokens,
        "contenders": compare(make_samples(args.nodes, args.tokens), args.work),
    }
    ours = report["contenders"]["malt_fast"]
    print_table(
        f"{args.nodes:,} outputs of {args.tokens} tokens, synced every {GROUP}",
        ["", "", "nodes/s", "of ours", "open ms", "of ours", "bytes per node"],
        [
            [
                name,
                "",
                f"{figures['nodes_per_s']:,.0f}",
                f"{figures['nodes_per_s'] / ours['nodes_per_s']:.2f}x",
                f"{1000 * figures['open']['median_s']:,.0f}",
                f"{figures['open']['median_s'] / ours['open']['median_s']:,.1f}x",
                f"{figures['bytes'] / args.nodes:,.0f}",
            ]
            for name, figures in report["contenders"].items()
        ],
    )
    if args.large:
        report["large"] = large(args.large, args.tokens, args.work)
        print(json.dumps(report["large"], indent=2))
    shutil.rmtree(args.work)
    if args.json:
        write_json(args.json, report)


if __name__ == "__main__":
    main()
