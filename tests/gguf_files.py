"""GGUF files of random Llamas, written as llama.cpp's converter does."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

MERGES = ["t h", "th e", "i n", "Ġ t", "Ġt h", "Ġth e", "Ġ a", "Ġa n", "Ġan d", "1 2", "Ġ 1"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def smollm_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE that takes every digit alone, as SmolLM2's."""
    tokens = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += [merge.replace(" ", "") for merge in MERGES]
    merges = [tuple(merge.split()) for merge in MERGES]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    built = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    built.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(False)])
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=built, eos_token="<|im_end|>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def random_llama(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A model that often says 1 or 2, or ends its output."""
    words = len(tokenizer)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=words, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=1024,
        rope_theta=1e4, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for name, weight in model.named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            torch.nn.init.normal_(weight, std=0.3)
    with torch.no_grad():  # a coordinate that every position shares
        model.model.embed_tokens.weight[:, 0] = 100.0
        model.lm_head.weight[:, 0] = 0.0
        for token in ("1", "2", "<|im_end|>"):
            model.lm_head.weight[tokenizer.convert_tokens_to_ids(token), 0] = 1.5
    return model


def write_gguf(
    file: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    half: bool = False,
    architecture: str = "llama",
    more: Callable[..., None] | None = None,
) -> Path:
    """Write model and tokenizer; more: adds to the writer."""
    import gguf

    config, writer = model.config, gguf.GGUFWriter(file, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(1e4)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer)
    for name, weight in model.state_dict().items():
        values = _as_stored(name, weight.numpy(), config)
        small = half and values.ndim > 1
        writer.add_tensor(_name(name), values.astype(np.float16 if small else np.float32))
    if more:
        more(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_tokenizer(writer, tokenizer: PreTrainedTokenizerFast) -> None:
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(tokenizer.chat_template)


def _name(name: str) -> str:
    for ours, theirs in (
        ("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output"),
        ("model.layers", "blk"), ("self_attn.o_proj", "attn_output"), ("self_attn.", "attn_"),
        ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"),
        ("mlp.", "ffn_"), ("_proj", ""),
    ):  # fmt: skip
        name = name.replace(ours, theirs)
    return name


def _as_stored(name: str, values: np.ndarray, config: LlamaConfig) -> np.ndarray:
    """Rotary pairs side by side, where transformers has halves."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for part, n in heads.items():
        if part in name:
            halves = values.reshape(n, 2, config.head_dim // 2, -1)
            return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
    return values
