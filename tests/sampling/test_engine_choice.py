"""Which engine `auto` means, and what is refused before anything is sampled."""

import numpy as np
import pytest

from malt_fast.config.load import make_config
from malt_fast.engines import SamplingParams
from malt_fast.sampling import engine_choice as choice
from malt_fast.sampling.engine_choice import check_engine, choose, gpus_of_engine
from malt_fast.sampling.prepare import load_setup
from malt_fast.sampling.setup import longest
from malt_fast.utils import ray_cluster
from tests import small_run
from tests.small_run import write_model, write_questions


def has(monkeypatch: pytest.MonkeyPatch, *, vllm: bool, gpu: bool, cpu_build: bool = False) -> None:
    import torch

    from malt_fast.engines import vllm as module

    monkeypatch.setattr(choice, "find_spec", lambda name: vllm or None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(module, "runs_on_cpu", lambda: cpu_build)


def test_auto_is_vllm_where_it_and_a_gpu_are_there(monkeypatch):
    has(monkeypatch, vllm=True, gpu=True)
    assert choose(make_config({})) == ("vllm", "there is a GPU")
    assert choose(make_config({"model": {"device": "cpu"}}))[0] == "hf"
    name, why = choose(make_config({"model": {"roles": {"verifier": "other"}}}))
    assert name == "hf" and "base models of their own" in why
    assert choose(make_config({"engine": {"name": "hf"}})) == ("hf", "as engine.name says")


def test_an_engine_takes_the_gpus_that_it_shards_over(monkeypatch):
    has(monkeypatch, vllm=True, gpu=False)  # as on a head node
    sharded = {"vllm": {"tensor_parallel_size": 4, "pipeline_parallel_size": "2"}}
    assert gpus_of_engine(make_config({"engine": sharded}), "vllm") == 8
    assert gpus_of_engine(make_config({"engine": sharded}), "hf") == 1
    assert gpus_of_engine(make_config({"model": {"device": "cpu"}}), "vllm") == 0
    has(monkeypatch, vllm=True, gpu=False, cpu_build=True)
    assert gpus_of_engine(make_config({}), "vllm") == 0


@pytest.mark.parametrize(
    ("there", "why"),
    [
        ({"vllm": False, "gpu": True}, "pip install 'vllm>="),
        ({"vllm": True, "gpu": False}, "without a GPU"),
        ({"vllm": True, "gpu": True, "cpu_build": True}, "without a GPU"),
    ],
)
def test_auto_is_transformers_elsewhere_and_says_why(monkeypatch, there, why):
    has(monkeypatch, **there)
    name, told = choose(make_config({}))
    assert name == "hf" and why in told


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--engine.name", "vllm"], "vLLM is not installed: pip install 'vllm>="),
        (["--engine.name", "hf", "--engine.replicas", "2"], "pip install 'ray>="),
        (["--engine.name", "openai"], "give --engine.base_url"),
        (["--engine.name", "replay", "--engine.path", "no.jsonl"], "'no.jsonl' is no file"),
        (["--engine.name", "openai", "--engine.base_url", "localhost:1"], "engine.base_url"),
        (
            ["--engine.name", "openai", "--engine.base_url", "http://127.0.0.1:1/v1"],
            "no server answers at http://127.0.0.1:1/v1",
        ),
        (
            ["--engine.name", "replay", "--engine.path", "x", "--engine.replicas", "2"],
            "not for replay",
        ),
    ],
)
def test_an_engine_that_cannot_be_is_told_at_the_start(
    tmp_path, monkeypatch, capsys, options, says
):
    data, model = write_questions(tmp_path / "q.jsonl"), write_model(tmp_path / "model")
    for module in (choice, ray_cluster):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    capsys.readouterr()
    assert small_run.run(data, model, tmp_path / "run", *options) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_the_longest_sequence_is_what_prompts_and_outputs_may_come_to(tmp_path):
    data, model = write_questions(tmp_path / "q.jsonl"), write_model(tmp_path / "model")
    values = {
        "task": {"name": "jsonl", "path": str(data), "grader": "number"},
        "model": {"name_or_path": str(model)},
    }
    setup = load_setup(make_config(values))
    check_engine(setup)
    params = [SamplingParams(max_tokens=n) for n in (100, 10, 30)]
    texts = [question.text for question in [*setup.task.train, *setup.task.test]]
    longest_question = max((setup.prompts.encode_question(t) for t in texts), key=len)
    above = [np.full(100, 5, np.int32), np.full(10, 5, np.int32)]
    assert longest(setup, params) == len(setup.prompts.build(3, longest_question, above)) + 30
    assert longest(setup, [SamplingParams(max_tokens=10**9)] * 3) == 2048  # the model's context
    grown = 500 - len(longest_question)  # questions that are not the task's may be longer
    assert longest(setup, params, 500) == longest(setup, params) + grown


def test_a_run_may_go_on_with_another_engine(tmp_path, capsys):
    data, model = write_questions(tmp_path / "q.jsonl"), write_model(tmp_path / "model")
    run = [data, model, tmp_path / "run"]
    assert small_run.run(*run) == 0
    assert small_run.run(*run, "--engine.name", "hf", "--engine.batch_size", "7") == 0
    assert small_run.run(*run, "--serve.port", "9", "--engine.batch_size", "7") == 0
    assert "batch_size: 7" in (tmp_path / "run" / "config.yaml").read_text()
    assert "settings changed since the last time: engine.name auto -> hf" in capsys.readouterr().out
