"""Models and adapters that would run code when loaded are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from malt_fast.config.schema import LoraConfig
from malt_fast.engines import Policy, vllm
from malt_fast.engines.weights import Weights
from malt_fast.models.identity import adapter_identity
from malt_fast.models.loading import check_adapter, load_causal, load_model_config
from malt_fast.models.tokenizer import load_tokenizer
from malt_fast.training.adapters import load_model
from malt_fast.utils.errors import MaltError
from tests.adapters import make_adapter
from tests.small_run import run, write_model, write_questions
from tests.tiny import tiny_llama

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

with Path(__file__).with_name("ran").open("a") as file:
    file.write("x")


class OddConfig(LlamaConfig):
    model_type = "odd"


class OddModel(LlamaForCausalLM):
    config_class = OddConfig


class OddTokenizer(PreTrainedTokenizerFast):
    pass
"""
CLASSES = {"AutoConfig": "code.OddConfig", "AutoModelForCausalLM": "code.OddModel"}


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with its own classes for config, weights and tokenizer."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hub"))
    folder = write_model(tmp_path / "odd")
    (folder / "code.py").write_text(CODE.replace("__file__", repr(str(folder / "code.py"))))
    edit(folder / "config.json", model_type="odd", auto_map=CLASSES)
    own = {"AutoTokenizer": [None, "code.OddTokenizer"]}
    edit(folder / "tokenizer_config.json", auto_map=own, tokenizer_class="OddTokenizer")
    return folder


def test_a_model_runs_its_own_code_only_where_that_is_asked_for(
    odd: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # as transformers asks by default
    for load in (load_model_config, load_tokenizer, load_causal):
        with pytest.raises(MaltError, match=r"odd' has code of its own.* --model\.trust"):
            load(str(odd))
    data, folder = write_questions(tmp_path / "questions.jsonl"), tmp_path / "run"
    assert run(data, odd, folder, "--train.packing", "rows") == 2
    assert not (odd / "ran").exists()
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "--model.trust_remote_code true" in shown

    options = ["--train.packing", "rows", "--model.trust_remote_code", "true"]
    assert run(data, odd, folder, *options) == 0, capsys.readouterr().err
    assert (odd / "ran").exists() and (folder / "adapters/refiner/final").is_dir()


def test_vllm_is_told_as_well_and_loads_safetensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(base: str, arguments: dict[str, Any]) -> Any:
        raise MaltError("{trust_remote_code} {load_format}".format(**arguments))

    monkeypatch.setattr(vllm, "_start", start)
    for trusts in (False, True):
        with pytest.raises(MaltError, match=f"{trusts} safetensors"):
            vllm.VLLMEngine([Policy("m")], trust_remote_code=trusts)
    assert "trust_remote_code" in vllm.OURS  # no second way, past the setting


def pickle_weights(folder: Path, name: str, pickled: str) -> None:
    torch.save(load_file(folder / name), folder / pickled)
    (folder / name).unlink()


def test_pickled_weights_of_a_model_are_refused(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base")
    (base / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(MaltError, match=r"base' cannot be loaded \(.*check --model"):
        load_causal(str(base))
    tiny_llama(base)
    pickle_weights(base, "model.safetensors", "pytorch_model.bin")
    for load in (
        lambda: Weights(str(base), "float32", torch.device("cpu")),
        lambda: load_model(str(base), None, LoraConfig(r=2), dtype="float32", seed=0),
    ):
        with pytest.raises(MaltError, match=r"has no \*\.safetensors, and pickled weights can run"):
            load()


def test_pickled_weights_of_an_adapter_are_refused(tmp_path: Path) -> None:
    base = str(tiny_llama(tmp_path / "base"))
    adapter = Path(make_adapter(base, tmp_path / "adapter", 0))
    check_adapter(adapter)
    pickle_weights(adapter, "adapter_model.safetensors", "adapter_model.bin")
    model = Weights(base, "float32", torch.device("cpu"))
    for load in (
        lambda: model.switch(str(adapter)),
        lambda: load_model(base, adapter, LoraConfig(r=2), dtype="float32", seed=0),
        lambda: adapter_identity(adapter),
    ):
        with pytest.raises(MaltError, match=r"adapter_model\.bin is a pickle, which can run code"):
            load()
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(MaltError, match=r"not an adapter: it has no adapter_model\.safetensors"):
        adapter_identity(adapter)


def test_an_adapter_beside_the_weights_of_a_model_is_not_taken_in_silence(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base")
    shutil.copytree(make_adapter(str(base), tmp_path / "adapter", 0), base, dirs_exist_ok=True)
    with pytest.raises(MaltError, match="has an adapter beside its weights"):
        load_causal(str(base))


def test_settings_that_peft_stumbles_over_are_told_in_words(tmp_path: Path) -> None:
    base = str(tiny_llama(tmp_path / "base"))
    adapter = Path(make_adapter(base, tmp_path / "adapter", 0))
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"monteclora_config": 1.5}))
    with pytest.raises(MaltError, match="its settings are not PEFT's"):
        load_model(base, adapter, LoraConfig(r=2), dtype="float32", seed=0)
