"""On a GPU: compiled FlexAttention, packs, training, and a whole run."""

import json
import math

import numpy as np
import pytest
import torch

from malt_fast.models.tree_attention import flex, make_tree
from tests.models.test_tree_attention import dense, inputs, random_ends
from tests.small_run import run, write_model, write_questions
from tests.tiny import tiny_llama
from tests.training.role_forests import role_forest
from tests.training.test_packing import FAMILIES, adapted, assert_equal, packer, whole_step
from tests.training.test_trainer import role_data, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def attended(n, cap, *, dim=64, seed=0):
    """(ours, truth): output and gradients by compiled FlexAttention and by a float64 mask."""
    end = random_ends(np.random.default_rng(seed), n, 40)
    exact = inputs(seed, n, 8, 2, dim)
    truth = dense(*exact, end, 0.2, cap)
    grad = torch.randn_like(truth)
    ours = [x.detach().float().cuda()[None].requires_grad_() for x in exact]
    tree = make_tree(end, n, "cuda").to(torch.device("cuda"))
    out = flex(*ours, tree, 0.2, cap)[0]
    grads = torch.autograd.grad(out, ours, grad.float().cuda())
    return [out, *(g[0] for g in grads)], [truth, *torch.autograd.grad(truth, exact, grad)]


@pytest.mark.parametrize("cap", [None, 2.0])
def test_flex_attention_equals_the_dense_mask(cap):
    for found, expected in zip(*attended(384, cap), strict=True):
        apart = (found.cpu().double() - expected).norm() / expected.norm()
        assert apart < 1e-5


def test_flex_attention_is_compiled_once_for_all_lengths():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for n in (256, 384, 1280, 512, 1920, 2048):
        found, expected = attended(n, None, seed=n)
        assert (found[0].cpu().double() - expected[0]).abs().max() < 1e-4
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("pairs", [True, False])
def test_packs_equal_rows(family, pairs, tmp_path):
    import transformers as hf

    torch.manual_seed(0)
    config = type(FAMILIES[family])(**(FAMILIES[family].to_dict() | {"head_dim": 16}))
    hf.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    data = role_forest(1, branching=(3, 2, 2), pairs=pairs)
    rows, trees = (adapted(str(tmp_path), layout).cuda() for layout in ("rows", "trees"))
    expected = whole_step([packer(data, "rows", device="cuda")], rows)
    for tokens in (10**6, 240):
        found = whole_step([packer(data, "trees", device="cuda", tokens=tokens)], trees)
        assert_equal(found, expected, rel=1e-4)


@pytest.mark.parametrize("method", ["none", "selective", "full"])
@pytest.mark.parametrize("layout", ["trees", "rows"])
def test_a_role_trains_in_bf16(layout, method, tmp_path):
    base = str(tiny_llama(tmp_path / "base", max_position_embeddings=64))
    lines = []
    train(
        "dpo", role_data(), base, tmp_path / "adapter", device="cuda", layout=layout,
        on_log=lines.append, bf16=True, gradient_checkpointing=method, num_train_epochs=8,
    )  # fmt: skip
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert lines[-2]["loss"] < lines[0]["loss"] - 0.1


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("method", ["none", "selective", "full"])
def test_ligers_layers_train_as_those_of_transformers(method, bf16, tmp_path):
    pytest.importorskip("liger_kernel")
    base, losses = str(tiny_llama(tmp_path / "base", max_position_embeddings=64)), {}
    for fused in (False, True):
        lines = []
        train(
            "dpo", role_data(), base, tmp_path / str(fused), device="cuda", on_log=lines.append,
            bf16=bf16, gradient_checkpointing=method, num_train_epochs=8, use_liger_kernel=fused,
        )  # fmt: skip
        losses[fused] = [line["loss"] for line in lines if "loss" in line]
    tolerance = 0.05 if bf16 else 1e-3
    assert losses[True] == pytest.approx(losses[False], rel=tolerance, abs=tolerance)
    assert losses[True][0] == pytest.approx(math.log(2), abs=1e-4)


def test_a_whole_run(tmp_path):
    data, model = write_questions(tmp_path / "q.jsonl"), write_model(tmp_path / "model")
    assert run(data, model, tmp_path / "run", "--model.device", "cuda") == 0
    assert json.loads((tmp_path / "run/evaluation.json").read_text())
    assert run(data, model, tmp_path / "run", "--model.device", "cuda") == 0  # nothing is left
