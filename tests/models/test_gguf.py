"""GGUF files become checkpoints that are the model and tokenizer they were made of."""

import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from malt_fast.config.load import make_config
from malt_fast.models import gguf
from malt_fast.models.end_tokens import end_tokens
from malt_fast.models.gguf import checkpoint_of, llama3_factors
from malt_fast.models.gguf_tokenizer import _check_words
from malt_fast.utils.errors import MaltError
from tests.gguf_files import random_llama, smollm_tokenizer, write_gguf
from tests.small_run import run, write_questions

pytest.importorskip("gguf")

TEXTS = [
    "the cat and the hat, in 1234 things:  123 12",
    "<|im_start|>user\nthe<|im_end|>\n\n \tcafé 日本 😀 I'll don't",
    " and 12",
]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def write(folder: Path, **options) -> Path:
    tokenizer = smollm_tokenizer()
    return write_gguf(folder / "tiny.gguf", random_llama(tokenizer), tokenizer, **options)


def test_the_checkpoint_is_the_model_and_the_tokenizer(tmp_path):
    folder, twin = checkpoint_of(write(tmp_path)), smollm_tokenizer()
    read, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        expected = random_llama(twin)(ids).logits
        torch.testing.assert_close(read(ids).logits, expected, rtol=0, atol=1e-6)
    assert tokenizer.get_vocab() == twin.get_vocab()
    for text in TEXTS:
        assert tokenizer(text).input_ids == twin(text).input_ids
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert tokenizer.chat_template == twin.chat_template
    assert not tokenizer.clean_up_tokenization_spaces
    for name in ("config.json", "generation_config.json"):
        assert json.loads((folder / name).read_text())["eos_token_id"] == [2]
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "float32"


def test_halves_stay_halves(tmp_path):
    config = (checkpoint_of(write(tmp_path, half=True)) / "config.json").read_text()
    assert json.loads(config)["dtype"] == "float16"


def test_a_file_is_read_once_and_another_content_has_another_folder(tmp_path, monkeypatch):
    file = write(tmp_path)
    first = checkpoint_of(file)
    monkeypatch.setattr(gguf, "_write", lambda *_: pytest.fail("read again"))
    assert checkpoint_of(file) == first
    file.write_bytes(file.read_bytes() + b"\0")
    monkeypatch.setattr(gguf, "_write", lambda _, folder: (folder / "config.json").touch())
    assert checkpoint_of(file) != first


def test_two_at_once_make_one_checkpoint(tmp_path, monkeypatch, home):
    file, both, made = write(tmp_path), threading.Barrier(2), []

    def slow(_: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        both.wait(30)

    monkeypatch.setattr(gguf, "_write", slow)
    threads = [threading.Thread(target=lambda: made.append(checkpoint_of(file))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made[0] == made[1] and list((home / "malt-fast").iterdir()) == [made[0]]
    assert (made[0] / "config.json").read_text() == "{}"


def test_nothing_is_left_of_a_failed_reading(tmp_path, monkeypatch, home):
    def fail(_: Path, folder: Path) -> None:
        (folder / "config.json").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf, "_write", fail)
    with pytest.raises(MaltError, match=r"\(No space left on device\): make room, or set HF_HOME"):
        checkpoint_of(write(tmp_path))
    assert not list((home / "malt-fast").iterdir())


def test_what_killed_readings_left_is_removed_once_it_is_old(tmp_path):
    file = write(tmp_path)
    folder = checkpoint_of(file)
    old, young = (folder.with_name(f".{folder.name}.{age}.new") for age in ("old", "young"))
    young.mkdir()
    shutil.copytree(folder, old)
    for path in [*old.iterdir(), old]:
        os.utime(path, (0, 0))
    assert checkpoint_of(file) == folder
    assert {*folder.parent.iterdir()} == {folder, young}


def test_the_ends_of_a_turn_and_of_a_text_both_end_outputs(tmp_path):
    folder = checkpoint_of(write(tmp_path, more=lambda writer: writer.add_eot_token_id(0)))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert end_tokens(str(folder), tokenizer) == [0, 2]


# ---- positions ----


def rope(factor: float):
    def add(writer) -> None:
        import numpy as np

        values = llama3_factors(1e4, 8, factor, 1.0, 4.0, 8192)
        writer.add_tensor("rope_freqs.weight", np.array(values, np.float32))

    return add


def test_the_scaling_of_llama_3_is_restored(tmp_path):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    folder = checkpoint_of(write(tmp_path, more=rope(32.0)))
    found = LlamaConfig.from_pretrained(folder).rope_parameters
    assert (found["rope_type"], found["factor"]) == ("llama3", 32.0)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](LlamaConfig.from_pretrained(folder), "cpu")
    plain = 1e4 ** -(torch.arange(0, 8, 2) / 8)
    torch.testing.assert_close(
        plain / scaled, torch.tensor(llama3_factors(1e4, 8, 32.0, 1.0, 4.0, 8192))
    )


@pytest.mark.parametrize(
    "more",
    [rope(5.0), lambda writer: writer.add_rope_scaling_type(yarn())],
    ids=["factors", "yarn"],
)
def test_other_scalings_are_refused(more, tmp_path):
    with pytest.raises(MaltError, match="scales its positions in a way that transformers does not"):
        checkpoint_of(write(tmp_path, more=more))


def yarn():
    from gguf import RopeScalingType

    return RopeScalingType.YARN


# ---- mistakes ----


def test_what_cannot_be_read_is_told_in_one_sentence(tmp_path, monkeypatch):
    file = write(tmp_path)
    whole = file.read_bytes()
    for size in (4, 30, len(whole) // 8, len(whole) // 2, len(whole) - 200):
        file.write_bytes(whole[:size])
        with pytest.raises(MaltError, match="is damaged or cut off: copy or download it again"):
            checkpoint_of(file)
    file.write_bytes(b"hello")
    with pytest.raises(MaltError, match=r"tiny\.gguf' is no GGUF file"):
        checkpoint_of(file)
    with pytest.raises(MaltError, match=r"none\.gguf' is no file"):
        checkpoint_of(tmp_path / "none.gguf")
    with pytest.raises(MaltError, match=r"architecture rwkv6 is not supported yet\): name the"):
        checkpoint_of(write(tmp_path, architecture="rwkv6"))
    parts = write(tmp_path, more=lambda writer: writer.add_uint16("split.count", 3))
    with pytest.raises(MaltError, match="is one of 3 parts: join them with llama-gguf-split"):
        checkpoint_of(parts)
    monkeypatch.setattr("malt_fast.models.gguf.find_spec", lambda name: None)
    with pytest.raises(MaltError, match=r"not installed: pip install 'gguf>="):
        checkpoint_of(write(tmp_path))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("tokenizer.ggml.pre", "odd", "cuts text into words by the rule 'odd'"),
        ("tokenizer.ggml.model", "rwkv", "a tokenizer of the kind 'rwkv'"),
    ],
)
def test_tokenizers_of_unknown_kinds_are_refused(key, value, says, tmp_path, monkeypatch):
    monkeypatch.setattr(gguf, "_metadata", changed(gguf._metadata, key, value))
    with pytest.raises(MaltError, match=says):
        checkpoint_of(write(tmp_path))


