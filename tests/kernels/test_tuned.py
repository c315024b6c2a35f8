"""The table of measured ways through a head: lookup, and tables that cannot be used."""

import json
import logging
from dataclasses import asdict, replace

import pytest
import torch
from malt_fast.kernels import tuned
from malt_fast.kernels.tuned import Case, Config

CASE = Case("bfloat16", 4096, 8192, 151936, "weights")
FAST = Config(stages=3, flatten=True)


def entry(case, config):
    way = {"way": "fused", "config": asdict(config)} if config else {"way": "tiles", "config": None}
    return asdict(case) | way | {"ms": 1.0, "tflop_s": 700.0, "runner_up": None}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tuned, "FOLDER", tmp_path)
    tuned.table_of.cache_clear()
    yield tmp_path
    tuned.table_of.cache_clear()


def write(folder, entries, device="NVIDIA H200"):
    path = folder / "nvidia-h200.json"
    path.write_text(json.dumps({"device": device, "entries": entries}))


def test_the_nearest_entry_of_the_same_dtype_and_mode(folder):
    small, wide = replace(CASE, rows=512), replace(CASE, vocabulary=32000)
    other = replace(CASE, mode="statistics")
    configs = {CASE: FAST, small: None, wide: Config(group=4), other: Config(group=16)}
    write(folder, [entry(case, config) for case, config in configs.items()])
    table = tuned.table_of("NVIDIA H200")
    assert table == configs
    for case, config in configs.items():
        assert tuned.nearest(table, case) == config
    assert tuned.nearest(table, replace(CASE, rows=2049)) == FAST  # 4 x 512 or 8192 / 4: log space
    assert tuned.nearest(table, replace(CASE, rows=2047)) is None
    assert tuned.nearest(table, replace(CASE, rows=1, hidden=1)) is None  # of tiles
    assert tuned.nearest(table, replace(CASE, vocabulary=50000)) == Config(group=4)
    assert tuned.nearest(table, replace(other, rows=1)) == Config(group=16)
    assert tuned.nearest(table, replace(CASE, dtype="float16")) is None
    assert tuned.nearest({}, CASE) is None


def test_other_devices_have_other_files():
    assert tuned.file_of("NVIDIA H200").name == "nvidia-h200.json"
    assert tuned.file_of("NVIDIA H100 80GB HBM3").name == "nvidia-h100-80gb-hbm3.json"
    assert tuned.file_of("../x/Y").name == "x-y.json"


def said(caplog):
    return [record.getMessage() for record in caplog.records]


def test_no_table_is_said_once(folder, caplog):
    caplog.set_level(logging.INFO)
    assert tuned.table_of("NVIDIA H200") == tuned.table_of("NVIDIA H200") == {}
    (message,) = said(caplog)
    assert "NVIDIA H200 was never measured" in message and "kernels.tune" in message


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "{}", '{"device": "NVIDIA H200"}', b"\xff",
        json.dumps({"device": "NVIDIA A100", "entries": [entry(CASE, FAST)]}),
        *(
            json.dumps({"device": "NVIDIA H200", "entries": [entry(CASE, FAST) | change]})
            for change in (
                {"rows": "8192"}, {"rows": True}, {"rows": 0}, {"hidden": None}, {"mode": "all"},
                {"way": "cutlass"}, {"config": None}, {"config": {}}, {"config": [1]},
                {"config": asdict(FAST) | {"warps": 8.0}},
                {"config": asdict(FAST) | {"block_rows": 100}},
                {"config": asdict(FAST) | {"stages": 0}},
                {"config": asdict(FAST) | {"flatten": 1}},
            )
        ),
    ],
)  # fmt: skip
def test_a_damaged_table_is_said_and_not_used(folder, caplog, text):
    caplog.set_level(logging.WARNING)
    (folder / "nvidia-h200.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert tuned.table_of("NVIDIA H200") == {}
    (message,) = said(caplog)
    assert "no usable table" in message


def test_a_cpu_has_tiles_and_no_table(caplog):
    assert tuned.chosen(torch.device("cpu"), torch.bfloat16, (3, 8, 100), weights=True) is None
    assert not said(caplog)
