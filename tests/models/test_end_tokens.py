"""The end tokens that a checkpoint's files name."""

import json
from pathlib import Path
from typing import Any

import pytest

from malt_fast.models.end_tokens import end_tokens
from malt_fast.models.tokenizer import load_tokenizer
from malt_fast.utils.errors import MaltError
from tests.tiny import tiny_llama


def ends(folder: Path, config: Any = 2, generation: Any = None) -> list[int]:
    """The end tokens of a model whose files name these."""
    tiny_llama(folder, layers=1)
    for name, value in (("config.json", config), ("generation_config.json", generation)):
        path = folder / name
        if value is None:
            path.unlink(missing_ok=True)
        else:
            values = json.loads(path.read_text()) | {"eos_token_id": value}
            path.write_text(json.dumps(values))
    return end_tokens(str(folder), load_tokenizer(str(folder)))


@pytest.mark.parametrize(
    ("config", "generation", "found"),
    [
        (2, None, [2]),
        ([5, 2, 6], None, [2, 5, 6]),  # config.json alone
        (7, [8, 9], [2, 8, 9, 7]),
        (-1, None, [2]),  # as some configs write none
    ],
)
def test_all_files_count(tmp_path: Path, config: Any, generation: Any, found: list[int]) -> None:
    assert ends(tmp_path / "model", config, generation) == found


def test_a_broken_generation_config_is_told(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "model", layers=1)
    tokenizer = load_tokenizer(str(folder))
    for text in ('{"eos_token_id": 2', "[1]"):
        (folder / "generation_config.json").write_text(text)
        with pytest.raises(MaltError, match="cannot be read") as told:
            end_tokens(str(folder), tokenizer)
        assert "\n" not in str(told.value)


def test_an_end_token_must_be_a_number(tmp_path: Path) -> None:
    with pytest.raises(MaltError, match="is 'x', which is no token"):
        ends(tmp_path / "model", generation=["x"])
