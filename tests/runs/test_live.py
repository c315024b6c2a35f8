"""What a terminal shows while stages work, and a log instead of it."""

import errno
import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from malt_fast._core.forest import credit
from malt_fast.engines import Completion
from malt_fast.forest.yields import tree_yield, unlimited, yield_rows
from malt_fast.runs import live_view as live
from malt_fast.runs.live_view import Place, View, view
from malt_fast.sampling.progress import SamplingFacts
from malt_fast.training.train_role import training_facts
from tests.small_run import FAST, load_forest, run


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(thing: Any, width: int = 110) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    console.print(thing)
    out: Any = console.file
    return str(out.getvalue())


def completion(node: int, tokens: int = 3) -> Completion:
    return Completion(node, np.ones(tokens, np.int32), np.zeros(tokens, np.float32), "stop")


class Engine:
    def figures(self) -> dict[str, float]:
        return {"prefix_cache_hits": 0.641, "reused": 1200}


def test_a_view_tells_steps_speed_facts_and_time_left() -> None:
    clock = Clock()
    console = Console(file=io.StringIO(), force_terminal=True, width=110)
    one = View(console, "sample [/] round 0", 4000, lambda: ["a · b", "", "c"], clock)
    for _ in range(10):
        clock.now += 1
        one.advance(100, tokens=2500)
    first, second, third, *rest = shown(one).splitlines()
    assert re.match(r"sample \[/\] round 0 .*1,000/4,000 0:00:30", first)
    assert second.rstrip() == "  2,500 tokens/s · a · b" and third.rstrip() == "  c" and not rest
    assert one.line() == (
        "sample [/] round 0: 1,000/4,000, 0:00:30 left · 2,500 tokens/s · a · b · c"
    )


def test_a_view_tells_where_its_run_is() -> None:
    clock = Clock()
    clock.now = 100
    console = Console(file=io.StringIO(), force_terminal=True)
    one = View(console, "sft", 40, tuple, clock, Place(40.0, 3, 12, 600.0))
    assert one.lines() == ["stage 3 of 12 · 0:01:00 elapsed"]
    for _ in range(10):
        clock.now += 1
        one.advance(1)
    assert one.lines() == ["stage 3 of 12 · 0:01:10 elapsed · about 0:10:30 left"]
    assert Place(0.0).line(5.0, 7.0) == "0:00:05 elapsed"


def test_lines_are_not_wider_than_the_terminal() -> None:
    clock = Clock()
    console = Console(file=io.StringIO(), force_terminal=True)
    one = View(console, "sample round 0 for generator", 10**6, lambda: ["x " * 200], clock)
    one.advance(5)
    lines = shown(one, 80).splitlines()
    assert len(lines) == 2 and max(map(len, lines)) <= 80


def test_a_view_without_a_total_or_facts() -> None:
    one = View(Console(file=io.StringIO()), "sft", None, tuple, Clock())
    assert one.line() == "sft: 0/?"
    one.advance(at=3, total=50)
    assert one.line() == "sft: 3/50"
    one.advance(tokens=5)
    assert "3/50" in shown(one)


def test_a_log_has_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, width=160)
    monkeypatch.setattr(live, "View", lambda *given, **named: View(*given, **named, clock=clock))
    with view(console, "sample", 1000, lambda: ["trees: 9 open"]) as one:
        for _ in range(250):
            clock.now += 1
            one.advance(2)
    lines = out.getvalue().splitlines()
    assert len(lines) == 4 and lines[0].startswith("sample: 120/1,000, 0:0")
    assert all(line.endswith("left · trees: 9 open") for line in lines)


def test_trees_are_open_until_their_last_output_is_settled() -> None:
    one = View(Console(file=io.StringIO(), force_terminal=True), "s", 30, tuple, Clock())
    facts = SamplingFacts(3, lambda *_: None)
    assert facts() == ["trees: 0 open, 0 done"]
    engine: Any = Engine()
    facts.see(one, [completion(1), completion(5), Completion.failed(6, "gone")], [6, 7], engine)
    assert (facts.open, facts.done) == (1, 1)
    facts.see(one, [completion(2), completion(3), completion(9)], [], engine)
    assert facts()[0] == (
        "64 % of prompt tokens cached · trees: 1 open, 2 done · 1,200 outputs known before"
        " · 2 outputs failed"
    )
    assert "7/30" in one.line()
    assert facts.left == {2: 2}


