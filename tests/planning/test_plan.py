"""The plan against what the run then does; its parts against plain counting."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from malt_fast import method
from malt_fast.config.load import load_config_file, make_config
from malt_fast.planning import plan, probe
from malt_fast.planning.plan import forests_of, trie_size
from malt_fast.planning.plan_facts import facts_of
from malt_fast.planning.plan_file import Row, read_plan, summary
from malt_fast.planning.probe import steady_speed
from malt_fast.planning.schedule import schedule, stage_names
from malt_fast.results.write_report import write_report
from malt_fast.runs import live_view
from malt_fast.runs.live_view import Place
from malt_fast.runs.run import Run
from malt_fast.store.store import open_store
from tests.small_run import run


def figures(folder: Path) -> dict[tuple[str, str, str], Row]:
    return {(row.stage, row.role, row.quantity): row for row in read_plan(folder)[1]}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=12))
def test_a_trie_has_a_token_for_every_distinct_prefix(sequences: list[list[int]]) -> None:
    prefixes = {tuple(s[:i]) for s in sequences for i in range(1, len(s) + 1)}
    assert trie_size([np.array(s, np.int32) for s in sequences]) == len(prefixes)


def test_the_speed_leaves_out_the_start_and_the_stragglers() -> None:
    steady = [(100.0 + i, 10) for i in range(100)]
    assert steady_speed(steady) == pytest.approx(10)
    assert steady_speed([(0.0, 10), *steady, (9999.0, 1)]) == pytest.approx(10, rel=0.05)
    assert steady_speed([]) is None and steady_speed([(1.0, 5)] * 9) is None


def test_forests_own_what_their_policies_change() -> None:
    config = make_config({"train": {"rounds": 2}})
    assert list(forests_of(config)) == [("round 0 forest", 1), ("round 1 forest", 1)]
    config = make_config({"train": {"regenerate": "sequential"}})
    assert [own for _, own in forests_of(config)] == [1, 1, 2]


def test_a_plan_of_all_questions_is_what_comes(made: tuple[Path, Path], tmp_path: Path) -> None:
    data, model = made
    folder, more = tmp_path / "run", ["--train.sft.max_steps", "-1", "--train.dpo.max_steps", "-1"]
    assert run(data, model, folder, "--plan", "18", *more) == 0
    assert not (folder / "adapters").exists() and not (folder / "evaluation.json").exists()
    sampled = open_store(folder / "samples", writable=False).next_row
    assert sampled == 18 * 21
    assert run(data, model, folder, *more) == 0
    logged = next(line for line in lines(folder) if line["stage"] == "sample round 0")
    assert logged["reused"] == sampled  # the run uses the whole probe
    found = figures(folder)
    exact = [row for (stage, _, what), row in found.items() if stage.startswith(("round", "data"))]
    assert len(exact) == 2 * 3 + 3 + 2 and all(row.plan == row.fact for row in exact)
    assert found["evaluate", "", "outputs"].plan == found["evaluate", "", "outputs"].fact
    for stage in ("sampling", "grading", "sft verifier", "dpo refiner", "evaluate", "all"):
        row = found[stage, stage.partition(" ")[2], "time"]
        assert row.plan > 0 and row.fact > 0, row
    summed = sum(row.fact for (_, _, what), row in found.items() if what == "time")
    assert found["all", "", "time"].fact == pytest.approx(summed / 2)
    for stage, what in (("sampling", "peak memory"), ("training", "peak memory")):
        assert found[stage, "", what].fact == pytest.approx(found[stage, "", what].plan, rel=0.9)
    stored = sum(file.stat().st_size for file in (folder / "samples").glob("*.arrows"))
    assert found["disk", "", "samples"].fact == stored / 1e6
    packs = [line for line in lines(folder) if line["stage"] == "dpo/refiner"][-1]["num_tokens"]
    planned = found["dpo refiner", "refiner", "tokens as packs"].plan
    assert planned == pytest.approx(packs, rel=0.1)
    page = (folder / "report.html").read_text()
    assert "Plan and fact" in page and "round 0 forest" in page


def test_a_plan_of_some_questions_is_near(made: tuple[Path, Path], tmp_path: Path) -> None:
    data, model = made
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    many = [row | {"question": f"{row['question']} {i}"} for i in range(15) for row in rows]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many))
    folder = tmp_path / "run"
    few = ["--evaluate.limit", "5", "--train.dpo_roles", "verifier,refiner"]
    assert run(tmp_path / "q.jsonl", model, folder, "--plan", "90", *few) == 0
    assert run(tmp_path / "q.jsonl", model, folder, *few) == 0
    for (stage, _, what), row in figures(folder).items():
        if stage.startswith(("round", "data")):
            assert row.fact == pytest.approx(row.plan, rel=0.35), (stage, what)
        if "measured" in row.source:
            assert "90 of 2" in row.source
    caps = tmp_path / "capped"
    few += ["--preferences.max_pairs", "7", "--preferences.max_examples", "5"]
    assert run(tmp_path / "q.jsonl", model, caps, "--plan", "30", "--reuse", str(folder), *few) == 0
    found = figures(caps)
    assert found["data", "refiner", "pairs"].plan == 7
    assert found["data", "generator", "examples"].plan == 5


def test_a_long_run_begins_with_its_plan(made, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(method, "evaluate_run", lambda *_: None)
    monkeypatch.setattr(plan, "LONG", 10)
    assert run(*made, tmp_path / "long") == 0
    assert read_plan(tmp_path / "long")[1]
    other = ["--tree.threshold", "0.6", "--overwrite"]
    for more, probes in (([], 1), (other, 2), (other, 2), ([*other, "--plan"], 3)):
        assert run(*made, tmp_path / "long", *more) == 0
        assert [one["stage"] for one in lines(tmp_path / "long")].count("probe") == probes, more
    monkeypatch.setattr(plan, "LONG", 100)
    assert run(*made, tmp_path / "short") == 0
    assert not (tmp_path / "short" / "plan.json").exists()


def test_a_plan_of_known_outputs_takes_the_speed_of_the_one_before(made, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run(*made, folder, "--plan") == 0
    first = figures(folder)["sampling", "", "time"]
    assert run(*made, folder, "--plan") == 0
    assert figures(folder)["sampling", "", "time"] == first
    (folder / "plan.json").unlink()
    assert run(*made, folder, "--plan") == 0
    found = figures(folder)
    assert ("sampling", "", "time") not in found
    assert "without the report, sampling and evaluation" in found["all", "", "time"].source


def test_a_random_model_that_teaches_nothing_is_planned(made, tmp_path: Path, capsys) -> None:
    rows = [{"question": f"never {i}", "answer": "77"} for i in range(20)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(tmp_path / "q.jsonl", made[1], tmp_path / "run", "--plan=9") == 0
    found = figures(tmp_path / "run")
    assert found["data", "refiner", "examples"].plan == 0
    assert found["round 0 forest", "refiner", "outputs"].plan == 12 * 18
    assert not any(row.stage.startswith("sft") for row in found.values())
    assert "what the run will take" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--plan", "0"], ["--plan", "-3"], ["--plan", "many"]])
def test_mistakes_are_one_sentence(made, tmp_path: Path, capsys, words: list[str]) -> None:
    assert run(*made, tmp_path / "run", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "plan" in error and not (tmp_path / "run").exists()


def test_ctrl_c_in_the_probe_keeps_what_was_sampled(made, tmp_path: Path, monkeypatch) -> None:
    import os
    import signal

    grow, calls = probe.sample, []

    def stopping(*arguments: Any, on_done: Any, **named: Any) -> Any:
        def stop(*settled: Any) -> None:
            calls.append(settled)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGINT)
            on_done(*settled)

        return grow(*arguments, on_done=stop, **named)

    monkeypatch.setattr(probe, "sample", stopping)
    assert run(*made, tmp_path / "run", "--plan", "--engine.batch_size", "8") == 130
    assert open_store(tmp_path / "run" / "samples", writable=False).next_row > 0


def test_facts_of_two_rounds_and_of_what_was_done_again() -> None:
    lines = [
        {"stage": "sample round 0", "seconds": 3600.0, "peak_memory_mb": 500},
        {"stage": "sample round 0", "seconds": 1800.0, "peak_memory_mb": 400},
        {"stage": "sft/verifier", "loss": 1.0},
        {"stage": "sft verifier", "seconds": 360.0, "peak_memory_mb": 800, "peak_gpu_memory_mb": 9},
        {"stage": "sample round 1", "seconds": 1800.0, "peak_memory_mb": 800},
        {"stage": "sft verifier", "seconds": 360.0, "peak_memory_mb": 900, "peak_gpu_memory_mb": 7},
        *({"stage": "evaluate", "seconds": s, "outputs": 5, "tokens": 50} for s in (720.0, 360.0)),
    ]
    found = facts_of(lines)
    assert found["sampling", "", "time"] == 2 and found["sft verifier", "verifier", "time"] == 0.2
    assert found["evaluate", "", "time"] == 0.1 and found["all", "", "time"] == pytest.approx(2.3)
    assert found["sampling", "", "peak memory"] == 500  # before training took more
    assert found["training", "", "peak memory"] == 900
    assert found["training", "", "peak GPU memory"] == 9


def test_stages_log_the_memory_of_a_gpu(tmp_path: Path, monkeypatch) -> None:
    """The largest peak of the GPUs in use, per stage."""
    held = [3 * 2**20, 7 * 2**20]
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.max_memory_reserved", held.__getitem__)
    monkeypatch.setattr(
        "torch.cuda.reset_peak_memory_stats", lambda gpu: held.__setitem__(gpu, 2**20)
    )
    made = Run(tmp_path, make_config({}), console=Console(quiet=True))
    with made.stage("one") as (_, figures):
        held[1] = 5 * 2**20
    assert figures["peak_gpu_memory_mb"] == 5
    assert lines(tmp_path)[0]["peak_gpu_memory_mb"] == 5
    with made.stage("two") as (_, figures):
        pass
    assert figures["peak_gpu_memory_mb"] == 1
    (tmp_path / "config.yaml").write_text("{}")
    page = write_report(tmp_path).read_text()
    assert "peak GPU memory, MB" in page


def test_a_damaged_plan_is_none(tmp_path: Path) -> None:
    for text in ("", "{}", '{"rows": [{"stage": 1}]}', "[1]"):
        (tmp_path / "plan.json").write_text(text)
        assert read_plan(tmp_path)[1] == []
    assert facts_of([{"stage": "yield", "roles": []}]) == {}


def test_a_schedule_is_what_the_run_goes_through(made, tmp_path: Path, monkeypatch) -> None:
    """Every stage in its order, with shares of the planned time that add up to it."""
    seen: list[tuple[Place, str]] = []
    real = live_view.View.__init__

    def keep(self: Any, console: Any, name: str, *given: Any, **named: Any) -> None:
        seen.append((named["place"], name))
        real(self, console, name, *given, **named)

    monkeypatch.setattr(live_view.View, "__init__", keep)
    sequential = ["--train.rounds", "2", "--train.regenerate", "sequential"]
    for more in ([], sequential):
        seen.clear()
        folder = tmp_path / f"run{len(more)}"
        assert run(*made, folder, *more, "--plan", "10") == 0
        assert run(*made, folder, *more) == 0
        stages = [(place, name) for place, name in seen if name not in ("probe", "timed steps")]
        config = load_config_file(folder / "config.yaml")
        names = [name for _, name in stage_names(config)]
        assert [name for _, name in stages] == names
        assert [place.number for place, _ in stages] == [*range(1, len(names) + 1)]
        after = [place.after for place, _ in stages]
        assert after == sorted(after, reverse=True) and after[-1] == 0
        whole = sum(schedule(Run(folder, config)).values())
        planned = figures(folder)["all", "", "time"].plan
        assert whole == pytest.approx(3600 * planned) and after[0] < whole
    assert "sample round 1 for refiner" in names
    assert {*schedule(Run(tmp_path, config)).values()} == {None}


def test_a_plan_begins_with_its_sum() -> None:
    rows = [
        Row("sampling", "", "time", "hours", 1.5, ""),
        Row("sampling", "", "peak memory", "MB", 700, ""),
        Row("training", "", "peak memory", "MB", 12_345, ""),
        Row("training", "", "peak GPU memory", "MB", 81_000, ""),
        Row("disk", "", "samples", "MB", 8.17, ""),
        Row("all", "", "time", "hours", 26, ""),
    ]
    assert summary(rows) == (
        "the run will take about 26.0 h (sampling 90 min 00 s), 12.3 GB of memory, 81.0 GB of GPU "
        "memory, 8.17 MB of disk beside the adapters"
    )
