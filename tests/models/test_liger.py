"""Liger's layers against transformers' own, on a CPU through Triton's interpreter."""

import os

import numpy as np
import pytest
import torch
import transformers as hf
from transformers.models.llama import modeling_llama
from transformers.models.qwen3 import modeling_qwen3

from malt_fast.config.schema import LoraConfig
from malt_fast.models import liger
from malt_fast.models.liger import apply_liger, check_liger, exchange_layers
from malt_fast.training import checkpointing, train_stage
from malt_fast.training.adapters import load_model, speed_up_lora
from malt_fast.utils.errors import MaltError
from tests.small_run import run, write_model, write_questions
from tests.training.role_forests import role_forest
from tests.training.test_packing import FAMILIES, assert_equal, packer, whole_step
from tests.training.test_trainer import base, role_data, train  # noqa: F401

pytest.importorskip("liger_kernel")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)

MODULES = {"llama": modeling_llama, "qwen3": modeling_qwen3}
PARTS = {"llama": 5 + 2 + 2, "qwen3": 5 + 4 + 2 + 2}  # norms (of heads too), MLPs, attention


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """Let Triton's interpreter take numbers that are not integers, and know libdevice's rsqrt."""
    if torch.cuda.is_available():
        return
    import triton.language as tl
    from liger_kernel.ops import rms_norm
    from triton.runtime import interpreter

    own = interpreter._implicit_cvt

    def converted(value):
        if not isinstance(value, float):
            return own(value)
        handle = interpreter.TensorHandle(np.array([value], np.float32), tl.float32)
        return tl.tensor(handle, tl.float32)

    monkeypatch.setattr(interpreter, "_implicit_cvt", converted)
    monkeypatch.setattr(rms_norm, "rsqrt", lambda x: tl.math.rsqrt(x))


@pytest.fixture
def told(monkeypatch):
    """Names of Liger's operations, in the order in which they run."""
    from liger_kernel.ops import rms_norm, swiglu
    from liger_kernel.transformers import rope

    names = []

    def telling(name, function):
        def run(*args, **options):
            names.append(name)
            return function(*args, **options)

        return run

    monkeypatch.setattr(rope, "dispatch", telling("rope", rope.dispatch))
    for module, name in ((rms_norm, "rms_norm_forward"), (swiglu, "swiglu_forward")):
        monkeypatch.setattr(module, name, telling(name, getattr(module, name)))
    return names


def causal(family):
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(FAMILIES[family])
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 1.0 if weight.ndim == 1 else 0.0, 0.2)
    return model


def logits(model):
    return model(input_ids=torch.arange(11)[None], use_cache=False).logits


@pytest.mark.parametrize("family", MODULES)
def test_layers_of_one_model_are_exchanged(family, told):
    ours, other, wanted = causal(family), causal(family), logits(causal(family))
    names = dict(vars(MODULES[family]))
    apply_liger(ours, lambda: logits(ours))
    assert dict(vars(MODULES[family])) == names  # what other models are made of
    told.clear()
    torch.testing.assert_close(logits(ours), wanted, rtol=1e-4, atol=1e-4)
    assert len(told) == PARTS[family]
    assert {"rope", "rms_norm_forward", "swiglu_forward"} == set(told)
    for model in (other, causal(family)):
        told.clear()
        assert torch.equal(logits(model), wanted) and not told


def adapted(folder, layout, method, fused):
    """A model whose layers are Liger's if `fused`, under an adapter that has an effect."""
    model = load_model(folder, None, LoraConfig(r=4), dtype="float32", seed=0, layout=layout)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    speed_up_lora(model)
    if fused:
        exchange_layers(model.peft_model.get_base_model())
    checkpointing.switch(model, method)
    return model


@pytest.mark.parametrize(
    ("family", "method"),
    [("llama", "none"), ("llama", "selective"), ("qwen3", "selective"), ("qwen3", "full")],
)
def test_gradients_are_those_of_transformers(family, method, tmp_path, told):
    """Selective checkpointing keeps results of products, which Liger's RoPE rotates in place."""
    causal(family).save_pretrained(tmp_path)
    packs = packer(role_forest(1, questions=1), "trees")
    expected = whole_step([packs], adapted(str(tmp_path), "trees", "none", False))
    assert not told
    found = whole_step([packs], adapted(str(tmp_path), "trees", method, True))
    assert told
    assert_equal(found, expected, rel=1e-4)


def test_a_stage_trains_as_without(base, tmp_path, told, monkeypatch):  # noqa: F811
    losses, sizes = {}, {}
    monkeypatch.setattr(train_stage, "check_liger", lambda *_: None)  # it wants a GPU
    for fused in (False, True):
        lines, choices = [], []
        told.clear()
        train(
            "dpo", role_data(1), base, tmp_path / str(fused), max_steps=2,
            use_liger_kernel=fused, on_log=lines.append, on_start=choices.append,
        )  # fmt: skip
        assert bool(told) == fused
        losses[fused] = [line["loss"] for line in lines if "loss" in line]
        sizes[fused] = choices[0].estimates
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)
    assert sizes[True]["none"] < sizes[False]["none"]
    assert sizes[True]["selective"] <= sizes[False]["selective"]


# ---- errors ----


@pytest.mark.parametrize(
    ("installed", "says"),
    [(True, "needs a GPU"), (False, "is not installed: pip install liger-kernel")],
)
def test_what_is_missing_is_named_first(installed, says, tmp_path, capsys, monkeypatch):
    if not installed:
        monkeypatch.setattr(liger, "find_spec", lambda package: None)
    data, model = write_questions(tmp_path / "q.jsonl"), write_model(tmp_path / "model")
    options = ["--train.use_liger_kernel", "true", "--model.device", "cpu"]
    assert run(data, model, tmp_path / "run", *options) == 2
    error = capsys.readouterr().err
    assert "train.use_liger_kernel needs" in error and says in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_other_families_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for family in FAMILIES.values():
        check_liger("base", family, "auto")
    with pytest.raises(MaltError, match="Liger does not know 'gpt2', the family of 'base'"):
        check_liger("base", hf.GPT2Config(), "cuda")
    with pytest.raises(MaltError, match="needs a GPU"):
        check_liger("base", FAMILIES["llama"], "cpu")


def test_other_activations_are_refused():
    """Liger takes every Llama's MLP for SwiGLU."""
    config = hf.LlamaConfig(**FAMILIES["llama"].to_dict() | {"hidden_act": "relu"})
    model = hf.AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 1.0 if weight.ndim == 1 else 0.0, 0.2)
    with pytest.raises(MaltError, match="changes the log-probs of LlamaForCausalLM by"):
        apply_liger(model, lambda: logits(model).log_softmax(-1))
