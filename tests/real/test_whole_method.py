"""SmolLM2 through the whole method: runs of three tasks, a kill, vLLM, export, serve, lm-eval."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet
import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from malt_fast.store.store import open_store
from malt_fast.utils.errors import MaltError
from tests.real.questions import ROWS, gsm8k_rows, write_rows

pytestmark = pytest.mark.real

SMALL = [
    *("--model.dtype", "bfloat16", "--sampling.max_tokens", "48", "--tree.branching", "2,2,2"),
    *("--preferences.sft_source", "all", "--train.sft.max_steps", "2"),
    *("--train.dpo.max_steps", "2", "--evaluate.limit", "1", "--evaluate.votes", "1"),
    *("--train.sft.per_device_train_batch_size", "2", "--evaluate.sampling.max_tokens", "16"),
    *("--train.dpo.per_device_train_batch_size", "2", "--evaluate.bootstrap", "200"),
    *("--report_to", "none", "--task.decontaminate", "false"),
]
LINE = re.compile(r"serving \S+ at (\S+)/v1")


def command(program: str, *options: str) -> list[str]:
    return [sys.executable, "-m", f"malt_fast.{program}", *options]


def training(task: str, gguf: str, folder: Path, *more: str) -> list[str]:
    data = ["--task.name", task, "--task.path", str(write_rows(task, folder))]
    model = ["--model.name_or_path", gguf, "--run", str(folder / task)]
    return command("train", *data, *model, *SMALL, *more)


def finish(command: list[str]) -> str:
    """Run a program to its end; returns what it printed."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def lines_of(run: Path, stage: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["stage"] == stage]


def stored(run: Path) -> int:
    """Outputs that are on disk."""
    try:
        return open_store(run / "samples", writable=False).next_row
    except (MaltError, OSError):  # not there yet
        return 0


# ---- runs ----


