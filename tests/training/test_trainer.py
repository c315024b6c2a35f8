"""The trainer against plain forwards, against other cuts of its steps, and killed and resumed."""

import copy
import gc
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from malt_fast.config.schema import LoraConfig
from malt_fast.config.stages import DPOStageConfig, StageConfig
from malt_fast.forest.role_data import RoleData
from malt_fast.training import trainer
from malt_fast.training.adapters import LogProbModel, load_model
from malt_fast.training.packing import Packer, Packing
from malt_fast.training.stage import StageSpec
from malt_fast.training.train_stage import train_stage
from malt_fast.training.trainer import StageTrainer
from malt_fast.utils.errors import MaltError
from tests.families import SHORT, WINDOW, write_family
from tests.tiny import tiny_llama

END = 2  # </s> of the byte tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(tiny_llama(tmp_path_factory.mktemp("base"), max_position_embeddings=64))


def role_data(questions=3, n=3, seed=0):
    """`n` siblings per question, the first preferred to the others; completions end with END."""
    rng = np.random.default_rng(seed)
    prompts, completions, pairs, trees = [], [], [], []
    for tree in range(questions):
        prompt = rng.integers(3, 259, rng.integers(1, 9)).astype(np.int32)
        for k in range(n):
            if k:
                pairs.append((len(prompts) - k, len(prompts)))
            prompts.append(prompt)
            trees.append(tree)
            completions.append(
                np.append(rng.integers(3, 259, rng.integers(0, 12)), END).astype(np.int32)
            )
    return RoleData(
        prompts,
        completions,
        np.array(pairs, dtype=np.int64).reshape(-1, 2),
        np.array(trees, dtype=np.int64),
        np.arange(len(prompts)),
    )


def labels(data, pairs=False, again=()):
    """The data with labels for all completions, one in three desirable, for some `again`."""
    some = np.append(np.arange(len(data)), np.array(again, np.int64))
    labelled = np.stack([some, some % 3 == 0], 1).astype(np.int64)
    return replace(data, labelled=labelled, pairs=data.pairs if pairs else data.pairs[:0])


def train(
    stage,
    data,
    base,
    out,
    *,
    init=None,
    reference="sft",
    on_log=None,
    on_start=None,
    lora=None,
    layout="trees",
    pack_tokens=4096,
    load_in_4bit=False,
    use_liger_kernel=False,
    device="cpu",
    **settings,
):
    defaults = {"learning_rate": 1e-2, "logging_steps": 1, "per_device_train_batch_size": 4}
    config = StageConfig if stage == "sft" else DPOStageConfig
    spec = StageSpec(
        stage=stage,
        role="refiner",
        base=base,
        init_adapter=init,
        lora=lora or LoraConfig(r=4),
        args=config(**(defaults | settings)),
        reference=reference,
        dtype="float32",
        load_in_4bit=load_in_4bit,
        use_liger_kernel=use_liger_kernel,
        seed=7,
        layout=layout,
        pack_tokens=pack_tokens,
        device=device,
    )
    return train_stage(spec, data, out, on_log, on_start)


def logps(base, adapter, data):
    """The summed log-prob of each completion by a plain forward of PEFT's model, row by row."""
    model = AutoModelForCausalLM.from_pretrained(base)
    model = peft.PeftModel.from_pretrained(model, adapter).eval() if adapter else model
    out = []
    for prompt, completion in zip(data.prompts, data.completions, strict=True):
        ids = torch.from_numpy(np.concatenate([prompt, completion])).long()
        with torch.no_grad():
            table = model(input_ids=ids[None]).logits[0].log_softmax(-1)
        picked = table[:-1].gather(1, ids[1:, None]).squeeze(1)
        out.append(picked[len(prompt) - 1 :].sum().item())
    return out


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


def assert_same(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], **tolerance)


@pytest.fixture(scope="module")
def sft(base, tmp_path_factory):
    """(data, lines, Trained) of an SFT stage."""
    data, lines = role_data(), []
    out = tmp_path_factory.mktemp("sft") / "adapter"
    trained = train("sft", data, base, out, on_log=lines.append, num_train_epochs=3)
    return data, lines, trained


# ---- the model ----


def test_a_capped_head_gives_the_models_own_log_probs(tmp_path):
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=1, head_dim=16,
        num_attention_heads=2, num_key_value_heads=1, final_logit_softcapping=0.5,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), None, LoraConfig(r=2), dtype="float32", seed=0)
    data = RoleData(
        [np.array([4, 9], np.int32)] * 2,
        [np.array([4, 49], np.int32), np.array([0], np.int32)],
        np.zeros((0, 2), np.int64),
        np.zeros(2, np.int64),
        np.arange(2),
    )
    (batch,) = Packer("sft", data, Packing("rows", 0, 8, "cpu"))([0, 1]).batches
    table = model.peft_model(input_ids=batch.input_ids).logits.log_softmax(-1).flatten(0, 1)
    torch.testing.assert_close(model(batch), table[batch.rows, batch.targets])


