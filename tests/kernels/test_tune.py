"""Measuring ways through a head: with a fake clock, and kernels in Triton's interpreter."""

import json
import sys
from dataclasses import replace
from itertools import cycle

import pytest
import torch
from malt_fast.kernels import tiles, tune, tuned
from malt_fast.kernels.tuned import Case, Config

from tests.kernels.row_operations import DEVICE, GPU, INTERPRETED

pytest.importorskip("triton")
if not (GPU or INTERPRETED):
    pytest.skip("needs a GPU that torch sees, or TRITON_INTERPRET=1", allow_module_level=True)

SMALL = Config(block_rows=16, block_columns=32, block_depth=16, warps=4, stages=2, group=2)
FLAT = replace(SMALL, flatten=True)
CASE = Case("float32", 20, 18, 100, "weights")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(tiles.TILE, "cpu", (18 * 64, 64))
    monkeypatch.setattr(tune, "SAMPLE", 7)


@pytest.fixture
def fused():
    from malt_fast.kernels import fused_head_triton

    return fused_head_triton


def clock(*ms):
    """A timer that runs the work once and shows these times in turn."""
    times = cycle(ms)

    def timer(work):
        assert all(result.isfinite().all() for result in work())
        return next(times)

    return timer


def measure(cases, candidates, *ms, seconds=1e9):
    device = torch.device(DEVICE)
    return [*tune.tune(cases, dict.fromkeys(tuned.MODES, candidates), clock(*ms), seconds, device)]


@pytest.mark.parametrize("mode", tuned.MODES)
def test_the_fastest_and_the_next(mode, monkeypatch):
    """tiles 5 ms, SMALL 4, FLAT 3, and FLAT in the groups of GROUPS 6 and 2."""
    monkeypatch.setattr(tune, "GROUPS", (1, 3))
    (entry,) = measure([replace(CASE, mode=mode)], (SMALL, FLAT), 5.0, 4.0, 3.0, 6.0, 2.0)
    assert entry["way"] == "fused" and entry["ms"] == 2.0
    assert Config(**entry["config"]) == replace(FLAT, group=3)
    assert entry["runner_up"]["ms"] == 3.0 and Config(**entry["runner_up"]["config"]) == FLAT
    products = 1 + (mode == "weights")
    assert entry["tflop_s"] == round(products * 2 * 20 * 18 * 100 / 2e9, 1)


def test_further_sizes_measure_the_best_only(monkeypatch, capsys):
    """One configuration of every kind, in its best group."""
    monkeypatch.setattr(tune, "GROUPS", (1,))
    monkeypatch.setattr(tune, "KEPT", 2)
    cases = [CASE, replace(CASE, rows=3)]
    ways = (SMALL, FLAT, replace(SMALL, stages=3))
    first, second = measure(cases, ways, 5.0, 3.0, 4.5, 4.0, 3.5, 1.0, 2.0, 2.5)
    assert Config(**first["config"]) == SMALL
    assert second["way"] == "tiles" and second["config"] is None
    assert Config(**second["runner_up"]["config"]) == SMALL
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8 and f" {ways[2]} " in lines[-1]


@pytest.mark.parametrize("options", [(), ("--experimental",)])
def test_a_table_that_lookup_reads(monkeypatch, tmp_path, fused, options):
    monkeypatch.setattr(tuned, "FOLDER", tmp_path / "new")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(sys, "argv", ["tune", *options])

    more = tuned.EXPERIMENTAL[9, True] if options else ()

    def measured(cases, candidates, *_):
        assert candidates["weights"] == tuned.CANDIDATES[9, True] + more and len(cases) > 9
        ranked = [tune.Measured(2.0, FLAT), tune.Measured(3.0, None)]
        return [tune.entry(CASE, ranked), tune.entry(replace(CASE, rows=9), ranked[1:])]

    monkeypatch.setattr(tune, "tune", measured)
    tune.main()
    (path,) = (tmp_path / "new").iterdir()
    assert path == tuned.file_of("NVIDIA H200")
    assert tuned.read(path, "NVIDIA H200") == {CASE: FLAT, replace(CASE, rows=9): None}
    tiles = json.loads(path.read_text())["entries"][1]
    assert tiles["runner_up"] is None and tiles["config"] is None


def broken(fused, how):
    """fused_head with a fault."""
    whole, calls = fused.fused_head, iter(range(99))

    def fused_head(hidden, weight, first, target, offset, statistics, weights, config):
        if how == "cannot be launched":
            raise RuntimeError("out of resource: shared memory")
        if how == "writes nothing":
            return
        whole(hidden, weight, first, target, offset, statistics, weights, config)
        if how == "off by a little":
            statistics[0] *= 1.001
        if how == "changes":
            statistics[0] *= 1 + 1e-6 * next(calls)
        if how == "a weight is missing":
            weights[:, 3] = 0
        if how == "unwritten weights":
            weights[-1, -1] = torch.nan

    return fused_head


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("cannot be launched", "out of resource"),
        ("writes nothing", "not finite"),
        ("off by a little", "nats"),
        ("changes", "from run to run"),
        ("a weight is missing", "sums of weights are off by"),
        ("unwritten weights", "not finite"),
    ],
)
def test_what_is_wrong_is_dropped(how, reason, fused, monkeypatch, capsys):
    monkeypatch.setattr(fused, "fused_head", broken(fused, how))
    (entry,) = measure([CASE], (SMALL,), 1.0)
    assert entry["way"] == "tiles" and entry["runner_up"] is None
    (dropped,) = [line for line in capsys.readouterr().out.splitlines() if "dropped" in line]
    assert reason in dropped and str(SMALL) in dropped


def test_statistics_that_are_not_written_are_dropped(fused, monkeypatch, capsys):
    monkeypatch.setattr(fused, "fused_head", broken(fused, "writes nothing"))
    (entry,) = measure([replace(CASE, mode="statistics")], (SMALL,), 1.0)
    assert entry["way"] == "tiles" and "not finite" in capsys.readouterr().out


def test_time_is_up(capsys):
    assert measure([CASE, CASE], (SMALL,), 1.0, seconds=-1.0) == []
    assert capsys.readouterr().out.count("not measured") == 2


def test_a_machine_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["tune"])
    with pytest.raises(SystemExit, match="torch sees none") as error:
        tune.main()
    assert "\n" not in error.value.code  # a message: exit status 1


def test_all_candidates_are_compiled_ahead(fused):
    names = {(name, *only) for name, _, *only in fused.variants()}
    for (major, keep), configs in [*tuned.CANDIDATES.items(), *tuned.EXPERIMENTAL.items()]:
        assert len(set(configs)) == len(configs)
        for config in configs:
            assert (f"{config}{' to bfloat16' * keep}", (10 * major,)) in names
            assert tiles.TILE["cuda"][1] % config.block_columns == 0
    assert {case.dtype for case in tune.cases()} == {"bfloat16"}
