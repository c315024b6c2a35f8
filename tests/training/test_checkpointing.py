"""Activation checkpointing: gradients of every method, its estimates, and the choice of it."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch
import transformers as hf
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.llama.modeling_llama import LlamaMLP

from malt_fast.config.load import make_config
from malt_fast.config.schema import LoraConfig
from malt_fast.training import trainer
from malt_fast.training.activations import Precision, Shape, token_bytes
from malt_fast.training.adapters import load_model, speed_up_lora
from malt_fast.training.checkpointing import SHARE, switch
from malt_fast.training.stage import METHODS
from malt_fast.utils.errors import MaltError
from tests.training.role_forests import role_forest
from tests.training.test_packing import FAMILIES, packer, whole_step
from tests.training.test_trainer import base, role_data, train  # noqa: F401

FORESTS = {"sft": role_forest(4, branching=(3, 2), pairs=False), "dpo": role_forest(1)}


class Counts(TorchDispatchMode):
    """How often each operator runs; what checkpointing kept does not run again."""

    def __init__(self):
        super().__init__()
        self.ops = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops[str(func)] += 1
        return func(*args, **(kwargs or {}))


def adapted(base, layout, dtype):  # noqa: F811
    model = load_model(base, None, LoraConfig(r=4), dtype=dtype, seed=0, layout=layout)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    speed_up_lora(model)
    return model


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    hf.AutoModelForCausalLM.from_config(FAMILIES[request.param]).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", ["trees", "rows"])
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_every_method_gives_the_same_gradients(stage, layout, dtype, family):
    gradients, ran = {}, {}
    for method in METHODS:
        model = adapted(family, layout, dtype)
        switch(model, method)
        low = dtype == "bfloat16"
        with Counts() as counts, torch.autocast("cpu", torch.bfloat16, enabled=low):
            gradients[method] = whole_step([packer(FORESTS[stage], layout)], model)[2]
        ran[method] = counts.ops
    for method in ("selective", "full"):
        assert gradients[method].keys() == gradients["none"].keys()
        for name, expected in gradients["none"].items():
            assert expected.norm() > 0 and torch.equal(gradients[method][name], expected), name
    attention = {"trees": "malt_fast.tree_attention.default"}.get(
        layout, "aten._scaled_dot_product_flash_attention_for_cpu.default"
    )
    for op in {attention, "malt_fast.lora_side_branch.default"} & ran["none"].keys():
        assert ran["none"][op] == ran["selective"][op] == ran["full"][op] / 2 > 0, op
    assert attention in ran["none"]
    norms = "aten.rsqrt.default"
    assert ran["selective"][norms] == ran["full"][norms] > 1.5 * ran["none"][norms]
    products = ("aten.mm.default", "aten.addmm.default", "malt_fast.lora_side_branch.default")
    ran_again = {name: sum(ops[op] for op in products) for name, ops in ran.items()}
    assert ran_again["selective"] < ran_again["full"]


# ---- estimates ----


def test_estimates_are_near_the_peaks(tmp_path):
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.training.peak_memory", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for name, methods in json.loads((tmp_path / "peaks.json").read_text()).items():
        for method, (measured, estimated) in methods.items():
            assert estimated == pytest.approx(measured, rel=0.3), (name, method)
        assert methods["full"][0] < methods["selective"][0] < methods["none"][0]


LLAMA_8B = Shape(
    layers=32, hidden=4096, query=4096, key=1024, inner=14336, heads=32, norms=2 * 4096,
    outputs=3 * 4096 + 2 * 1024 + 2 * 14336, adapted=6 * 4096 + 14336, narrow=7 * 16,
    trained=42_000_000, frozen=32 * 218_103_808, outside=2 * 128256 * 4096, vocabulary=128256,
)  # fmt: skip


def test_what_a_layer_of_8b_keeps():
    """Counted by hand, in KiB per token, in bfloat16 on a GPU.

    none: inputs of norms 2 x 16; copies of inputs for A 6 x 8 + 28; q, k, v after rotation 8 + 2 +
    2; result of attention 8; gate, its activation, up 3 x 28. selective: the layer's input 8;
    results of q, k, v, o, gate, up, down 8 + 2 + 2 + 8 + 28 + 28 + 8, of attention 8.
    """
    found = token_bytes(LLAMA_8B, Precision(weight=2, result=2, attention=2, copy=2))
    small = 2 * 7 * 16 + 4 * 32  # x A^T, and the sums of exponentials
    assert found == {"none": 212 * 1024 + small, "selective": 100 * 1024 + small, "full": 8192}
    # q, k, v share their input, gate and up do, and o's is the result of attention
    shared = token_bytes(LLAMA_8B, Precision(weight=2, result=2, attention=2, copy=0))
    assert shared == found | {"none": found["none"] - (4 * 8 * 1024)}


def test_a_frozen_part_keeps_no_copies():
    precision = Precision(weight=2, result=2, attention=2, copy=2)
    fewer = replace(LLAMA_8B, adapted=4096, narrow=16)
    apart = token_bytes(LLAMA_8B, precision)["none"] - token_bytes(fewer, precision)["none"]
    assert apart == 2 * (5 * 4096 + 14336) + 2 * 6 * 16


@pytest.mark.parametrize("layout", ["trees", "rows"])
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_the_longest_batch(stage, layout):
    for size in (1, 3, 100):
        one = packer(FORESTS[stage], layout, tokens=60, size=size)
        for some in ([0], range(len(one))):
            sizes = [batch.input_ids.numel() for batch in one(some).batches]
            assert one.longest(some) == max(sizes)


# ---- the choice ----


def choice(base, folder, **settings):  # noqa: F811
    told = []
    train("sft", role_data(), base, folder, on_start=told.append, max_steps=1, **settings)
    (made,) = told
    return made


def test_auto_takes_the_first_that_fits(base, tmp_path, monkeypatch):  # noqa: F811
    first = choice(base, tmp_path / "a")
    assert first.method == "none" and first.free > 0  # of this machine
    sizes = first.estimates
    assert sizes["full"] < sizes["selective"] < sizes["none"]
    for expected, need in (*sizes.items(), ("full", 0)):
        monkeypatch.setattr(trainer, "free_memory", lambda device, need=need: need / SHARE + 1)
        made = choice(base, tmp_path / f"{expected} {need}")
        assert made.method == expected and made.estimates == sizes
        assert choice(base, tmp_path / "x", gradient_checkpointing="none").method == "none"
        assert f"gradient_checkpointing {expected} " in str(made)
        assert made.figures()["gradient_checkpointing"] == expected


def test_models_that_cannot(base, tmp_path, monkeypatch):  # noqa: F811
    plain = LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: plain(self, x).mul_(0.5))
    with pytest.raises(MaltError, match=r"gradient_checkpointing = selective .* set it to full"):
        choice(base, tmp_path / "a", gradient_checkpointing="selective")
    monkeypatch.setattr(trainer, "first_that_fits", lambda sizes, free: "selective")
    assert choice(base, tmp_path / "b").method == "full"
    monkeypatch.setattr(hf.LlamaForCausalLM, "supports_gradient_checkpointing", False)
    assert choice(base, tmp_path / "c").method == "none"
    with pytest.raises(MaltError, match=r"gradient_checkpointing = full .* set it to none"):
        choice(base, tmp_path / "d", gradient_checkpointing="full")


@pytest.mark.parametrize("value", [True, "false", "selectiv"])
def test_other_values_are_one_sentence(value):
    said = "it must be one of auto, none, selective or full"
    with pytest.raises(MaltError, match=said) as raised:
        make_config({"train": {"sft": {"gradient_checkpointing": value}}})
    assert str(raised.value).startswith("train.sft.gradient_checkpointing = ")
    with pytest.raises(MaltError, match=said):
        make_config({"train": {"dpo": {"roles": {"refiner": {"gradient_checkpointing": value}}}}})


def test_it_is_a_setting_of_a_role():
    patch = {"roles": {"refiner": {"gradient_checkpointing": "full"}}}
    config = make_config({"train": {"dpo": patch}})
    assert config.train.dpo.for_role("refiner").gradient_checkpointing == "full"
    assert config.train.dpo.for_role("verifier").gradient_checkpointing == "auto"
