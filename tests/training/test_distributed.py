"""Two processes against one, with whole copies of the model (DDP) and shards of it (FSDP2)."""

import json
import os
import pickle
import subprocess
import sys

import pytest

from malt_fast.config.schema import PACKAGE
from malt_fast.train import main
from tests.programs import test_train
from tests.training.test_trainer import (  # noqa: F401
    assert_same,
    base,
    labels,
    role_data,
    train,
    weights,
)

PROFILES = PACKAGE / "profiles"


def launch(mode, *words):
    """Run two processes with a shipped profile, over the loopback device."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", PROFILES / f"{mode}.yaml", "--num_processes", "2"]
    command += ["--main_process_port", "0", *words]
    own = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": os.getcwd()}
    return subprocess.run(
        list(map(str, command)), env=os.environ | own, capture_output=True, text=True, timeout=200
    )


@pytest.mark.parametrize("mode", ["ddp", "fsdp2"])
def test_two_processes_train_as_one(mode, base, tmp_path):  # noqa: F811
    """SFT and DPO, packs and rows, fewer batches than processes, a stage stopped half-way."""
    shared = {"base": base, "data": role_data(questions=4), "num_train_epochs": 2, "save_steps": 1}
    jobs = {
        "sft": {"stage": "sft", "pack_tokens": 40},
        "dpo": {"stage": "dpo", "pack_tokens": 40, "rpo_alpha": 1.0},
        "rows": {"stage": "dpo", "layout": "rows"},
        "bf16": {"stage": "dpo", "bf16": True, "learning_rate": 1e-4},
        "one pack": {"stage": "dpo", "gradient_checkpointing": "full"},
        "selective": {"stage": "dpo", "gradient_checkpointing": "selective"},
        "stopped": {"stage": "dpo", "lr_scheduler_type": "cosine"},
        "kto": {"stage": "dpo", "loss_type": "kto", "data": labels(role_data(questions=4))},
        "both": {
            "stage": "dpo",
            "loss_type": "sigmoid+kto",
            "pack_tokens": 40,
            "data": labels(role_data(questions=4), pairs=True, again=[2]),
        },
    }
    steps, alone = [], {}
    for name, job in jobs.items():
        arguments = shared | {"learning_rate": 1e-3} | job
        steps.append(
            {
                "stop": 2 if name == "stopped" else 0,
                "arguments": arguments | {"out": tmp_path / name, "per_device_train_batch_size": 2},
            }
        )
        lines = []
        train(
            **arguments,
            out=tmp_path / f"{name} alone",
            per_device_train_batch_size=4,
            on_log=lines.append,
        )
        alone[name] = lines
    (tmp_path / "jobs").write_bytes(pickle.dumps(steps))
    done = launch(mode, "-m", "tests.training.distributed_worker", tmp_path / "jobs")
    assert done.returncode == 0, done.stderr
    for name, expected in alone.items():
        # bfloat16 rounds otherwise in packs of other sizes
        rel, apart = (3e-3, 1e-3) if name == "bf16" else (1e-4, 1e-6)
        found = pickle.loads((tmp_path / f"{name}.lines").read_bytes())
        first = 1 if name == "stopped" else 0  # the line of step 3, where it goes on
        assert [line["step"] for line in found][:-1] == [
            line["step"] for line in expected[2 * first : -1]
        ]
        for key in ("loss", "grad_norm", "num_tokens", "rewards/margins", "logps/chosen", "kl"):
            if key in expected[0]:
                ours, theirs = found[0][key], expected[2 * first][key]
                assert ours == pytest.approx(theirs, rel=rel, abs=apart), (name, key)
        found, expected = weights(tmp_path / name), weights(tmp_path / f"{name} alone")
        assert_same(found, expected, rtol=1e-3, atol=max(1e-4, apart))


def test_a_run_of_two_processes(data, model, tmp_path):
    folder = tmp_path / "run"
    task = ["--task.name", "jsonl", "--task.path", data, "--task.grader", "number"]
    task += ["--model.name_or_path", model, "--run", folder, "--model.device", "cpu"]
    done = launch("ddp", "-m", "malt_fast.train", *task, *test_train.FAST)
    assert done.returncode == 0, done.stderr
    assert test_train.run(data, model, tmp_path / "alone", "--model.device", "cpu") == 0
    a, b = test_train.results(folder), test_train.results(tmp_path / "alone")
    assert a.keys() == b.keys()
    for name in a:
        assert name.startswith(("adapters", "evaluation")) or a[name] == b[name]
    stages = [json.loads(line)["stage"] for line in (folder / "metrics.jsonl").open()]
    assert stages.count("sft generator") == 1 and stages.count("evaluate") == 1
    assert done.stdout.count("run directory") == 1


def test_processes_need_a_directory(data, model, monkeypatch, capsys):
    task = ["--task.name", "jsonl", "--task.path", str(data), "--task.grader", "number"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*task, "--model.name_or_path", str(model), *test_train.FAST]) == 2
    assert "2 processes need one run directory" in capsys.readouterr().err