@pytest.fixture(scope="module")
def killed(gguf: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of word problems that was killed while it sampled, and then finished."""
    folder = tmp_path_factory.mktemp("killed")
    train, run = training("gsm8k", gguf, folder), folder / "gsm8k"
    process = subprocess.Popen(train, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while stored(run) < 10:
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.1)
    process.kill()
    process.wait()
    assert not lines_of(run, "sample round 0")
    before = stored(run)
    out = finish(train)
    assert "which died" in out
    (line,) = lines_of(run, "sample round 0")
    assert line["reused"] >= before >= 10 and line["failed"] == 0
    return run


def check(run: Path, outputs: int) -> None:
    """A finished run has sampled, graded, trained and evaluated."""
    (line,) = lines_of(run, "sample round 0")
    assert (line["outputs"], line["failed"]) == (outputs, 0)
    assert any(lines_of(run, f"sft {role}") for role in ("generator", "verifier", "refiner"))
    assert json.loads((run / "evaluation.json").read_text())["systems"]
    assert (run / "report.html").stat().st_size > 10_000


def test_a_run_goes_on_after_a_kill(killed: Path) -> None:
    check(killed, 14 * (len(gsm8k_rows()) - 1))  # one question is held out
    store = open_store(killed / "samples", writable=False)
    assert len(np.unique(store.rows().check)) == store.next_row  # none was sampled twice


@pytest.mark.parametrize("task", ["csqa", "math"])
def test_a_run_of_each_task(task: str, gguf: str, tmp_path: Path) -> None:
    finish(training(task, gguf, tmp_path))
    check(tmp_path / task, 14 * (len(ROWS[task]()) - 1))


def test_a_run_on_vllm(gguf: str, tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    more = ("--engine.name", "vllm", "--task.limit", "3")
    assert "engine: vllm" in finish(training("gsm8k", gguf, tmp_path, *more))
    check(tmp_path / "gsm8k", 14 * 3)


# ---- what comes out of a run ----


def test_an_export_loads_and_its_rows_are_exact(
    killed: Path, checkpoint: str, tokenizer: Any, tmp_path: Path
) -> None:
    """Merged weights are base plus adapter; the tokens of most rows are those trained on."""
    out = tmp_path / "out"
    finish(command("export", "--run", str(killed), "--out", str(out), "--merged"))
    merged = AutoModelForCausalLM.from_pretrained(out / "merged/refiner", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    plain = base.model.layers[0].self_attn.q_proj.weight.clone()
    apart = PeftModel.from_pretrained(base, str(killed / "adapters/refiner/final"))
    expected = apart.merge_and_unload().state_dict()
    assert (expected["model.layers.0.self_attn.q_proj.weight"] != plain).any()
    for name, weight in merged.state_dict().items():
        # stored in bfloat16, whose step is 2^-7 of a value at most
        torch.testing.assert_close(weight, expected[name], rtol=2**-7, atol=2**-12)
    kept = AutoTokenizer.from_pretrained(out / "merged/refiner")
    assert kept.get_vocab() == tokenizer.get_vocab()
    rows = [
        row
        for file in sorted((out / "data").rglob("kto.parquet"))
        for row in pyarrow.parquet.read_table(file).to_pylist()
    ]
    ended = [row["exact"] for row in rows if row["completion_ids"][-1] == tokenizer.eos_token_id]
    assert sum(ended) > len(ended) / 2 > 0  # a model may sample other tokens than its tokenizer's


@pytest.fixture(scope="module")
def server(killed: Path) -> Iterator[str]:
    more = ["--serve.port", "0", "--evaluate.votes", "1", "--sampling.max_tokens", "32"]
    process = subprocess.Popen(
        command("serve", "--run", str(killed), *more), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    found = next(filter(None, map(LINE.search, process.stdout)))
    end = time.monotonic() + 120
    while True:
        try:
            httpx.get(f"{found[1]}/health").raise_for_status()
            break
        except httpx.HTTPError:
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.2)
    yield found[1]
    process.terminate()
    process.wait(30)


def test_a_server_answers(server: str) -> None:
    question = gsm8k_rows()[0]["question"]
    body = {
        "model": "gsm8k",
        "messages": [{"role": "user", "content": question}],
        "malt": {"turns": True},
    }
    reply = httpx.post(f"{server}/v1/chat/completions", json=body, timeout=120).json()
    (turns,) = reply["malt"]["turns"]
    assert list(turns) == ["generator", "verifier", "refiner"]
    assert reply["choices"][0]["message"]["content"] == turns["refiner"]


def test_lm_eval_measures_a_server(server: str, tmp_path: Path) -> None:
    """A task of five questions of its own; it scores what the server says."""
    pytest.importorskip("lm_eval")
    data = write_rows("gsm8k", tmp_path)
    task = {
        "task": "apples",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer.split('#### ')[1]}}",
        "generation_kwargs": {"until": ["</s>"]},
        "filter_list": [
            {
                "name": "number",
                "filter": [
                    {"function": "regex", "regex_pattern": "(\\d+)", "group_select": -1},
                    {"function": "take_first"},
                ],
            }
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean"}],
    }
    (tmp_path / "apples.yaml").write_text(yaml.safe_dump(task))
    arguments = f"model=gsm8k,base_url={server}/v1/chat/completions,num_concurrent=5"
    env = os.environ | {"OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lm_eval", "run", "--tasks", "apples", "--limit", "5"),
            *("--include_path", str(tmp_path), "--model", "local-chat-completions"),
            *("--model_args", arguments, "--apply_chat_template", "--log_samples"),
            *("--output_path", str(tmp_path / "out")),
        ],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (results,) = (tmp_path / "out").rglob("results_*.json")
    measured = json.loads(results.read_text())["results"]["apples"]
    (samples,) = (tmp_path / "out").rglob("samples_apples_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    right = [row["filtered_resps"][0] == row["target"] for row in rows]
    assert len(rows) == 5 and all(row["resps"][0][0] for row in rows)
    assert measured["exact_match,number"] == sum(right) / 5
