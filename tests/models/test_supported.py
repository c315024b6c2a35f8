"""Models that cannot be used are refused by name, by engine and trainer, before any sampling."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from malt_fast.config.schema import LoraConfig
from malt_fast.engines.weights import Weights
from malt_fast.models.context import context_length, context_setting, window_of
from malt_fast.models.loading import load_causal, load_model_config
from malt_fast.models.tokenizer import load_tokenizer
from malt_fast.training.adapters import load_model
from malt_fast.utils.errors import MaltError
from tests.families import FAMILIES, SHORT, WINDOW, write_family
from tests.small_run import run, write_model, write_questions
from tests.tiny import tiny_llama


def edit(base: Path | str, **values: Any) -> None:
    file = Path(base, "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def assert_refused(base: Path | str, says: str) -> None:
    """By the engine and the trainer."""
    with pytest.raises(MaltError, match=says):
        Weights(str(base), "float32", torch.device("cpu"))
    with pytest.raises(MaltError, match=says):
        load_model(str(base), None, LoraConfig(r=2), dtype="float32", seed=0)


# ---- what config.json tells ----


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "compressed-tensors", "mxfp4"])
def test_quantised_bases_but_those_of_bitsandbytes_are_refused(method, tmp_path):
    base = tiny_llama(tmp_path)
    edit(base, quantization_config={"quant_method": method, "bits": 4, "group_size": 128})
    assert_refused(base, f"quantised by {method}, which is not supported: name the original")


def test_eight_bits_are_refused_since_rows_depend_on_their_batch(tmp_path):
    base = tiny_llama(tmp_path)
    edit(base, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    assert_refused(base, "have 8 bits, and bitsandbytes rounds a row by the others of its batch")


def test_bitsandbytes_must_be_installed(tmp_path, monkeypatch):
    base = tiny_llama(tmp_path)
    edit(base, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    monkeypatch.setattr("malt_fast.models.supported.find_spec", lambda name: None)
    assert_refused(base, r"bitsandbytes, which is not installed: pip install 'bitsandbytes>=")


@pytest.mark.parametrize(
    ("family", "says"),
    [
        *[("bloom", "has alibi"), ("falcon-alibi", "has alibi"), ("gpt-neo", "local attention")],
        ("phimoe", "draws its experts at random while it trains"),
    ],
)
def test_positions_and_masks_of_another_kind_are_refused(family, says, tmp_path):
    assert_refused(write_family(family, tmp_path), says)


def test_the_context_is_what_every_row_of_any_batch_reads():
    configs = {name: make() for name, make in FAMILIES.items()}
    expected = {"phi3": SHORT, "llama": 128, "gemma3-images": 128, "dynamic": 128, "bloom": 1 << 30}
    assert {name: context_length(configs[name]) for name in expected} == expected
    assert context_setting(configs["phi3"]) == "original_max_position_embeddings"
    assert context_setting(configs["llama"]) == "max_position_embeddings"
    windows = {name for name, config in configs.items() if window_of(config) == WINDOW}
    assert windows == {"mistral", "gemma3", "gemma3-images", "gpt-oss"}


# ---- weights ----


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_hidden_layers": 3}, r"model\.layers\.2\.\S+ is missing and 8 more"),
        (
            {"num_hidden_layers": 1},
            r"config\.json has no place for model\.layers\.1\.\S+ and 8 more",
        ),
        ({"intermediate_size": 64}, r"has the shape \[64, 128\], but config\.json says \[64, 64\]"),
        ({"attention_bias": True}, r"k_proj\.bias is missing"),
    ],
)
def test_weights_of_another_config_are_refused(change, says, tmp_path):
    base = tiny_llama(tmp_path)
    edit(base, **change)
    assert_refused(base, rf"do not belong together \(.*{says}.*get both from the same")


def test_parts_that_the_text_model_lacks_may_be_left_out(tmp_path):
    base = tiny_llama(tmp_path)
    file = base / "model.safetensors"
    extra = {"vision_tower.layers.0.self_attn.q_proj.weight": torch.zeros(2, 2)}
    save_file(load_file(file) | extra, file, {"format": "pt"})
    load_causal(str(base))
    save_file(load_file(file) | {"model.layers.1.self_attn.q_proj.bias": torch.zeros(64)}, file)
    assert_refused(base, r"no place for model\.layers\.1\.self_attn\.q_proj\.bias\)")


# ---- tokenizers ----


@pytest.mark.parametrize(
    "kind", ["TokenizersBackend", "LlamaTokenizer", "Qwen2Tokenizer", "T5Tokenizer"]
)
def test_a_tokenizer_without_its_files_is_refused(kind, tmp_path):
    base = tiny_llama(tmp_path)
    load_tokenizer(str(base))
    (base / "tokenizer.json").unlink()
    file = base / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": kind}))
    with pytest.raises(MaltError, match=r"has no vocabulary: its files \(tokenizer\.json"):
        load_tokenizer(str(base))


# ---- before sampling ----


def shorten(base: Path) -> None:
    edit(base, max_position_embeddings=20)


def quantise(base: Path) -> None:
    edit(base, quantization_config={"quant_method": "awq"})


def alternate(base: Path) -> None:
    edit(base, layer_types=["linear_attention"], model_type="qwen3_next")


def add_token(base: Path) -> None:
    """The chat template writes a token that is beyond the embeddings."""
    tokenizer = load_tokenizer(str(base))
    tokenizer.add_tokens(["<think>"])
    tokenizer.chat_template += "<think>"
    tokenizer.save_pretrained(base)


def end_beyond(base: Path) -> None:
    """The template ends turns by a token that is beyond the embeddings, and so does the config."""
    tokenizer = load_tokenizer(str(base))
    tokenizer.add_tokens(["<end>"], special_tokens=True)
    tokenizer.eos_token = "<end>"
    tokenizer.save_pretrained(base)
    for name in ("config.json", "generation_config.json"):
        file = base / name
        file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": 259}))


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (end_beyond, "259"),
        (shorten, "reads 20 (max_position_embeddings in its config.json)"),
        (quantise, "quantised by awq"),
        (alternate, "layers of type linear_attention"),
        (add_token, "the token '<think>' (259), but"),
    ],
)
def test_a_run_ends_with_one_sentence_before_it_begins(harm, says, tmp_path, capsys):
    base = write_model(tmp_path / "base")
    harm(base)
    capsys.readouterr()
    assert run(write_questions(tmp_path / "q.jsonl"), base, tmp_path / "run") == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_shortest_context_of_all_roles_counts(tmp_path, capsys):
    base = write_model(tmp_path / "base")
    short = Path(shutil.copytree(base, tmp_path / "short"))
    shorten(short)
    options = ["--model.roles.refiner", str(short)]
    assert run(write_questions(tmp_path / "q.jsonl"), base, tmp_path / "run", *options) == 2
    assert "short' reads 20" in capsys.readouterr().err


def test_loading_a_config_tells_the_same_as_loading_weights(tmp_path):
    base = write_family("bloom", tmp_path)
    with pytest.raises(MaltError, match="has alibi"):
        load_model_config(base)
