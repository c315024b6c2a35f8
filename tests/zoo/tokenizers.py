"""The zoo's tokenizers, each trained in a few milliseconds on corpus.py."""

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from tests.zoo.corpus import CORPUS
from tests.zoo.templates import Template

SIZE = 600  # tokens, before control tokens
EXTRA_END = "<|eom_id|>"  # an end token that only a model's configs name
CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {  # how a text is cut before merges; GPT-2's is built into ByteLevel
    "llama3": rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{REST}",
    "qwen2": rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{REST}",
    "tiktoken": (
        rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]*"
        rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+{CONTRACTION}?|"
        rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]+"
        rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*{CONTRACTION}?|"
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPACE = "\u2581"


def byte_level(kind: str) -> Tokenizer:
    """BPE over bytes, as GPT-2's, Llama 3's, Qwen2's or tiktoken's o200k_base (`tiktoken`)."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind in ("llama3", "tiktoken")))
    if kind == "gpt2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        cut = pre_tokenizers.Split(Regex(SPLITS[kind]), "isolated")
        bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, bytes_of])
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, initial_alphabet=alphabet, show_progress=False, special_tokens=[]
    )
    tokenizer.train_from_iterator([CORPUS], trainer)
    return tokenizer


def sentence_piece(kind: str) -> Tokenizer:
    """BPE over characters with bytes for the rest, as SentencePiece's; words open with a space.

    llama2: its tokenizer.json, where a normaliser puts a space before every stretch of text;
    first, always, never: Metaspace with that prepend_scheme; gemma: no space in front, and runs of
    newlines are added tokens.
    """
    vocab, merges = _merges()
    model = models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    if kind in ("first", "always", "never"):
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
    elif kind == "llama2":
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
        )
    else:
        tokenizer.normalizer = normalizers.Replace(" ", SPACE)
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        lines = ("\n", "\n\n", "\n\n\n")
        tokenizer.add_tokens([AddedToken(text, normalized=False) for text in lines])
    parts = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = [decoders.Strip(" ", 1, 0)] if kind in ("llama2", "first", "always") else []
    tokenizer.decoder = decoders.Sequence([*parts, *strip])
    return tokenizer


def _merges() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and the merges of a BPE over the words of the corpus, without newlines."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=["<unk>", *BYTES], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS.splitlines(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def unigram(scheme: str) -> Tokenizer:
    """SentencePiece's unigram model. scheme: whether a space goes in front: always or never.

    Its pieces are those of the BPE, the later ones less likely: the trainer of unigram models
    draws another vocabulary each time.
    """
    ranked = sorted(_merges()[0].items(), key=lambda item: item[1])
    pieces = [(piece, -20.0 if piece in BYTES else -5.0 - rank / 100) for piece, rank in ranked]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    parts = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = [decoders.Strip(" ", 1, 0)] if scheme == "always" else []
    tokenizer.decoder = decoders.Sequence([*parts, *strip])
    return tokenizer


MAKERS: dict[str, tuple[Any, str]] = {
    "bytes, GPT-2": (byte_level, "gpt2"),
    "bytes, Llama 3": (byte_level, "llama3"),
    "bytes, Qwen2": (byte_level, "qwen2"),
    "bytes, tiktoken": (byte_level, "tiktoken"),
    "SentencePiece, Llama 2": (sentence_piece, "llama2"),
    "SentencePiece, Gemma": (sentence_piece, "gemma"),
    "Metaspace, first": (sentence_piece, "first"),
    "Metaspace, always": (sentence_piece, "always"),
    "Metaspace, never": (sentence_piece, "never"),
    "unigram, prefix": (unigram, "always"),
    "unigram, no prefix": (unigram, "never"),
}


def make_tokenizer(kind: str, template: Template, turn_end_is_eos: bool) -> Any:
    """A tokenizer with the control tokens of a template.

    turn_end_is_eos: as in chat models; otherwise the eos is that of a base model, and the turn's
    end is one special token among the others.
    """
    make, argument = MAKERS[kind]
    tokenizer: Tokenizer = make(argument)
    tokenizer.add_special_tokens(_special(template))
    tokenizer.add_tokens([AddedToken(word, special=False) for word in template.words])
    eos = template.turn_end if turn_end_is_eos and template.turn_end else template.end
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=template.begin,
        eos_token=eos,
        pad_token=template.end,
        clean_up_tokenization_spaces=False,
    )
    if template.jinja:
        fast.chat_template = template.jinja
    return fast


def _special(template: Template) -> Sequence[AddedToken]:
    names = [template.begin, template.end, *template.controls, EXTRA_END]
    return [AddedToken(name, special=True, normalized=False) for name in names if name]
