"""Without dropout, a model in training is the one that samples, wherever its dropout sits."""

import pytest
import torch
import transformers

from malt_fast.training.adapters import disable_dropout

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
RANDOM = {
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.5, "attention_dropout": 0.5},
    "falcon": {"attention_dropout": 0.5, "hidden_dropout": 0.5},
    "seed_oss": {"intermediate_size": 48, "num_key_value_heads": 2, "residual_dropout": 0.5},
    "gpt_bigcode": {"attn_pdrop": 0.5, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "mixtral": {
        "intermediate_size": 48, "num_key_value_heads": 2, "num_local_experts": 4,
        "router_jitter_noise": 0.9,
    },
}  # fmt: skip


@pytest.mark.parametrize("family", RANDOM)
def test_training_without_dropout_is_evaluation(family):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **SIZES, **RANDOM[family])
    model = transformers.AutoModelForCausalLM.from_config(config)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        wanted = model.eval()(ids).logits
        assert not torch.allclose(model.train()(ids).logits, wanted, atol=1e-4)
        disable_dropout(model)
        torch.testing.assert_close(model.train()(ids).logits, wanted)
