"""What this machine lacks is told at the start; every base model's end tokens are known."""

import json
from pathlib import Path

from malt_fast.config.load import make_config
from malt_fast.sampling.prepare import load_setup
from tests.tiny import byte_tokenizer, tiny_llama


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
