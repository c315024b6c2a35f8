"""Random models of many families, small enough for tests."""

from pathlib import Path

import torch
import transformers as hf

SIZES = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
WINDOW = 16  # tokens
SHORT = 32  # tokens of the original context of the model with longrope


def phi3() -> hf.PreTrainedConfig:
    """Whose positions turn at other speeds as soon as one row is longer than SHORT."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4}
    long = {"long_factor": [4.0] * 4, "original_max_position_embeddings": SHORT}
    return hf.Phi3Config(
        **SIZES, original_max_position_embeddings=SHORT, rope_parameters=rope | long
    )


def qwen3_moe() -> hf.PreTrainedConfig:
    return hf.Qwen3MoeConfig(
        **SIZES, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
    )


def gemma3_with_images() -> hf.PreTrainedConfig:
    vision = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    text = SIZES | {"head_dim": 8, "sliding_window": WINDOW}
    return hf.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)


FAMILIES = {
    "llama": lambda: hf.LlamaConfig(**SIZES),
    "mistral": lambda: hf.MistralConfig(**SIZES, sliding_window=WINDOW),
    "gemma3": lambda: hf.Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=WINDOW),
    "gemma3-images": gemma3_with_images,
    "phi3": phi3,
    "dynamic": lambda: hf.LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    ),
    "qwen3-moe": qwen3_moe,
    "bloom": lambda: hf.BloomConfig(vocab_size=60, hidden_size=32, n_layer=1, n_head=2),
    "falcon-alibi": lambda: hf.FalconConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, alibi=True
    ),
    "gpt-neo": lambda: hf.GPTNeoConfig(
        vocab_size=60, hidden_size=32, num_layers=2, num_heads=2,
        attention_types=[[["global", "local"], 1]], window_size=WINDOW,
    ),
    "phimoe": lambda: hf.PhimoeConfig(**SIZES, num_local_experts=4),
    "gpt-oss": lambda: hf.GptOssConfig(
        **SIZES, head_dim=8, num_local_experts=2, num_experts_per_tok=1, sliding_window=WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    ),
}  # fmt: skip


def write_family(name: str, folder: Path) -> str:
    """Write a random model; its attention matters, unlike that of an untrained one."""
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(FAMILIES[name]())
    for key, weight in model.named_parameters():
        if "proj" in key and weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    return str(folder)
