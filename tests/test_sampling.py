"""What this machine lacks is told at the start; every base model's end tokens are known."""

import gc
import json
import sys
from pathlib import Path

import pytest

from malt_fast.config import make_config
from malt_fast.errors import MaltError
from malt_fast.sampling import check_loggers, load_setup
from tests.tiny import byte_tokenizer, tiny_llama


@pytest.mark.parametrize("logger", ["wandb", "mlflow", "neptune", "comet_ml"])
@pytest.mark.filterwarnings("ignore:The NeptuneCallback")
def test_a_logger_that_is_not_installed_is_refused_with_its_install_line(
    logger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "transformers.integrations.integration_utils"
    monkeypatch.setattr(f"{module}._is_comet_installed", False)
    monkeypatch.setattr(f"{module}.is_{logger}_available", lambda: False, raising=False)
    complaints: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    with pytest.raises(MaltError, match="pip install") as caught:
        check_loggers(["tensorboard", logger])
    assert "\n" not in str(caught.value) and str(caught.value)[-1] != "."
    del caught
    gc.collect()  # half-made loggers too, whose __del__ would print a traceback
    assert complaints == []


def test_loggers_that_are_there_are_not_disturbed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for names in (["tensorboard"], ["none"], ["all"], []):
        check_loggers(names)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(MaltError, match=r"paper is not supported.*: choose"):
        check_loggers(["paper"])


def test_end_tokens_of_every_base_in_the_chain_end_an_output(tmp_path: Path) -> None:
    base, other = tiny_llama(tmp_path / "base"), tiny_llama(tmp_path / "other", seed=1)
    for folder, ids in [(base, 2), (other, [2, 7, 9])]:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = "<s>"
    tokenizer.save_pretrained(other)
    model = {"name_or_path": str(base), "roles": {"verifier": str(other)}}
    task = {"limit": 1, "test_limit": 1}
    mixed = make_config({"model": model, "task": task})
    assert set(load_setup(mixed).prompts.end_ids) == {1, 2, 7, 9}
    plain = make_config({"model": {"name_or_path": str(base)}, "task": task})
    assert load_setup(plain).prompts.end_ids == (2,)