# ---- training ----


def test_adapter_loads_in_peft_alone_and_changes_log_probs(base, sft):
    data, lines, trained = sft
    before, after = logps(base, None, data), logps(base, trained.adapter, data)
    assert sum(after) > sum(before) + 1
    settings = json.loads((trained.adapter / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == base
    assert (
        settings["peft_type"] == "LORA"
        and settings["task_type"] == "CAUSAL_LM"
        and settings["bias"] == "none"
    )
    assert (
        not settings["modules_to_save"]
        and not settings["use_dora"]
        and not settings["rank_pattern"]
    )
    assert not any("lm_head" in name or "embed" in name for name in weights(trained.adapter))
    assert not [
        p for p in trained.adapter.parent.iterdir() if p != trained.adapter
    ]  # no checkpoints left
    assert lines[-1]["step"] == lines[-1]["max_steps"] == 9


def test_sft_loss_is_the_mean_negative_log_prob_of_completion_tokens(base, sft, tmp_path):
    data, _, _ = sft
    lines = []
    settings = {"per_device_train_batch_size": 9, "layout": "rows"}
    train("sft", data, base, tmp_path / "a", on_log=lines.append, **settings)
    expected = -sum(logps(base, None, data)) / sum(map(len, data.completions))
    assert lines[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert lines[0]["num_tokens"] == sum(
        len(p) + len(c) - 1 for p, c in zip(data.prompts, data.completions, strict=True)
    )


def test_dpo_starts_at_ln_2_and_widens_margins(base, sft, tmp_path):
    data, _, start = sft
    lines, held = [], copy.deepcopy(weights(start.adapter))
    torch.manual_seed(5)
    trained = train(
        "dpo",
        data,
        base,
        tmp_path / "a",
        init=start.adapter,
        on_log=lines.append,
        num_train_epochs=4,
        per_device_train_batch_size=6,
    )
    first = lines[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)
    log_probs = logps(base, start.adapter, data)
    assert first["logps/chosen"] == pytest.approx(
        np.mean([log_probs[c] for c, _ in data.pairs]), rel=1e-5
    )
    assert trained.metrics["first_loss"] == first["loss"]
    assert lines[-2]["rewards/margins"] > 0.1 and lines[-2]["rewards/accuracies"] > 0.6
    assert_same(weights(start.adapter), held)  # the SFT adapter itself is left alone


def test_base_reference_measures_from_the_bare_model(base, sft, tmp_path):
    data, _, start = sft
    lines = []
    train(
        "dpo",
        data,
        base,
        tmp_path / "a",
        init=start.adapter,
        reference="base",
        on_log=lines.append,
        per_device_train_batch_size=6,
        beta=0.5,
        max_steps=1,
    )
    bare, tuned = logps(base, None, data), logps(base, start.adapter, data)
    expected = np.mean([0.5 * (tuned[c] - bare[c]) for c, _ in data.pairs])
    assert lines[0]["rewards/chosen"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_accumulation_changes_nothing(stage, base, tmp_path):
    data = role_data(questions=4, n=2)  # 8 completions, 4 pairs
    size = len(data.completions) if stage == "sft" else len(data.pairs)
    extra = {"rpo_alpha": 1.0} if stage == "dpo" else {}
    found = [
        train(
            stage,
            data,
            base,
            tmp_path / str(steps),
            num_train_epochs=3,
            learning_rate=1e-3,
            per_device_train_batch_size=size // steps,
            gradient_accumulation_steps=steps,
            **extra,
        )
        for steps in (1, 4)
    ]
    assert found[0].metrics["loss"] == pytest.approx(found[1].metrics["loss"], rel=1e-5)
    assert found[0].metrics["grad_norm"] == pytest.approx(found[1].metrics["grad_norm"], rel=1e-4)
    assert_same(*(weights(t.adapter) for t in found), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("stage", "stop"), [("sft", 3), ("sft", 5), ("dpo", 5)])
def test_a_killed_stage_resumes_to_the_same_weights(stage, stop, base, sft, tmp_path):
    data, _, start = sft
    settings = {
        "init": start.adapter,
        "num_train_epochs": 3,
        "save_steps": 1,
        "per_device_train_batch_size": 3,
        "warmup_steps": 2,
        "lr_scheduler_type": "cosine",
        "gradient_accumulation_steps": 1,
    }
    whole = train(stage, data, base, tmp_path / "whole", **settings)

    def kill(line):
        if line["step"] == stop:
            raise KeyboardInterrupt

    out = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        train(stage, data, base, out, on_log=kill, **settings)
    assert not out.exists()
    (
        tmp_path / "killed.checkpoints" / "staging" / "checkpoint-99"
    ).mkdir()  # half-written ones do not count
    lines = []
    resumed = train(stage, data, base, out, on_log=lines.append, **settings)
    assert lines[0]["step"] == stop
    assert_same(weights(whole.adapter), weights(resumed.adapter), rtol=0, atol=0)
    assert resumed.metrics["num_tokens"] == whole.metrics["num_tokens"]


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_resumed_stage_logs_what_a_whole_one_does(stage, base, sft, tmp_path):
    """Means go over the steps before the checkpoint, too."""
    data, _, start = sft
    settings = {"init": start.adapter, "num_train_epochs": 4, "per_device_train_batch_size": 3}
    settings |= {"logging_steps": 3, "save_steps": 1}
    lines = {"whole": [], "killed": []}
    whole = train(stage, data, base, tmp_path / "a", on_log=lines["whole"].append, **settings)

    def kill(line):
        lines["killed"].append(line)
        if line["step"] == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stage, data, base, tmp_path / "b", on_log=kill, **settings)
    (left,) = (tmp_path / "b.checkpoints").glob("checkpoint-*")
    assert left.name == "checkpoint-5"  # between two lines
    del lines["killed"][2:]  # of steps 1 and 3
    again = train(stage, data, base, tmp_path / "b", on_log=lines["killed"].append, **settings)
    timed = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos"}
    assert len(lines["whole"]) == len(lines["killed"]) > 2
    for one, other in zip(lines["whole"], lines["killed"], strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - timed:
            assert one[name] == pytest.approx(other[name], rel=1e-6, abs=1e-9), name
    assert again.metrics["train_loss"] == pytest.approx(whole.metrics["train_loss"], rel=1e-6)


def test_a_checkpoint_of_other_processes_or_layout_is_no_silent_loss(base, tmp_path):
    data, settings = role_data(questions=2), {"save_steps": 1, "num_train_epochs": 3}

    def kill(line):
        if line["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("sft", data, base, tmp_path / "a", on_log=kill, **settings)
    with pytest.raises(MaltError, match=r"checkpoint-1 was made with train.packing trees in 1 pro"):
        train("sft", data, base, tmp_path / "a", layout="rows", **settings)
    lines = []
    train("sft", data, base, tmp_path / "a", on_log=lines.append, **settings)
    assert lines[0]["step"] == 2


def test_a_stage_leaves_no_model_in_memory(base, tmp_path):
    gc.collect()  # what other tests left
    gc.disable()
    try:
        train("sft", role_data(questions=2), base, tmp_path / "a", max_steps=1)
        assert not [x for x in gc.get_objects() if isinstance(x, LogProbModel | StageTrainer)]
    finally:
        gc.enable()


@pytest.mark.parametrize("how", ["flip", "empty", "remove"])
@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"]
)
def test_a_damaged_checkpoint_is_left_out(name, how, base, tmp_path, caplog):
    data, settings = role_data(questions=2), {"save_steps": 1, "num_train_epochs": 3}
    whole = train("sft", data, base, tmp_path / "whole", **settings)

    def kill(line):
        if line["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("sft", data, base, tmp_path / "a", on_log=kill, **settings)
    (file,) = (tmp_path / "a.checkpoints").glob(f"checkpoint-*/{name}")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if how == "remove":
        file.unlink()
    else:
        file.write_bytes(content if how == "flip" else b"")
    lines = []
    again = train("sft", data, base, tmp_path / "a", on_log=lines.append, **settings)
    assert lines[0]["step"] == 1 and "is damaged" in caplog.text
    assert_same(weights(whole.adapter), weights(again.adapter), rtol=0, atol=0)


def test_what_lies_beside_checkpoints_is_no_checkpoint(base, tmp_path):
    data, settings = role_data(questions=2), {"save_steps": 1, "num_train_epochs": 4}

    def kill(line):
        if line["step"] == 2:
            (tmp_path / "a.checkpoints" / "checkpoint-1 (copy)").mkdir()
            (tmp_path / "a.checkpoints" / "checkpoint-1.zip").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("sft", data, base, tmp_path / "a", on_log=kill, **settings)
    lines = []
    train("sft", data, base, tmp_path / "a", on_log=lines.append, **settings)
    assert lines[0]["step"] == 2


def test_a_checkpoint_is_on_the_disk_before_the_older_one_goes(base, tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(trainer, "sync_tree", lambda folder: synced.append(folder.name))
    monkeypatch.setattr(trainer, "sync_folder", lambda folder: synced.append(folder.name))
    rmtree = trainer.shutil.rmtree

    def remove(folder, *more, **named):
        if folder.name.startswith("checkpoint-"):
            assert synced[-2:] == [f"checkpoint-{int(folder.name[11:]) + 1}", "a.checkpoints"]
        rmtree(folder, *more, **named)

    monkeypatch.setattr(trainer.shutil, "rmtree", remove)
    train("sft", role_data(questions=2), base, tmp_path / "a", save_steps=1, num_train_epochs=3)
    assert len(synced) >= 4


def test_references_are_kept_as_they_come(base, sft, tmp_path, monkeypatch):
    """A stage stopped while computing them computes the missing ones, and ends the same."""
    data, _, start = sft
    monkeypatch.setattr(trainer, "REFERENCES", 3)
    whole = train("dpo", data, base, tmp_path / "whole", init=start.adapter)
    compute, computed = StageTrainer._reference_logps, []

    def counted(self, model, completions, bare):
        if len(computed) == 2:
            raise KeyboardInterrupt
        computed.append(len(completions))
        return compute(self, model, completions, bare)

    with monkeypatch.context() as patch:
        patch.setattr(StageTrainer, "_reference_logps", counted)
        with pytest.raises(KeyboardInterrupt):
            train("dpo", data, base, tmp_path / "a" / "x", init=start.adapter)
    seen = []
    monkeypatch.setattr(
        StageTrainer, "_reference_logps",
        lambda self, model, some, bare: seen.append(len(some)) or compute(self, model, some, bare),
    )  # fmt: skip
    again = train("dpo", data, base, tmp_path / "a" / "x", init=start.adapter)
    used = len(np.unique(data.pairs))
    assert sum(computed) == 6 and sum(seen) == used - 6 > 0
    assert_same(weights(whole.adapter), weights(again.adapter), rtol=0, atol=0)


def test_a_checkpoint_of_other_settings_is_not_resumed(base, tmp_path):
    data = role_data(questions=2)

    def kill(line):
        if line["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("sft", data, base, tmp_path / "a", on_log=kill, save_steps=1, num_train_epochs=3)
    lines = []
    train("sft", data, base, tmp_path / "a", on_log=lines.append, save_steps=1, num_train_epochs=2)
    assert lines[0]["step"] == 1


def test_bf16_checkpointing_and_dropout_run(base, tmp_path):
    data, lora = role_data(questions=1), LoraConfig(r=4, lora_dropout=0.1, use_rslora=True)
    lines = []
    train(
        "dpo",
        data,
        base,
        tmp_path / "a",
        lora=lora,
        on_log=lines.append,
        bf16=True,
        gradient_checkpointing="full",
    )
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)


def test_four_bit_base_weights(base, tmp_path):
    """QLoRA: log-probs close to those of full weights, and an equally good loss."""
    pytest.importorskip("bitsandbytes")
    data, lines = role_data(), {True: [], False: []}
    for four_bit, told in lines.items():
        folder = tmp_path / str(four_bit)
        settings = {"on_log": told.append, "num_train_epochs": 6, "load_in_4bit": four_bit}
        train("sft", data, base, folder, per_device_train_batch_size=9, **settings)
    assert lines[True][0]["loss"] == pytest.approx(lines[False][0]["loss"], rel=0.02)
    assert lines[True][0]["loss"] != lines[False][0]["loss"]
    assert lines[True][-2]["loss"] < lines[True][0]["loss"] - 0.3
    trained = train(
        "dpo", data, base, tmp_path / "dpo", init=tmp_path / "True", load_in_4bit=True,
        per_device_train_batch_size=6,
    )  # fmt: skip
    assert trained.metrics["first_loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_gradients_of_four_bit_weights_are_those_of_the_weights_they_stand_for(base):
    """Also after an inference, at which bitsandbytes stores weights anew on some CPUs."""
    bnb = pytest.importorskip("bitsandbytes")
    found = load_model(
        base, None, LoraConfig(r=2), dtype="float32", seed=0, four_bit_on=torch.device("cpu")
    )
    twin = load_model(base, None, LoraConfig(r=2), dtype="float32", seed=0)
    layers = dict(twin.named_modules())
    for name, layer in found.named_modules():
        if isinstance(layer, bnb.nn.Linear4bit):
            whole = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            layers[name].weight.data.copy_(whole)
    ids, gradients = torch.arange(3, 40)[None], []
    for model in (found, twin):
        torch.manual_seed(1)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
        with torch.no_grad():
            model.eval().hidden(ids)
        model.train().hidden(ids).pow(2).sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert_same(*gradients, rtol=1e-3, atol=1e-3)


def test_lora_leaves_the_vision_tower_alone(tmp_path):
    base = write_family("gemma3-images", tmp_path / "base")
    train("sft", small_vocabulary(), base, tmp_path / "adapter")
    names = [name for name in weights(tmp_path / "adapter") if "lora" in name]
    assert len(names) == 28 and all("language_model" in name for name in names)


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_paths_longer_than_the_window_are_trained_on_rows(family, tmp_path, caplog):
    base, data = write_family(family, tmp_path / "base"), small_vocabulary(prompt=WINDOW)
    runs = [
        train("sft", data, base, tmp_path / layout, layout=layout) for layout in ("rows", "trees")
    ]
    assert f"has a window of {WINDOW}" in caplog.text
    assert_same(weights(runs[0].adapter), weights(runs[1].adapter), rtol=0, atol=0)


def test_longrope_is_trained_up_to_its_original_context(tmp_path):
    base, data = write_family("phi3", tmp_path / "base"), small_vocabulary(prompt=SHORT)
    with pytest.raises(MaltError, match=f"more than the model's context of {SHORT}"):
        train("sft", data, base, tmp_path / "adapter")


def small_vocabulary(prompt=4):
    """Data for the models of tests/families.py."""
    data, rng = role_data(), np.random.default_rng(0)
    prompts = [rng.integers(3, 60, prompt).astype(np.int32) for _ in data.prompts]
    completions = [np.where(c == END, END, c % 57 + 3).astype(np.int32) for c in data.completions]
    return replace(data, prompts=prompts, completions=completions)


# ---- mistakes ----


def token(*ids):
    return np.array(ids, dtype=np.int32)


@pytest.mark.parametrize(
    ("prompt", "completion", "says"),
    [
        (token(*[5] * 60), token(*[5] * 5), "context of 64"),
        (token(5), token(), "leave it out"),
        (token(), token(5), "leave it out"),
        (token(5), token(999), "token 999"),
    ],
)
def test_sequences_that_cannot_be_trained_on_are_named(prompt, completion, says, base, tmp_path):
    data = role_data(questions=1)
    data = RoleData(
        [*data.prompts, prompt],
        [*data.completions, completion],
        data.pairs,
        np.append(data.trees, 0),
        np.append(data.nodes, 77),
    )
    with pytest.raises(MaltError, match="node 77 .*" + says):
        train("sft", data, base, tmp_path / "a")


def test_other_mistakes_are_one_sentence(base, tmp_path):
    data = role_data(questions=1)
    none = replace(data, pairs=np.zeros((0, 2), dtype=np.int64))
    with pytest.raises(MaltError, match="no pairs"):
        train("dpo", none, base, tmp_path / "a")
    with pytest.raises(MaltError, match="max_length of 4"):
        train("sft", data, base, tmp_path / "a", max_length=4)
    with pytest.raises(MaltError, match="lm_head"):
        train("sft", data, base, tmp_path / "a", lora=LoraConfig(r=4, target_modules=["lm_head"]))
    with pytest.raises(MaltError, match="adapter"):
        train("sft", data, base, tmp_path / "a", lora=LoraConfig(r=4, target_modules=["nowhere"]))
    with pytest.raises(MaltError, match="cannot be loaded"):
        train("sft", data, str(tmp_path / "missing"), tmp_path / "a")


def test_a_loss_that_is_not_finite_names_its_nodes(base, tmp_path, monkeypatch):
    data = role_data()
    monkeypatch.setattr(trainer, "sft_loss", lambda logp, items: logp.sum() * math.nan)
    with pytest.raises(MaltError, match=r"sft loss became nan at step 0 .* lower the"):
        train("sft", data, base, tmp_path / "a")
    left = json.loads((tmp_path / "a.checkpoints" / "not-finite.json").read_text())
    assert left["step"] == 0 and set(left["nodes"]) <= set(data.nodes.tolist())


def test_weights_that_give_no_numbers_are_refused(base, sft, tmp_path):
    data, _, start = sft
    broken = tmp_path / "broken"
    shutil.copytree(start.adapter, broken)
    huge = {name: 1e30 * weight for name, weight in weights(broken).items()}
    save_file(huge, broken / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MaltError, match="not finite"):
        train("sft", data, base, tmp_path / "a", init=broken)
