"""The embedded engine on families with windows, experts and quantised layers, against transformers
and PEFT."""

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from malt_fast.engines import Completion, Policy, Request, SamplingParams
from malt_fast.engines.hf import HFEngine
from malt_fast.engines.weights import Weights
from malt_fast.utils.errors import MaltError
from tests.adapters import make_adapter
from tests.families import SHORT, WINDOW, write_family


def sample(base, prompts, *, adapter=None, batch_size=4, max_tokens=30) -> list[Completion]:
    engine, params = (
        HFEngine(batch_size=batch_size),
        SamplingParams(temperature=0, max_tokens=max_tokens),
    )
    policy = Policy(base, adapter)
    engine.submit([Request(i, "", (), policy, p, params, i) for i, p in enumerate(prompts)])
    done = {}
    while engine.pending:
        done |= {completion.id: completion for completion in engine.poll()}
    return [done[i] for i in range(len(prompts))]


def random_prompts(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(3, 60, n).astype(np.int32) for n in lengths]


def assert_plain(model, prompts, done) -> None:
    """Log-probs are those of a plain forward of each row alone."""
    for prompt, completion in zip(prompts, done, strict=True):
        assert not completion.error
        ids = torch.tensor([[*prompt.tolist(), *completion.tokens.tolist()]])
        with torch.no_grad():
            table = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1).numpy()
        expected = table[np.arange(len(completion.tokens)), completion.tokens]
        np.testing.assert_allclose(completion.logprobs, expected, atol=5e-5)


@pytest.mark.parametrize("family", ["mistral", "gemma3", "gemma3-images", "dynamic", "qwen3-moe"])
def test_rows_on_both_sides_of_a_window_are_plain_forwards(family, tmp_path):
    base = write_family(family, tmp_path)
    prompts = random_prompts(3, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW)
    done = sample(base, prompts)
    assert all(len(completion.tokens) == 30 for completion in done)
    assert_plain(AutoModelForCausalLM.from_pretrained(base).eval(), prompts, done)


def test_a_row_of_longrope_is_the_same_beside_a_longer_one(tmp_path):
    base = write_family("phi3", tmp_path)
    prompts = random_prompts(SHORT // 2, SHORT - 1, SHORT)
    short, full, long = sample(base, prompts, max_tokens=100)
    assert (len(short.tokens), len(full.tokens)) == (SHORT // 2, 1)
    assert f"holds {SHORT}" in long.error
    assert_plain(AutoModelForCausalLM.from_pretrained(base).eval(), prompts[:2], [short, full])


def test_a_window_that_cannot_be_kept_to_is_refused(tmp_path):
    base = write_family("gpt-oss", tmp_path)
    with pytest.raises(MaltError, match="cannot keep to the sliding window of"):
        Weights(base, "float32", torch.device("cpu"))


def test_a_family_that_cannot_be_decoded_is_refused_before_it_samples(tmp_path, monkeypatch):
    monkeypatch.setattr("malt_fast.models.loading.check_supported", lambda *_: None)
    base = write_family("bloom", tmp_path)
    with pytest.raises(MaltError, match=r"cannot sample from '.*' \(too many values to unpack"):
        sample(base, random_prompts(5))


def test_positions_that_are_not_the_usual_ones_are_noticed(tmp_path, monkeypatch):
    base, forward = write_family("llama", tmp_path), LlamaRotaryEmbedding.forward

    def shifted(self, x, position_ids):
        return forward(self, x, position_ids + (x.shape[1] == 1))

    sample(base, random_prompts(5))
    monkeypatch.setattr(LlamaRotaryEmbedding, "forward", shifted)
    with pytest.raises(MaltError, match="its positions or masks are not the usual ones"):
        sample(base, random_prompts(5))


@pytest.mark.parametrize("family", ["qwen3-moe", "gemma3-images"])
def test_switching_restores_every_weight_of_the_base(family, tmp_path):
    base = write_family(family, tmp_path / "base")
    adapters = [make_adapter(base, tmp_path / str(i), i) for i in range(2)]
    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    weights, ids = Weights(base, "float32", torch.device("cpu")), torch.arange(3, 23)[None]
    for adapter in (None, *adapters, None, adapters[0], None):
        weights.switch(adapter)
        with torch.no_grad():
            found = weights.model(input_ids=ids).logits
            alone = AutoModelForCausalLM.from_pretrained(base)
            tuned = PeftModel.from_pretrained(alone, adapter).eval() if adapter else plain
            torch.testing.assert_close(found, tuned(input_ids=ids).logits, atol=2e-5, rtol=2e-5)
    stored = dict(weights.model.named_parameters())
    for name, weight in plain.named_parameters():
        found = [value for key, value in stored.items() if key.replace("base_layer.", "") == name]
        assert len(found) == 1 and torch.equal(found[0], weight), name


@pytest.mark.parametrize("storage", [torch.uint8, torch.float32])
def test_an_adapter_runs_beside_quantised_layers(storage, tmp_path):
    pytest.importorskip("bitsandbytes")
    full = write_family("llama", tmp_path / "full")
    adapter = make_adapter(full, tmp_path / "adapter", 0)
    four_bit = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32, bnb_4bit_quant_storage=storage
    )
    stored = AutoModelForCausalLM.from_pretrained(full, quantization_config=four_bit)
    stored.save_pretrained(tmp_path / "base")
    base = str(tmp_path / "base")
    prompts = random_prompts(5, 20)
    for policy in (None, adapter):
        twin = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).dequantize().float()
        twin = PeftModel.from_pretrained(twin, adapter).eval() if policy else twin.eval()
        assert_plain(twin, prompts, sample(base, prompts, adapter=policy))
    weights = Weights(base, "float32", torch.device("cpu"))
    ids, seen = torch.from_numpy(prompts[1])[None].long(), []
    for policy in (None, adapter, None, adapter):
        weights.switch(policy)
        seen.append(weights.model(input_ids=ids).logits)
    assert torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[3])
    assert not torch.allclose(seen[0], seen[1])
