"""A small random Llama with one token per byte that mostly samples digits, and a grader for it.

The grader accepts an answer if its last digit is odd or even as that of the gold answer.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LIKED = 10.0  # of digits, in logits; the end token has a little less


def write_model(folder: Path) -> Path:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<s>", "</s>", *alphabet])}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        bos_token_id=vocab["<s>"],
        eos_token_id=vocab["</s>"],
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # a coordinate shared by all tokens replaces the missing bias of the head
        model.model.embed_tokens.weight[:, 0] = 50.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        head = model.lm_head.weight
        head[:, 0] = 0
        for token, liked in [*((str(d), LIKED) for d in range(10)), ("</s>", LIKED + 1)]:
            head[vocab[token], 0] = liked / 8  # the norm makes it about 8
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def same_parity(completion: str, row: Mapping[str, Any]) -> float:
    said, gold = (re.findall(r"\d", text) for text in (completion, str(row["answer"])))
    return float(bool(said and gold) and int(said[-1]) % 2 == int(gold[-1]) % 2)
