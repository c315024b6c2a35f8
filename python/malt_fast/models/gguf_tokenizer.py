"""The tokenizer of a GGUF file, from the file's own metadata.

transformers takes every byte-level tokenizer for GPT-2's and swaps end and begin tokens; so
byte-level ones are built here, and the special tokens of all others are set anew.
"""

from pathlib import Path
from typing import Any

from malt_fast.utils.errors import MaltError, first_line

CONTROL, USER = 3, 4  # token types: special; text that stays whole
PROBES = 300  # words of the vocabulary that are tokenised as a test

# How text is cut into words, by llama.cpp's name of the rule.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
RULES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("gpt-2", "mpt", "olmo", "phi-2", "jina-v2-en"), (GPT2,)),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), (r"\p{N}", GPT2)
    ),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "lfm2", "smaug-bpe", "dbrx"),
        (WORDS % "{1,3}",),
    ),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "megrez"), (WORDS % "",)),
}
WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3")  # words of the vocabulary are never merged


def make_tokenizer(file: Path, values: dict[str, Any]) -> Any:
    """The tokenizer with its special tokens. values: the file's metadata.

    Raises MaltError for a kind that is not known, and for one that takes words apart.
    """
    model = values.get("tokenizer.ggml.model")
    if model == "gpt2":
        try:
            tokenizer = _byte_level(file, values)
        except MaltError:
            raise
        except Exception as error:  # of all kinds, where metadata are missing or disagree
            raise MaltError(
                f"the tokenizer in '{file}' is incomplete ({first_line(error)}): name the original "
                "model"
            ) from None
    elif model == "llama":  # SentencePiece
        tokenizer = _by_transformers(file)
    else:
        raise MaltError(
            f"'{file}' has a tokenizer of the kind {model!r}, which is not known here: name the "
            "original model"
        )
    _set_special_tokens(tokenizer, values)
    _check_words(file, tokenizer)
    return tokenizer


def _byte_level(file: Path, values: dict[str, Any]) -> Any:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
    from tokenizers import pre_tokenizers as pre
    from transformers import PreTrainedTokenizerFast

    rule = values.get("tokenizer.ggml.pre", "gpt-2")
    if rule not in RULES:
        raise MaltError(
            f"'{file}' cuts text into words by the rule {rule!r}, which is not known here: name "
            "the original model"
        )
    tokens, kinds = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    merges = [tuple(pair.split(" ")) for pair in values["tokenizer.ggml.merges"]]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    whole = rule in WHOLE_WORDS
    built = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=whole))
    if rule in ("qwen2", "deepseek-r1-qwen"):
        built.normalizer = normalizers.NFC()
    splits = [pre.Split(Regex(pattern), "isolated") for pattern in RULES[rule]]
    built.pre_tokenizer = pre.Sequence([*splits, pre.ByteLevel(False, use_regex=False)])
    built.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, kinds, strict=True):
        if kind in (CONTROL, USER):
            added = AddedToken(token, normalized=False, special=kind == CONTROL)
            (built.add_special_tokens if kind == CONTROL else built.add_tokens)([added])
    if values.get("tokenizer.ggml.add_bos_token"):
        first = tokens[values["tokenizer.ggml.bos_token_id"]]
        built.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, vocabulary[first])]
        )
    return PreTrainedTokenizerFast(tokenizer_object=built)


def _by_transformers(file: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    except Exception as error:  # of all kinds
        raise MaltError(
            f"transformers cannot read the tokenizer of '{file}' ({first_line(error)}): name the "
            "original model"
        ) from None


def _set_special_tokens(tokenizer: Any, values: dict[str, Any]) -> None:
    """Begin, end and padding as the metadata has them; the end of a turn, if named, is the end."""
    tokens = values["tokenizer.ggml.tokens"]

    def named(*keys: str) -> str | None:
        found = (values.get(f"tokenizer.ggml.{key}_token_id") for key in keys)
        return next((tokens[i] for i in found if i is not None and i < len(tokens)), None)

    tokenizer.bos_token = named("bos")
    tokenizer.eos_token = named("eot", "eos")
    tokenizer.pad_token = named("padding") or tokenizer.eos_token
    tokenizer.unk_token = named("unknown")
    tokenizer.chat_template = values.get("tokenizer.chat_template")
    tokenizer.clean_up_tokenization_spaces = False


def ends_of(values: dict[str, Any]) -> list[int]:
    """The tokens that end a turn or a text, each once."""
    tokens = len(values["tokenizer.ggml.tokens"])
    found = [values.get(f"tokenizer.ggml.{key}_token_id") for key in ("eot", "eom", "eos")]
    return list(dict.fromkeys(int(i) for i in found if i is not None and i < tokens))


def _check_words(file: Path, tokenizer: Any) -> None:
    """Raises MaltError where most words of the vocabulary fall apart, as by a wrong rule."""
    words = sorted((text for text in _words(tokenizer)), key=len)[-PROBES:]
    whole = sum(len(tokenizer.encode(word, add_special_tokens=False)) <= 2 for word in words)
    if 2 * whole < len(words):
        raise MaltError(
            f"transformers reads a wrong tokenizer from '{file}', which takes words apart: name "
            "the original model"
        )


def _words(tokenizer: Any) -> list[str]:
    """Words of the vocabulary in plain letters."""
    plain = (word.lstrip("Ġ▁") for word in tokenizer.get_vocab())
    return [f" {word}" for word in plain if word.isascii() and word.isalpha()]
