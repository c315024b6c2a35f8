"""Packs of prefix trees: speed of the layout, tokens saved, and bin packing.

    python benchmarks/bench_packing.py [--questions Q] [--items N] [--json FILE]

- layout: the refiner's DPO data with the paper's shape: n drafts per question, n critiques per
  draft, n refinements per critique, lognormal lengths, random outcomes, all sibling pairs. The
  rival is a trie of Python dicts, which must give the same result token for token but cuts and
  packs nothing. "pair rows" counts both rows of every pair without padding, "own rows" each
  refinement in them once: what other trainers send through the model;
- block map: FlexAttention's block layout of the mask of one pack, against create_block_mask, which
  must find the same blocks; median ms;
- bins: rows of that shape, against TRL's "bfd", called as SFTTrainer does (a thousand rows at a
  time) and on all rows at once, and against multipack (first fit decreasing, the number of bins
  found by bisection, compiled by numba). TRL also moves the tokens of the rows, given as single
  bytes. The lower bound is the sum of the lengths; no method reaches it, as no row is short.

All on one core, except for pyarrow's work for TRL.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numba
import numpy as np
import pyarrow as pa
import torch
from common import environment, interleaved, print_table, write_json
from torch.nn.attention.flex_attention import create_block_mask
from trl import pack_dataset
from trl.data_utils import _pack_bfd

from malt_fast import _core

QUESTION, DRAFT, CRITIQUE, REFINEMENT = 150, 300, 200, 300  # mean tokens
SIGMA = 0.5  # of the lognormal lengths
CAPACITY = 16384
BLOCK = 128


def lengths(rng: np.random.Generator, mean: float, n: int) -> np.ndarray:
    drawn = rng.lognormal(np.log(mean) - SIGMA**2 / 2, SIGMA, n)
    return np.maximum(1, drawn.round()).astype(np.int64)


# --- layout ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workload:
    branching: int
    tokens: np.ndarray  # int32: every prompt and every completion once
    slices: tuple[np.ndarray, ...]  # begin and length of each prompt, then of each completion
    pairs: np.ndarray  # int64[P, 2], chosen and rejected sequence
    questions: int

    @property
    def rows(self) -> np.ndarray:
        return self.slices[1].astype(np.int64) + self.slices[3]

    def lay_out(self, capacity: int) -> _core.packing.Packs:
        return _core.packing.lay_out(self.tokens, *self.slices, self.pairs.ravel(), capacity)


def make_workload(branching: int, questions: int) -> Workload:
    rng = np.random.default_rng(0)
    parts: list[np.ndarray] = []
    columns: list[tuple[int, ...]] = []
    pairs: list[tuple[int, int]] = []
    used = 0

    def segments(mean: int, n: int) -> list[np.ndarray]:
        return [rng.integers(0, 32000, k, dtype=np.int32) for k in lengths(rng, mean, n)]

    def put(tokens: np.ndarray) -> tuple[int, int]:
        nonlocal used
        parts.append(tokens)
        used += tokens.size
        return used - tokens.size, tokens.size

    for _ in range(questions):
        question = segments(QUESTION, 1)[0]
        for draft in segments(DRAFT, branching):
            for critique in segments(CRITIQUE, branching):
                right = rng.random(branching) < 0.5
                if right.all() or not right.any():
                    continue
                first = len(columns)
                prompt = put(np.concatenate([question, draft, critique]))
                columns += [(*prompt, *put(own)) for own in segments(REFINEMENT, branching)]
                pairs += [
                    (first + c, first + r)
                    for c in np.flatnonzero(right)
                    for r in np.flatnonzero(~right)
                ]
    begins_and_lengths = np.array(columns, np.int64).T
    slices = tuple(
        np.ascontiguousarray(column, kind)
        for column, kind in zip(begins_and_lengths, 2 * (np.int64, np.int32), strict=True)
    )
    return Workload(branching, np.concatenate(parts), slices, np.array(pairs), questions)


def lay_out_dicts(work: Workload) -> tuple[list[int], list[int], list[int]]:
    """(token, position, end) of one pack with everything, from a trie of dicts."""
    token: list[int] = []
    position: list[int] = []
    end: list[int] = []
    waiting = [(-1, iter(dict_trie(work).items()))]
    while waiting:
        row, children = waiting[-1]
        child = next(children, None)
        if child is None:
            waiting.pop()
            if row >= 0:
                end[row] = len(token)
            continue
        waiting.append((len(token), iter(child[1].items())))
        token.append(child[0])
        position.append(len(waiting) - 2)
        end.append(0)
    return token, position, end


def dict_trie(work: Workload) -> dict[int, Any]:
    root: dict[int, Any] = {}
    for p, p_len, c, c_len in zip(*work.slices, strict=True):
        node = root
        for t in work.tokens[p : p + p_len].tolist() + work.tokens[c : c + c_len - 1].tolist():
            node = node.setdefault(t, {})
    return root


def check_layout(work: Workload) -> None:
    whole = work.lay_out(2**31 - 1)
    for ours, theirs in zip(
        (whole.token, whole.position, whole.end), lay_out_dicts(work), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    packs = work.lay_out(CAPACITY)
    assert np.diff(packs.begin).max() <= CAPACITY
    assert sorted(packs.link) == list(range(len(work.pairs)))


def measure_layout(work: Workload, repeats: int) -> dict[str, Any]:
    # Not in turns: a million dicts leave a fragmented heap, which slows everything measured later.
    timings = interleaved({"malt_fast": lambda: work.lay_out(CAPACITY)}, 10 * repeats)
    timings |= interleaved({"dicts": lambda: lay_out_dicts(work)}, 1)
    check_layout(work)
    packs = work.lay_out(CAPACITY)
    laid_out, pair_rows, own_rows = packs.token.size, work.rows[work.pairs].sum(), work.rows.sum()
    seconds = timings["malt_fast"]["median_s"]
    return {
        "branching": work.branching,
        "questions": work.questions,
        "pairs": len(work.pairs),
        "packs": len(packs),
        "tokens": {
            "arena": work.tokens.size,
            "laid_out": laid_out,
            "whole_trees": work.lay_out(2**31 - 1).token.size,  # no sequence is cut
            "pair_rows": int(pair_rows),
            "own_rows": int(own_rows),
        },
        "pair_rows_per_laid_out": pair_rows / laid_out,
        "own_rows_per_laid_out": own_rows / laid_out,
        "laid_out_per_second": laid_out / seconds,
        "arena_per_second": work.tokens.size / seconds,
        "dicts_per_second": laid_out / timings["dicts"]["median_s"],
        "timings": timings,
    }


# --- block map ------------------------------------------------------------------------------------


def torch_block_map(end: np.ndarray) -> tuple[np.ndarray, ...]:
    ends = torch.from_numpy(end)
    mask = create_block_mask(
        lambda b, h, q, k: (k <= q) & (q < ends[k]), None, None, end.size, end.size, "cpu", BLOCK
    )
    columns = (mask.kv_num_blocks, mask.kv_indices, mask.full_kv_num_blocks, mask.full_kv_indices)
    return tuple(column[0, 0].numpy() for column in columns if column is not None)


def measure_block_map(work: Workload, tokens: int, repeats: int) -> dict[str, Any]:
    """The fullest pack, cut to whole blocks: create_block_mask never calls a partial block full."""
    packs = work.lay_out(tokens)
    p = int(np.diff(packs.begin).argmax())
    size = int(np.diff(packs.begin)[p]) // BLOCK * BLOCK
    end = np.minimum(packs.end[packs.begin[p] :][:size], size).astype(np.int32)
    ours, theirs = _core.packing.block_map(end, BLOCK), torch_block_map(end)
    for count, index in ((0, 1), (2, 3)):
        np.testing.assert_array_equal(ours[count], theirs[count])
        for row, other, n in zip(ours[index], theirs[index], ours[count], strict=True):
            np.testing.assert_array_equal(row[:n], other[:n])
    timings = interleaved({"malt_fast": lambda: _core.packing.block_map(end, BLOCK)}, 20 * repeats)
    timings |= interleaved({"create_block_mask": lambda: torch_block_map(end)}, min(repeats, 3))
    return {
        "tokens": size,
        "block": BLOCK,
        "blocks_in_part": int(ours[0].sum()),
        "blocks_whole": int(ours[2].sum()),
        "blocks": (size // BLOCK) ** 2,
        "timings": timings,
    }


# --- bins -----------------------------------------------------------------------------------------


def row_lengths(n: int) -> np.ndarray:
    """Lengths of whole rows: question, draft, critique, refinement."""
    rng = np.random.default_rng(0)
    parts = [lengths(rng, mean, n) for mean in (QUESTION, DRAFT, CRITIQUE, REFINEMENT)]
    return np.minimum(np.sum(parts, axis=0), CAPACITY)


@numba.njit
def first_fit(sizes: np.ndarray, capacity: int, bins: int, bin_of: np.ndarray) -> bool:
    room = np.full(bins, capacity)
    for i in range(sizes.size):
        b = 0
        while b < bins and room[b] < sizes[i]:
            b += 1
        if b == bins:
            return False
        room[b] -= sizes[i]
        bin_of[i] = b
    return True


def multipack(sizes: np.ndarray) -> np.ndarray:
    order = np.argsort(-sizes, kind="stable")
    decreasing, found = sizes[order], np.empty(sizes.size, np.int32)
    low = -(-int(sizes.sum()) // CAPACITY)
    high = 2 * low + 1  # first fit decreasing never needs more
    while low < high:
        middle = (low + high) // 2
        if first_fit(decreasing, CAPACITY, middle, found):
            high = middle
        else:
            low = middle + 1
    assert first_fit(decreasing, CAPACITY, high, found)
    bin_of = np.empty_like(found)
    bin_of[order] = found
    return bin_of


def fills(bins: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.bincount(bins, sizes).astype(np.int64)


def measure_bins(items: int, repeats: int) -> dict[str, Any]:
    sizes = row_lengths(items)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    rows = pa.LargeListArray.from_arrays(offsets, np.zeros(offsets[-1], np.int8))
    table = pa.table({"input_ids": rows})
    dataset = datasets.Dataset(table)

    def trl_fills(packed: pa.Table | datasets.Dataset) -> np.ndarray:
        return np.array([sum(pack) for pack in packed["seq_lengths"].to_pylist()])

    packers: dict[str, tuple[Callable[[], Any], Callable[[Any], np.ndarray]]] = {
        "malt_fast": (
            lambda: _core.packing.best_fit_decreasing(sizes, CAPACITY),
            lambda bins: fills(bins, sizes),
        ),
        "multipack, numba": (lambda: multipack(sizes), lambda bins: fills(bins, sizes)),
        "TRL bfd, all rows": (lambda: _pack_bfd(table, CAPACITY), trl_fills),
        "TRL bfd, as called": (
            lambda: pack_dataset(dataset, CAPACITY, "bfd"),
            lambda packed: trl_fills(packed.data.table),
        ),
    }
    timings = interleaved({name: pack for name, (pack, _) in packers.items()}, repeats)
    least = -(-int(sizes.sum()) // CAPACITY)
    for name, (pack, fills_of) in packers.items():
        fill = fills_of(pack())
        assert fill.sum() == sizes.sum() and fill.max() <= CAPACITY
        timings[name] |= {
            "items_per_second": items / timings[name]["median_s"],
            "bins": fill.size,
            "over_lower_bound": fill.size / least - 1,
        }
    return {
        "what": "rows",
        "items": items,
        "capacity": CAPACITY,
        "lower_bound": least,
        "timings": timings,
    }


def measure_many(what: str, sizes: np.ndarray, repeats: int) -> dict[str, Any]:
    """malt_fast alone, at a size that would take its rivals minutes."""
    items = sizes.size
    timings = interleaved(
        {"malt_fast": lambda: _core.packing.best_fit_decreasing(sizes, CAPACITY)}, repeats
    )
    bins = int(_core.packing.best_fit_decreasing(sizes, CAPACITY).max()) + 1
    least = -(-int(sizes.sum()) // CAPACITY)
    timings["malt_fast"] |= {
        "items_per_second": items / timings["malt_fast"]["median_s"],
        "bins": bins,
        "over_lower_bound": bins / least - 1,
    }
    return {
        "what": what,
        "items": items,
        "capacity": CAPACITY,
        "lower_bound": least,
        "timings": timings,
    }


# --- report ---------------------------------------------------------------------------------------


def report_tables(report: dict[str, Any]) -> None:
    rows = []
    for shape in report["layout"]:
        t, ms = shape["tokens"], shape["timings"]["malt_fast"]["median_s"] * 1e3
        counts = [f"{shape[key]:,}" for key in ("pairs", "packs")]
        sizes = [f"{t[key]:,}" for key in ("pair_rows", "own_rows", "laid_out", "whole_trees")]
        ratios = [f"{shape[f'{key}_per_laid_out']:.2f}" for key in ("pair_rows", "own_rows")]
        speeds = [
            f"{shape[f'{key}_per_second'] / 1e6:.1f}" for key in ("laid_out", "arena", "dicts")
        ]
        name = (f"n = {shape['branching']}", f"{shape['questions']} questions")
        rows.append((*name, *counts, *sizes, *ratios, f"{ms:.2f}", *speeds))
    header = ("shape", "", "pairs", "packs", "pair rows", "own rows", "laid out", "uncut")
    header += ("pair x", "own x", "ms", "out M/s", "in M/s", "dicts M/s")
    print_table(f"layout, packs of {CAPACITY:,} tokens", header, rows)

    part = report["block_map"]
    title = f"block map, {part['tokens']:,} tokens, blocks of {part['block']}"
    rows = [
        (name, "", f"{t['median_s'] * 1e3:.3f}", f"{t['q10_s'] * 1e3:.3f}, {t['q90_s'] * 1e3:.3f}")
        for name, t in part["timings"].items()
    ]
    print_table(title, ("method", "", "median ms", "10, 90 %"), rows)

    rows = [
        (
            f"{part['items']:,} {part['what']}",
            name,
            f"{t['median_s'] * 1e3:,.2f}",
            f"{t['items_per_second'] / 1e6:.3f}",
            f"{t['bins']:,}",
            f"{t['over_lower_bound']:.4%}",
        )
        for part in report["bins"]
        for name, t in part["timings"].items()
    ]
    header = ("items", "method", "median ms", "M items/s", "bins", "over the lower bound")
    print_table(f"bins of {CAPACITY:,}", header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--questions", type=int, default=200, help="for n = 3, fewer for others")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--block-tokens", type=int, default=32768)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the report here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()

    shapes = [(n, max(1, args.questions * 27 // n**3)) for n in (3, 5, 8)]
    works = [make_workload(*shape) for shape in shapes]
    refinements = np.minimum(
        lengths(np.random.default_rng(0), REFINEMENT, 10 * args.items), CAPACITY
    )
    report = {
        "benchmark": "packing",
        "environment": environment(("malt-fast", "numpy", "torch", "trl", "datasets", "numba")),
        "layout": [measure_layout(work, args.repeats) for work in works],
        "block_map": measure_block_map(works[0], args.block_tokens, args.repeats),
        "bins": [
            measure_bins(args.items, args.repeats),
            measure_many("rows", row_lengths(10 * args.items), args.repeats),
            measure_many("refinements", refinements, args.repeats),
        ],
    }
    report_tables(report)
    if args.json:
        write_json(args.json, report)


if __name__ == "__main__":
    main()
