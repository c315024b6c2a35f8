"""Grading against math-verify: agreement with labels, time per pair, hostile strings, mutations.

    python benchmarks/bench_grading.py --data DIR [--mutations N] [--repeats R] [--json FILE]

DIR holds JSONL files of labelled pairs (`gold`, `prediction`, `expected` 1, 0 or null). Contenders
grade the same pairs in one process, in turns:

- malt_fast: `grade_with_reasons`, batch by batch; math-verify's workers are warm;
- its core alone: extraction and comparison, repeated and timed pair by pair;
- math_verify: as its README recommends: LaTeX with boxes first, then plain expressions; bare
  strings in dollar signs; its own time limits.

Hostile strings are timed one by one, with the core and with the whole grader. Mutations are real
pairs and pieces of formulas, cut, repeated and mixed: none may raise an error. Golds changed in one
place (grading_changes.py) may not equal themselves. `kinds.jsonl` is counted kind by kind; its rows
name their task, and whether they are an answer or a completion.

--gsm8k FILE adds the golds of GSM8K's questions to those that are changed.
"""

import argparse
import json
import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import environment, interleaved, print_table, timed, write_json
from grading_changes import count_equal
from math_verify import parse, verify
from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig

from malt_fast import _core
from malt_fast.grading.verdicts import (
    RIGHT,
    UNKNOWN,
    VERDICTS,
    answers_equal,
    gold_answer,
    grade,
    grade_with_reasons,
)

REAL = ("gsm8k_openai_solutions", "gsm8k_tora", "math500_gpt", "math500_qwen3", "math_mathcoder")
ONCE = 200  # times the core grades a pair to be timed
CONFIGS = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
PIECES = [r"\frac{", r"\boxed{", r"\sqrt[", "Final Answer:", "####", r"\cup", r"\left(", "^{", "}"]


@dataclass(frozen=True)
class Pairs:
    """Labelled pairs of one file."""

    name: str
    golds: list[str]
    texts: list[str]
    expected: np.ndarray  # bool[n]

    @property
    def grader(self) -> str:
        return "number" if self.name.startswith("gsm8k") else "math"


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def load(folder: Path) -> list[Pairs]:
    out = []
    for path in sorted(folder.glob("*.jsonl")):
        if path.stem == "kinds":
            continue
        rows = read(path)
        rows = [row for row in rows if row.get("expected") is not None]
        if rows:
            expected = np.array([row["expected"] for row in rows], bool)
            golds, texts = [row["gold"] for row in rows], [row["prediction"] for row in rows]
            out.append(Pairs(path.stem, golds, texts, expected))
    return out


# ---- the contenders ----


def ours(pairs: Pairs) -> np.ndarray:
    return grade_with_reasons(pairs.grader, pairs.texts, pairs.golds) == RIGHT


def math_verify(pairs: Pairs) -> np.ndarray:
    return np.array(
        [math_verify_accepts(g, t) for g, t in zip(pairs.golds, pairs.texts, strict=True)]
    )


def math_verify_accepts(gold: str, text: str) -> bool:
    try:
        return bool(verify(parse(wrapped(gold), CONFIGS), parse(wrapped(text), CONFIGS)))
    except Exception:
        return False


def wrapped(text: str) -> str:
    plain = "$" not in text and "\\boxed" not in text and len(text) < 200
    return f"${text}$" if plain else text


def core_times(pairs: Pairs) -> np.ndarray:
    """Microseconds float[n] of extraction and comparison of each pair, without other Python."""
    out = []
    for gold, text in zip(pairs.golds, pairs.texts, strict=True):
        wanted, texts = [gold_answer(pairs.grader, gold)] * ONCE, [text] * ONCE
        start = time.perf_counter()
        answers = _core.answers.extract_answers(pairs.grader, texts)
        half = time.perf_counter()
        said = [answer or "" for answer in answers]
        again = time.perf_counter()
        _core.answers.compare_answers(pairs.grader, wanted, said)
        out.append((half - start + time.perf_counter() - again) / ONCE * 1e6)
    return np.array(out)


