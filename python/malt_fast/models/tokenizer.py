"""Loads tokenizers, and identifies them by their vocabulary."""

import hashlib
import json
from pathlib import Path
from typing import Any

from malt_fast.models.loading import check_base, refusal
from malt_fast.utils.errors import MaltError, first_line


def load_tokenizer(
    name_or_path: str, chat_template: Path | None = None, trust_remote_code: bool = False
) -> Any:
    """The tokenizer of a model. chat_template: a Jinja file that replaces its own template."""
    check_base(name_or_path)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
    except Exception as error:
        if any(known in str(error) for known in ("trust_remote_code", "gated repo")):
            raise refusal(name_or_path, error) from None
        if "Couldn't instantiate the backend tokenizer" in str(error):
            raise _no_vocabulary(name_or_path) from None
        raise MaltError(
            f"the tokenizer of '{name_or_path}' cannot be loaded ({first_line(error)}): "
            "check --model.name_or_path"
        ) from None
    _check_vocabulary(name_or_path, tokenizer)
    if chat_template is not None:
        try:
            tokenizer.chat_template = chat_template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = first_line(error)
            raise MaltError(
                f"{chat_template} cannot be read ({reason}): check --model.chat_template"
            ) from None
    return tokenizer


def _check_vocabulary(name: str, tokenizer: Any) -> None:
    """Raises MaltError where transformers, for want of files, made a tokenizer without words."""
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    if len(tokenizer.get_vocab().keys() - special) < 2:
        raise _no_vocabulary(name)


def _no_vocabulary(name: str) -> MaltError:
    return MaltError(
        f"the tokenizer of '{name}' has no vocabulary: its files (tokenizer.json, tokenizer.model, "
        "or vocab.json and merges.txt) are missing, copy them there"
    )


def fingerprint(tokenizer: Any) -> str:
    """Hash of a tokenizer's vocabulary."""
    words = json.dumps(tokenizer.get_vocab(), sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(words.encode(), digest_size=16).hexdigest()


def tokenizer_name(tokenizer: Any) -> str:
    return f"the tokenizer of '{getattr(tokenizer, 'name_or_path', '') or 'this model'}'"