@pytest.mark.parametrize("key", ["merges", "token_type", "tokens", "merges of unknown tokens"])
def test_an_incomplete_tokenizer_is_refused(key, tmp_path, monkeypatch):
    def metadata(file, read=gguf._metadata):
        values, kind, factors = read(file)
        values["tokenizer.ggml.merges"][-1:] = ["odd one"] if " " in key else []
        values.pop(f"tokenizer.ggml.{key}", None)
        return values, kind, factors

    monkeypatch.setattr(gguf, "_metadata", metadata)
    says = r"the tokenizer in .*gguf. is incomplete \(.*name the original"
    with pytest.raises(MaltError, match=says):
        checkpoint_of(write(tmp_path))


class Letters:
    """A tokenizer that cannot put letters together."""

    def get_vocab(self) -> dict[str, int]:
        return {f"▁word{chr(97 + i % 26)}{chr(97 + i // 26)}": i for i in range(400)}

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return list(text.encode())


def test_a_tokenizer_that_takes_words_apart_is_refused():
    with pytest.raises(MaltError, match="wrong tokenizer from 'a\\.gguf', which takes words apart"):
        _check_words(Path("a.gguf"), Letters())


def changed(read, key, value):
    def metadata(file):
        values, kind, factors = read(file)
        return values | {key: value}, kind, factors

    return metadata


# ---- a run ----


def test_the_ending_may_be_in_capitals(tmp_path):
    file = write(tmp_path)
    loud = file.rename(tmp_path / "TINY.GGUF")
    config = make_config({"model": {"name_or_path": str(loud)}})
    assert Path(config.base_model()) == checkpoint_of(loud)


def test_a_run_on_a_gguf_file(tmp_path, capsys, home):
    file = write(tmp_path)
    options = ["--model.roles.refiner", str(file), "--train.sft.max_steps", "1"]
    status = run(write_questions(tmp_path / "q.jsonl"), file, tmp_path / "run", *options)
    assert status == 0, capsys.readouterr().err
    assert str(file) in (tmp_path / "run/config.yaml").read_text()
    (folder,) = (home / "malt-fast").iterdir()
    config = make_config({"model": {"name_or_path": str(file), "roles": {"refiner": str(file)}}})
    assert config.base_model() == config.base_model("refiner") == str(folder)
    file.write_bytes(file.read_bytes()[:1000])
    capsys.readouterr()
    assert run(tmp_path / "q.jsonl", file, tmp_path / "other") == 2
    told = capsys.readouterr().err
    assert "is damaged or cut off" in told and told.count("\n") == 1