def decided(pairs: Pairs) -> float:
    """Share of pairs that the core decides itself."""
    answers = _core.answers.extract_answers(pairs.grader, pairs.texts)
    wanted = [gold_answer(pairs.grader, gold) for gold in pairs.golds]
    verdicts = _core.answers.compare_answers(
        pairs.grader, wanted, [answer or "" for answer in answers]
    )
    return float(np.mean(verdicts != UNKNOWN))


# ---- what is measured ----


def by_kind(rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Of each kind: how many rows, wrong ones called right, right ones called wrong."""
    out: dict[str, dict[str, int]] = {}
    for row in rows:
        pair = row["prediction"], row["gold"]
        right = (
            answers_equal(row["task"], *pair)
            if row["kind"] == "answer"
            else bool(grade(row["task"], [pair[0]], [pair[1]])[0])
        )
        one = out.setdefault(
            row["why"].split(": ")[0], {"rows": 0, "false_positives": 0, "false_negatives": 0}
        )
        one["rows"] += 1
        one["false_positives"] += right and not row["expected"]
        one["false_negatives"] += bool(row["expected"]) and not right
    return out


def golds_of(all_pairs: list[Pairs], gsm8k: Path | None) -> list[tuple[str, str]]:
    """(grader, gold) of all files, each once."""
    found = {(p.grader, gold_answer(p.grader, gold)) for p in all_pairs for gold in p.golds}
    rows = read(gsm8k) if gsm8k else []
    numbers = {gold_answer("number", row["answer"]) for row in rows}
    return sorted(found | {(grader, n) for n in numbers for grader in ("number", "math")})


def agreement(verdicts: np.ndarray, pairs: Pairs) -> dict[str, Any]:
    return {
        "agreement": float(np.mean(verdicts == pairs.expected)),
        "false_positives": int(np.sum(verdicts & ~pairs.expected)),
        "false_negatives": int(np.sum(~verdicts & pairs.expected)),
    }


def measure(pairs: Pairs, repeats: int) -> dict[str, Any]:
    contenders: dict[str, Callable[[], object]] = {
        "malt_fast": lambda: ours(pairs),
        "math_verify": lambda: math_verify(pairs),
    }
    times, core = interleaved(contenders, repeats), core_times(pairs)
    return {
        "pairs": len(pairs.golds),
        "malt_fast": times["malt_fast"] | agreement(ours(pairs), pairs),
        "math_verify": times["math_verify"] | agreement(math_verify(pairs), pairs),
        "ratio": times["math_verify"]["median_s"] / times["malt_fast"]["median_s"],
        "core_us": dict(
            zip(("median", "q90", "max"), np.quantile(core, [0.5, 0.9, 1]).tolist(), strict=True)
        ),
        "decided_by_core": decided(pairs),
    }


def hostile(pairs: Pairs) -> list[dict[str, Any]]:
    """For each string: milliseconds of the core and of the whole grader, and the verdict."""
    out = []
    for gold, text in zip(pairs.golds, pairs.texts, strict=True):
        verdicts: list[int] = []

        def whole(gold: str = gold, text: str = text, verdicts: list[int] = verdicts) -> None:
            verdicts.extend(grade_with_reasons("math", [text], [gold]).tolist())

        core = float(core_times(Pairs("", [gold], [text], pairs.expected))[0]) / 1e3
        out.append(
            {
                "text": text[:40],
                "core_ms": core,
                "whole_ms": 1e3 * timed(whole),
                "verdict": VERDICTS[verdicts[0]],
            }
        )
    return out


def mutated(all_pairs: list[Pairs], number: int) -> Iterator[tuple[list[str], list[str]]]:
    """Batches of (golds, completions): cut, repeated, mixed and sprinkled with odd characters."""
    rng = random.Random(0)
    golds = [gold for pairs in all_pairs for gold in pairs.golds]
    texts = [text[-400:] for pairs in all_pairs for text in pairs.texts]

    def mutate(text: str) -> str:
        for _ in range(rng.randint(0, 3)):
            i, j = sorted(rng.randrange(len(text) + 1) for _ in range(2))
            odd = chr(rng.choice([*range(128), 0xA0, 0x2212, 0xFF15, 0x202E, 0xD800, 0x1D7D8]))
            middle = rng.choice(["", odd, text[i:j] * 2, rng.choice(PIECES), rng.choice(golds)])
            text = text[:i] + middle + text[j:]
        return text

    for begin in range(0, number, 10_000):
        n = min(10_000, number - begin)
        yield (
            [mutate(rng.choice(golds)) for _ in range(n)],
            [mutate(rng.choice(texts)) for _ in range(n)],
        )


def survive(all_pairs: list[Pairs], number: int) -> dict[str, Any]:
    """Grade mutations with the core; an exception ends the benchmark."""
    counts = np.zeros(3, np.int64)
    slowest = 0.0
    for golds, texts in mutated(all_pairs, number):
        for grader in ("math", "number", "choice", "exact"):
            start = time.perf_counter()
            answers = _core.answers.extract_answers(grader, texts)
            verdicts = _core.answers.compare_answers(
                grader, golds, [answer or "" for answer in answers]
            )
            slowest = max(slowest, time.perf_counter() - start)
            if grader == "math":
                counts += np.bincount(verdicts, minlength=3)
    keys = ("different", "equal", "cannot tell")
    return {"strings": number, "slowest_batch_s": slowest} | dict(
        zip(keys, counts.tolist(), strict=True)
    )


def show(report: dict[str, Any]) -> None:
    rows = [
        [
            name,
            "real" if name in REAL else "made",
            f"{r['pairs']:,}",
            *(
                f"{100 * r[who]['agreement']:.2f} ({r[who]['false_negatives']}/"
                f"{r[who]['false_positives']})"
                for who in ("malt_fast", "math_verify")
            ),
            f"{r['core_us']['median']:.2f}",
            f"{100 * r['decided_by_core']:.1f}",
            f"{r['ratio']:,.0f}x",
        ]
        for name, r in report["files"].items()
    ]
    header = ["file", "kind", "pairs", "malt_fast %", "math_verify %"]
    header += ["core us, median", "decided %", "math_verify's time"]
    print_table("agreement with labels (false negatives/positives), time", header, rows)
    slow = sorted(report["hostile"], key=lambda row: -row["whole_ms"])[:6]
    print_table(
        f"the slowest of {len(report['hostile'])} hostile strings",
        ["text", "verdict", "core ms", "whole ms"],
        [
            [ascii(r["text"]), r["verdict"], f"{r['core_ms']:.3f}", f"{r['whole_ms']:.1f}"]
            for r in slow
        ],
    )
    print("mutations:", report["mutations"])
    wrong = {k: v for k, v in report["kinds"].items() if sum(v.values()) > v["rows"]}
    rows = [[k, *map(str, v.values())] for k, v in wrong.items()]
    print_table(
        f"kinds with faults, of {len(report['kinds'])}",
        ["kind", "rows", "wrong called right", "right called wrong"],
        rows,
    )
    print("changed golds called equal:", report["changes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--changes", type=int, default=20_000)
    parser.add_argument("--gsm8k", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    grade_with_reasons("math", [r"\boxed{x}"], [r"\sqrt{x^2}"])  # starts the workers
    files = load(options.data)
    attack = next((pairs for pairs in files if pairs.name == "adversarial"), None)
    benign = [pairs for pairs in files if pairs.name != "adversarial"]
    report = {
        "environment": environment(("malt-fast", "math-verify", "sympy")),
        "files": {pairs.name: measure(pairs, options.repeats) for pairs in benign},
        "hostile": hostile(attack) if attack else [],
        "mutations": survive(files, options.mutations),
        "kinds": by_kind(read(options.data / "kinds.jsonl")),
        "changes": count_equal(golds_of(files, options.gsm8k), options.changes),
    }
    show(report)
    if options.json:
        write_json(options.json, report)


if __name__ == "__main__":
    main()
