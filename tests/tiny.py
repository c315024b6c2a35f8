"""A random Llama with a byte-level tokenizer, small enough for tests."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] | trim }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def byte_tokenizer(chat_template: bool = False) -> PreTrainedTokenizerFast:
    """One token per byte, plus <pad>, <s> and </s>. Decodes every string that it encodes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<s>", "</s>"]
    vocab = {token: i for i, token in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    if chat_template:
        fast.chat_template = CHAT_TEMPLATE
    return fast


def tiny_llama(
    folder: Path,
    *,
    chat_template: bool = False,
    seed: int = 0,
    layers: int = 2,
    max_position_embeddings: int = 2048,
    likes: dict[str, float] | None = None,
) -> Path:
    """Write a random Llama (hidden 64, 2 heads of 32, 1 KV head) and its tokenizer.

    `likes` adds to the logits of tokens, so that random outputs are sometimes right.
    """
    tokenizer = byte_tokenizer(chat_template)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=max_position_embeddings,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    if likes:  # a coordinate that every position shares acts as the bias that the head lacks
        with torch.no_grad():
            model.model.embed_tokens.weight[:, 0] = 100.0
            model.lm_head.weight[:, 0] = 0.0
            for token, boost in likes.items():
                model.lm_head.weight[tokenizer.convert_tokens_to_ids(token), 0] = boost / 8
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
