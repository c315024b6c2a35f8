"""Layers that run as `lora_linear` train as PEFT's own layers do."""

import math

import pytest
import torch
import transformers as hf

from malt_fast.config.schema import LoraConfig
from malt_fast.training import adapters, trainer
from malt_fast.training.activations import precision_of
from malt_fast.training.adapters import has_fast_lora, load_model, speed_up_lora
from tests.training.test_packing import FAMILIES
from tests.training.test_trainer import base, role_data, train  # noqa: F401


@pytest.fixture
def calls(monkeypatch):
    """The input and result of every call of lora_linear."""
    made, own = [], adapters.lora_linear

    def counted(x, *rest):
        made.append((x.dtype, own(x, *rest)))
        return made[-1][1]

    monkeypatch.setattr(adapters, "lora_linear", counted)
    return made


@pytest.mark.parametrize("stage", ["sft", "dpo"])
@pytest.mark.parametrize("bf16", [True, False])
def test_steps_are_those_of_peft(stage, bf16, base, tmp_path, monkeypatch, calls):  # noqa: F811
    losses = {}
    for name in ("ours", "peft"):
        if name == "peft":
            before = len(calls)
            monkeypatch.setattr(trainer, "speed_up_lora", lambda model: None)
        lines = []
        settings = {"bf16": bf16, "num_train_epochs": 4, "on_log": lines.append}
        train(stage, role_data(6), base, tmp_path / name, **settings)
        losses[name] = [line["loss"] for line in lines if "loss" in line]
    assert before == len(calls) > 0
    assert {y.dtype for _, y in calls} == {torch.bfloat16 if bf16 else torch.float32}
    if stage == "dpo":
        assert losses["ours"][0] == pytest.approx(math.log(2), abs=1e-6)
    tolerance = 0.02 if bf16 else 1e-3
    assert losses["ours"] == pytest.approx(losses["peft"], rel=tolerance, abs=tolerance)
    assert losses["ours"][-1] < losses["ours"][0] - 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_which_layers_are_fused(dtype, bf16, dropout, tmp_path, calls):
    """PEFT's own layer runs with dropout, and for bfloat16 weights without autocast."""
    hf.AutoModelForCausalLM.from_config(FAMILIES["llama"]).save_pretrained(tmp_path)
    lora = LoraConfig(r=4, lora_dropout=dropout)
    model = load_model(str(tmp_path), None, lora, dtype=dtype, seed=0).train()
    assert not has_fast_lora(model, bf16)
    speed_up_lora(model)
    expected = not dropout and (bf16 or dtype == "float32")
    assert has_fast_lora(model, bf16) == expected
    ids = torch.arange(9)[None]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        model.hidden(ids)
    assert len(calls) == (14 if expected else 0)
    shared = expected and bf16 == (dtype == "bfloat16")
    assert (precision_of(model, bf16).copy == 0) == shared
    with torch.autocast("cpu", torch.float16):
        model.hidden(ids)
    assert len(calls) == (14 if expected else 0)


def test_other_adapters_keep_their_layers(tmp_path, calls):
    """DoRA scales the whole weight."""
    import peft

    hf.AutoModelForCausalLM.from_config(FAMILIES["llama"]).save_pretrained(tmp_path)
    causal = hf.AutoModelForCausalLM.from_pretrained(tmp_path)
    config = peft.LoraConfig(r=2, use_dora=True, target_modules=["q_proj"])
    peft.get_peft_model(causal, config).save_pretrained(tmp_path / "dora")
    model = load_model(str(tmp_path), tmp_path / "dora", LoraConfig(), dtype="float32", seed=0)
    speed_up_lora(model)
    model.hidden(torch.arange(9)[None])
    assert not calls and not has_fast_lora(model, False)
