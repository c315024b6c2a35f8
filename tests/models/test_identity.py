"""Identities of models, adapters and files: by content, and new where the content is."""

import os
import shutil
from pathlib import Path

import pytest

from malt_fast.models.identity import adapter_identity, content, model_identity
from malt_fast.utils.errors import MaltError
from tests.tiny import tiny_llama


def test_a_changed_file_has_another_hash(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    first = content(file)
    assert content(file) == first
    file.write_bytes(b"two!")  # another size
    second = content(file)
    file.write_bytes(b"two?")  # the same size, another time
    os.utime(file, ns=(1, 1))
    assert len({first, second, content(file)}) == 3
    file.write_bytes(b"one")
    assert content(file) == first


def test_a_copy_is_the_same_model_and_another_weight_is_not(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "a")
    shutil.copytree(model, tmp_path / "b")
    assert model_identity(str(model)) == model_identity(str(tmp_path / "b"))
    weights = tmp_path / "b" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert model_identity(str(model)) != model_identity(str(tmp_path / "b"))


def test_no_adapter(tmp_path: Path) -> None:
    assert adapter_identity(None) == ""
    with pytest.raises(MaltError, match="not an adapter"):
        adapter_identity(tmp_path)
