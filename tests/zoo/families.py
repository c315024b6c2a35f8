"""The zoo's models: two random layers of 64 features in the shape of each family."""

from typing import Any

COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "initializer_range": 0.2,  # logits far enough apart for a greedy choice
    "tie_word_embeddings": False,
}
TIED = {"tie_word_embeddings": True}
WINDOW = 512  # tokens of sliding windows
LAYERS = ["sliding_attention", "full_attention"]
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + 0.05 * i for i in range(8)],
    "long_factor": [1.0 + 0.5 * i for i in range(8)],
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 1024,
}
GEMMA2 = TIED | {
    "query_pre_attn_scalar": 16,
    "sliding_window": WINDOW,
    "layer_types": LAYERS,
    "initializer_range": 0.08,  # it multiplies embeddings by 8: they must not outweigh the layers
}
CAPS = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0}  # low enough to matter
GEMMA3 = GEMMA2 | {"rope_local_base_freq": 10000.0}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}

# name: (model type, what differs from COMMON)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "Qwen2": ("qwen2", TIED | {"rope_parameters": YARN}),
    "Qwen3": ("qwen3", TIED),
    "Qwen3-MoE": ("qwen3_moe", EXPERTS),
    "Mistral, window": ("mistral", {"sliding_window": WINDOW}),
    "Gemma 2": ("gemma2", GEMMA2 | CAPS),
    "Gemma 3": ("gemma3_text", GEMMA3),
    "Gemma 3, images": ("gemma3", {"text_config": COMMON | GEMMA3, "vision_config": VISION}),
    "Phi-3, longrope": (
        "phi3",
        {"rope_parameters": LONG, "original_max_position_embeddings": 256, "sliding_window": None},
    ),
    "GPT-NeoX": ("gpt_neox", {}),
    "OLMo2": ("olmo2", {}),
    "Granite, scaled": ("granite", {"logits_scaling": 4.0, "embedding_multiplier": 2.0}),
    "SmolLM3": ("smollm3", TIED | {"no_rope_layers": [1, 0]}),
    "Cohere, scaled": ("cohere", {"logit_scale": 0.25}),
    "gpt-oss": (
        "gpt_oss",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW}
        | {"layer_types": LAYERS},
    ),
    "DeepSeek-V3": (
        "deepseek_v3",
        {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
        | {"moe_intermediate_size": 32, "n_shared_experts": 1, "first_k_dense_replace": 1}
        | {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
        | {"v_head_dim": 16, "num_key_value_heads": 4, "head_dim": 8},
    ),
    "GLM-4": ("glm4", {}),
    "Gemma 4": ("gemma4_text", {"sliding_window": WINDOW}),
    "Seed-OSS, dropout": ("seed_oss", {}),
    "OPT, dropout": ("opt", {"ffn_dim": 128, "word_embed_proj_dim": 64}),
    "PhiMoE": ("phimoe", {"num_local_experts": 4}),
    "GPT-2": ("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 4096} | TIED),
    "Bloom, alibi": ("bloom", {"n_head": 4, "n_layer": 2} | TIED),
    "Qwen3-Next, linear": (
        "qwen3_next",
        EXPERTS
        | {"layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2}
        | {"linear_num_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16}
        | {"shared_expert_intermediate_size": 32},
    ),
    "Mamba": ("mamba", {"state_size": 8, "time_step_rank": 4}),
}
