"""Packs against plain rows: equal log-probs, losses and gradients."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from malt_fast.kernels import dpo_loss

from malt_fast.config.schema import LoraConfig
from malt_fast.forest.role_data import RoleData
from malt_fast.models.tree_attention import TREE
from malt_fast.training import packing
from malt_fast.training.adapters import LogProbModel, load_model
from malt_fast.training.batches import TreeSampler, examples_of
from malt_fast.training.packing import (
    Packer,
    Packing,
    completion_logps,
    share,
)
from malt_fast.utils.errors import MaltError
from tests.training.role_forests import END, role_forest

SIZES = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
FAMILIES = {
    "llama": hf.LlamaConfig(**SIZES),
    "llama-rope-scaled": hf.LlamaConfig(
        **SIZES,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        },
    ),
    "qwen2": hf.Qwen2Config(**SIZES),
    "qwen3": hf.Qwen3Config(**SIZES, head_dim=8),
    "mistral": hf.MistralConfig(**SIZES, sliding_window=256),
    "gemma": hf.GemmaConfig(**SIZES, head_dim=8),
    "gemma2": hf.Gemma2Config(
        **SIZES, head_dim=8, attn_logit_softcapping=3.0, final_logit_softcapping=5.0,
        sliding_window=256,
    ),
    "gemma3": hf.Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=256),
    "granite": hf.GraniteConfig(**SIZES, logits_scaling=4.0),
    "qwen3-moe": hf.Qwen3MoeConfig(
        **SIZES, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(FAMILIES[request.param])
    for name, weight in model.named_parameters():  # attention that matters, unlike at 0.02
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    hf.AutoModelForCausalLM.from_config(FAMILIES["llama"]).save_pretrained(folder)
    return str(folder)


def adapted(base: str, layout: str) -> LogProbModel:
    """The base model under a LoRA that has an effect."""
    model = load_model(base, None, LoraConfig(r=4), dtype="float32", seed=0, layout=layout)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model


def packer(
    data: RoleData,
    layout: str,
    *,
    tokens: int = 10**6,
    size: int = 10**6,
    device: str = "cpu",
    **rest,
):
    stage = "dpo" if len(data.pairs) else "sft"
    return Packer(stage, data, Packing(layout, tokens, size, device, **rest))


def whole_step(packers, model):
    """(logp of every completion, loss, gradients) of one step with all of the data."""
    model.train()
    model.zero_grad()
    logps, total = {}, 0.0
    device = next(model.parameters()).device
    for each in packers:
        step = each(range(len(each)))
        for batch in (batch.to(device) for batch in step.batches):
            token_logp = model(batch)
            logp = completion_logps(token_logp, batch)
            if each.stage == "sft":
                loss = -token_logp.sum() / step.items.targets
            else:
                reference = -batch.completions.float()
                loss = dpo_loss(
                    logp, reference, batch.pairs, batch.lengths, beta=0.1, rpo_alpha=0.5,
                    mean_chosen_length=step.items.chosen,
                ).losses.sum() / step.items.pairs  # fmt: skip
            if batch.counts:
                loss.backward()
                total += loss.item()
                logps |= dict(zip(batch.completions.tolist(), logp.tolist(), strict=True))
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    return [logps[i] for i in sorted(logps)], total, grads


def assert_equal(found, expected, rel=2e-5):  # of gradients: the order of sums is worth 1.2e-5
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[1] == pytest.approx(expected[1], rel=1e-5)
    assert found[2].keys() == expected[2].keys() and found[2]
    for name, grad in expected[2].items():
        assert grad.norm() > 0, name
        assert (found[2][name] - grad).norm() <= rel * grad.norm(), name


FORESTS = {
    "siblings": role_forest(1),
    "deep": role_forest(2, branching=(2, 1, 2, 1, 3)),
    "single": role_forest(3, branching=(1, 1, 1), pairs=False),
    "examples": role_forest(4, branching=(3, 2, 2), pairs=False),
}


@pytest.mark.parametrize("name", FORESTS)
def test_packs_equal_rows(base, name):
    data = FORESTS[name]
    expected = whole_step([packer(data, "rows")], adapted(base, "rows"))
    trees = adapted(base, "trees")
    assert_equal(whole_step([packer(data, "trees")], trees), expected)
    assert_equal(whole_step([packer(data, "trees", tokens=120)], trees), expected)  # cut


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**32 - 1),
    branching=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
    room=st.integers(0, 60),
    pairs=st.booleans(),
)
def test_random_forests(llama, seed, branching, room, pairs):
    data = role_forest(seed, branching=branching, questions=2, pairs=pairs)
    every, stage_pairs = np.arange(len(data)), data.pairs
    need = packer(data, "rows").needs(every, stage_pairs).max()
    expected = whole_step([packer(data, "rows", size=3)], adapted(llama, "rows"))
    found = whole_step([packer(data, "trees", tokens=int(need) + room)], adapted(llama, "trees"))
    assert_equal(found, expected, rel=3e-5)  # some gradient is a small difference of large terms


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("layout", ["trees", "rows"])
def test_processes_share_a_step(llama, layout, world):
    data = role_forest(5, questions=4)
    one = whole_step([packer(data, layout, tokens=90, size=3)], adapted(llama, layout))
    packers = [
        packer(data, layout, tokens=90, size=3, rank=rank, world=world) for rank in range(world)
    ]
    counts = [len(each(range(len(each))).batches) for each in packers]
    assert len(set(counts)) == 1
    assert_equal(whole_step(packers, adapted(llama, layout)), one)
    sizes = [[b.num_tokens for b in each(range(len(each))).batches] for each in packers]
    assert np.ptp(np.sort(sizes, axis=1), axis=0).max() <= 90


def test_more_processes_than_batches():
    data = role_forest(6, questions=1)
    found = [packer(data, "trees", rank=rank, world=3)(range(1)).batches for rank in range(3)]
    assert [[batch.counts for batch in batches] for batches in found] == [[True], [False], [False]]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("pairs", [True, False])
def test_padding_changes_nothing(llama, device, pairs, monkeypatch):
    """Packs as a GPU gets them, through C++, and forward through FlexAttention on a CPU."""
    data = role_forest(1, branching=(3, 2), pairs=pairs)
    model = adapted(llama, "trees")
    expected = whole_step([packer(data, "trees", tokens=100)], model)
    monkeypatch.setattr(packing, "padding", lambda tokens, _: -tokens % 256)
    padded = packer(data, "trees", tokens=100, device=device)
    step = padded(range(len(padded)))
    assert len(step.batches) > 1
    if device == "cpu":
        assert_equal(whole_step([padded], model), expected)
    else:  # without a backward pass, which FlexAttention has on a GPU only
        with torch.no_grad():
            batches = [batch.to(torch.device("cpu")) for batch in step.batches]
            made = [(b.completions, completion_logps(model(b), b)) for b in batches]
        found = torch.cat([logp for _, logp in made])[torch.cat([i for i, _ in made]).argsort()]
        assert found.tolist() == pytest.approx(expected[0], rel=1e-5)
    for batch in step.batches:
        n, length = batch.num_tokens, batch.input_ids.numel()
        assert n < length == 256 and batch.rows.max() < n
        assert batch.position_ids.shape == batch.input_ids.shape
        sees = torch.arange(length)  # itself alone, and nothing else sees it
        assert torch.equal(batch.tree.end[n:].long(), sees[n:] + 1)
        assert batch.tree.end[:n].max() <= n
    assert step.num_tokens == sum(batch.num_tokens for batch in step.batches)


def test_packs_on_a_gpu_have_few_lengths():
    data = role_forest(4, questions=40, branching=(3, 2), tokens=30)
    for tokens in (1000, 1500):
        padded = packer(data, "trees", tokens=tokens, device="cuda")
        whole = range(len(padded))
        batches = padded(whole).batches
        lengths = {batch.input_ids.numel() for batch in batches}
        assert lengths <= {1024, 2048} and max(lengths) == padded.longest(whole)
        plain = packer(data, "trees", tokens=tokens)(whole).batches
        assert [b.num_tokens for b in batches] == [b.input_ids.numel() for b in plain]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("layout", ["trees", "rows"])
def test_the_thread_that_packs_starts_no_others(layout, two_threads):
    """OpenMP has a team for every thread with parallel operations; two teams slow each other."""
    data = role_forest(5, questions=400, branching=(3, 2), tokens=60, pairs=False)
    pack = packer(data, layout, tokens=16384)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(int).result()
        before = len(os.listdir("/proc/self/task"))
        step = thread.submit(pack, range(len(pack))).result()
        assert len(os.listdir("/proc/self/task")) <= before
    assert sum(len(batch.targets) for batch in step.batches) > 20_000


def test_every_prefix_is_laid_out_once():
    data = role_forest(7, branching=(3, 3, 3))
    (batch,) = packer(data, "trees")(range(len(data.pairs))).batches
    paired = np.unique(data.pairs)
    rows = [[*data.prompts[i], *data.completions[i][:-1]] for i in paired]
    distinct = {tuple(row[: n + 1]) for row in rows for n in range(len(row))}
    assert batch.num_tokens == batch.input_ids.numel() == len(distinct)
    assert batch.num_tokens < 0.6 * sum(map(len, rows))


@pytest.mark.parametrize("layout", ["trees", "rows"])
def test_targets_are_the_sampled_tokens_and_end_on_the_end_token(layout):
    data = role_forest(8, pairs=False)
    batches = packer(data, layout, tokens=70, size=4)(range(len(data))).batches
    seen = []
    for batch in batches:
        for k, i in enumerate(batch.completions.tolist()):
            mine, completion = batch.owner == k, data.completions[i]
            assert batch.targets[mine].tolist() == completion.tolist()
            assert completion[-1] == END and batch.lengths[k] == len(completion)
            before = batch.input_ids.flatten()[batch.rows[mine]].tolist()
            assert before == [data.prompts[i][-1], *completion[:-1]]
            seen.append(i)
    assert sorted(seen) == list(range(len(data)))


def test_an_output_sampled_twice_counts_twice(llama):
    data = role_forest(9, questions=1, branching=(2, 2), pairs=False)
    twice = RoleData(
        data.prompts * 2, data.completions * 2, data.pairs, np.tile(data.trees, 2),
        np.tile(data.nodes, 2),
    )  # fmt: skip
    (batch,) = packer(twice, "trees")(range(len(twice))).batches
    (once,) = packer(data, "trees")(range(len(data))).batches
    assert batch.num_tokens == once.num_tokens and len(batch.targets) == 2 * len(once.targets)
    found = whole_step([packer(twice, "trees")], adapted(llama, "trees"))
    assert_equal(found, whole_step([packer(twice, "rows")], adapted(llama, "rows")))


def test_siblings_cousins_and_other_trees_do_not_leak(base):
    data = role_forest(10, branching=(2, 2, 3), pairs=False)
    model, changed = adapted(base, "trees"), 7
    completions = list(data.completions)
    completions[changed] = np.append(completions[changed][:-1], [3, 4, END]).astype(np.int32)
    completions[changed][0] = 59 if completions[changed][0] != 59 else 58
    other = replace(data, completions=completions)
    with torch.no_grad():
        before, after = logps(model, data), logps(model, other)
    untouched = np.arange(len(data)) != changed
    np.testing.assert_allclose(after[untouched], before[untouched], rtol=1e-6)
    assert abs(after[changed] - before[changed]) > 1e-3


def logps(model, data):
    (batch,) = packer(data, "trees")(range(len(data))).batches
    out = np.zeros(len(data), np.float32)
    out[batch.completions] = completion_logps(model(batch), batch).numpy()
    return out


# ---- order ----


@pytest.mark.parametrize("n", [1, 7, 64, 101])
def test_sampler_visits_everything_once_in_steps_of_similar_length(n):
    rng = np.random.default_rng(n)
    trees = np.arange(n) // 3
    lengths = rng.integers(1, 99, n)[trees] + rng.integers(0, 5, n)
    sampler = TreeSampler(lengths, trees, 8, seed=1)
    first = list(sampler)
    assert sorted(first) == list(range(n)) and first == list(sampler)
    sampler.set_epoch(1)
    assert n < 8 or list(sampler) != first
    if n == 64:
        assert np.ptp(lengths[np.reshape(first, (8, 8))], axis=1).mean() < 0.4 * np.ptp(lengths)


def test_trees_stay_together():
    data = role_forest(11, questions=20, branching=(3, 3))
    length, tree = examples_of("dpo", data)
    order = tree[list(TreeSampler(length, tree, 16, seed=0))]
    assert np.count_nonzero(np.diff(order)) < 20 + len(order) // 16


def test_larger_batches_come_first_and_everybody_gets_as_many():
    sizes = [3, 9, 4, 4, 7]
    shares = [share(sizes, rank, 4) for rank in range(4)]
    assert shares[0] == [(1, True), (0, True)]
    assert [each[0] for each in shares] == [(i, True) for i in (1, 4, 2, 3)]
    assert [each[1] for each in shares[1:]] == 3 * [(0, False)]


# ---- mistakes ----


def test_what_does_not_fit_is_named():
    data = role_forest(13, pairs=False)
    need = max(len(p) + len(c) for p, c in zip(data.prompts, data.completions, strict=True)) - 1
    packer(data, "trees", tokens=need)
    with pytest.raises(MaltError, match=rf"node 1\d\d has {need} tokens .* = {need - 1}: raise"):
        packer(data, "trees", tokens=need - 1)
    with pytest.raises(MaltError, match=r"node 1\d\d with 1\d\d has \d+ tokens .* more than"):
        packer(role_forest(13), "trees", tokens=20)


UNPACKABLE = {
    "falcon": hf.FalconConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, alibi=False
    ),
    "gpt2": hf.GPT2Config(
        vocab_size=60, n_embd=32, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2
    ),  # its attention has dropout
    "gpt-oss": hf.GptOssConfig(
        **SIZES, head_dim=8, num_local_experts=2, num_experts_per_tok=1,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", UNPACKABLE)
def test_a_model_that_cannot_read_packs_is_trained_on_rows(family, tmp_path):
    torch.manual_seed(0)
    hf.AutoModelForCausalLM.from_config(UNPACKABLE[family]).save_pretrained(tmp_path)
    model, plain = adapted(str(tmp_path), "trees"), adapted(str(tmp_path), "rows")
    assert model.layout == plain.layout == "rows"
    ids = torch.randint(3, 60, (2, 20))
    assert torch.equal(model.eval().hidden(ids), plain.eval().hidden(ids))


def test_the_bases_own_attention_serves_rows(llama):
    rows, trees = adapted(llama, "rows"), adapted(llama, "trees")
    name = [m.peft_model.get_base_model().config._attn_implementation for m in (rows, trees)]
    assert name[0] != TREE == name[1]