def test_the_speed_is_of_what_was_not_known() -> None:
    clock = Clock()
    one = View(Console(file=io.StringIO(), force_terminal=True), "s", 60, tuple, clock)
    facts, engine, seen = SamplingFacts(3, lambda *_: None), Engine(), []
    known = [0, 0, 30, 30, 30]  # counted when asked for, and come with the next calls
    for call, tokens in enumerate(known):
        clock.now += 1
        engine.figures = lambda told=tokens: {"reused": told // 3, "reused_tokens": told}  # type: ignore[method-assign]
        nodes = range(12 * call, 12 * call + 10)
        facts.see(one, [completion(n) for n in nodes if n % 4], [], engine)  # type: ignore[arg-type]
        seen.append((facts.tokens, facts.sampled))
    assert seen == [(21, 21), (42, 42), (63, 42), (84, 54), (105, 75)]


def test_training_tells_what_its_stage_has() -> None:
    sft, dpo = {"loss": 0.5, "step": 3}, {"rewards/accuracies": 0.75, "rewards/margins": 1.5}
    assert training_facts(sft) == ["loss 0.500"]
    assert training_facts(sft | dpo) == ["loss 0.500 · accuracy 0.750 · margin 1.500"]
    assert training_facts({}) == [""]


def test_a_run_in_a_terminal(made: tuple[Path, Path], tmp_path: Path) -> None:
    """Its view is seen, and gone in the end; what it has told of the whole forest is true."""
    data, model = made
    options = ["--task.name", "jsonl", "--task.path", str(data), "--task.grader", "number"]
    options += ["--model.name_or_path", str(model), "--run", str(tmp_path / "run"), *FAST]
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "malt_fast.train", *options, "--engine.batch_size", "4"]
    size = {"COLUMNS": "120", "LINES": "40", "TERM": "xterm-256color"}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, **size}
    )
    os.close(theirs)
    text = re.sub(r"\x1b\[[0-9;]*m", "", _read(ours).decode(errors="replace"))
    assert process.wait() == 0, text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 2  # the cursor, hidden for a view
    sampling = re.findall(
        r"([\d,]+) tokens/s · (\d+) % of prompt tokens cached · trees: (\d+) open", text
    )
    assert sampling
    assert re.search(r"so far (about )?\d+ generator examples, \d+ verifier pairs", text)
    assert re.search(r"sft generator .*\d+/2 ", text)
    assert re.search(r"loss \d\.\d{3}", text)
    after = text.rpartition("\x1b[?25h")[2]
    assert "report:" in after and "trees:" not in after


def _read(terminal: int) -> bytes:
    """All that is written there, until nobody has it open."""
    parts = []
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError as error:
            assert error.errno == errno.EIO
            part = b""
        if not part:
            os.close(terminal)
            return b"".join(parts)
        parts.append(part)


def test_the_last_view_is_what_the_forest_yields(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of its trees are counted here, so nothing is estimated."""
    told: list[SamplingFacts] = []
    monkeypatch.setattr("malt_fast.method.evaluate_run", lambda *_: None)

    def keep(*given: Any) -> SamplingFacts:
        told.append(SamplingFacts(*given))
        return told[-1]

    monkeypatch.setattr("malt_fast.sampling.round_forest.SamplingFacts", keep)
    limits = ["--preferences.max_pairs", "3", "--preferences.max_examples", "2"]
    assert run(*made, tmp_path / "run", *limits) == 0
    (facts,) = told
    assert (facts.open, facts.done) == (0, 18)
    from malt_fast.config.load import load_config_file

    config = load_config_file(tmp_path / "run" / "config.yaml")
    forest = load_forest(tmp_path / "run")
    values = credit(forest, (1, 2), False)
    rows = {row.role: row for row in yield_rows(forest, values, unlimited(config))}
    counts = f"{rows['generator'].examples:,} generator examples, " + ", ".join(
        f"{rows[role].pairs:,} {role} pairs" for role in ("verifier", "refiner")
    )
    assert facts()[1].startswith(f"so far {counts} · ")
    assert set(tree_yield(forest, values, config).values()) == {
        rows["generator"].examples, rows["verifier"].pairs, rows["refiner"].pairs,
    }  # fmt: skip
    assert rows["refiner"].pairs > 3
