"""Text as plain tokens: none of them a control token, each as it is in the middle of a text.

Control tokens are a tokenizer's added tokens, marked special or not: `<|im_end|>`, `<think>`,
`<tool_call>`. Added tokens for white space are ordinary text.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]
TOGETHER = 1024  # texts
IDS_ONLY = {"return_attention_mask": False, "return_token_type_ids": False}  # saves a quarter
LINE = "\n"  # what usually stands before a text; every tokenizer starts anew after it


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """The text of every control token, by id."""
    added = {int(i): str(token) for i, token in tokenizer.added_tokens_decoder.items()}
    return {i: text for i, text in added.items() if text.strip(" ▁\n\t\r")}


def encode(tokenizer: Any, text: str) -> Tokens:
    """int32[T]; texts of control tokens become control tokens."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    return np.array(ids, np.int32)


def encode_after(tokenizer: Any, before: str, text: str) -> Tokens:
    """int32[T]: the tokens of `text` behind `before`; those of `text` alone where the tokenizer
    joins the two or does not know `before`."""
    left, whole = encode(tokenizer, before), encode(tokenizer, before + text)
    apart = np.array_equal(whole[: len(left)], left) and tokenizer.unk_token_id not in left
    return whole[len(left) :] if apart else encode(tokenizer, text)


def encode_between(tokenizer: Any, before: str, text: str, after: str) -> Tokens:
    """int32[T]: as `encode_after`, with `after` behind `text`."""
    whole = encode_after(tokenizer, before, text + after)
    right = encode_after(tokenizer, LINE, after)
    end = len(whole) - len(right)
    apart = end >= 0 and np.array_equal(whole[end:], right) and tokenizer.unk_token_id not in right
    return whole[:end] if apart else encode_after(tokenizer, before, text)


def most_tokens(text: str) -> int:
    """A bound for the tokens of a text, whatever the tokenizer.

    A token holds at least one byte, and normalisers such as NFKC make at most 11 of one.
    """
    return 16 * (len(text.encode()) + 1)


class PlainEncoder:
    """Encodes texts without ever returning a control token.

    The text of a control token is cut in two, since a tokenizer reads it as one piece only.
    """

    def __init__(self, tokenizer: Any) -> None:
        control = control_tokens(tokenizer)
        self.tokenizer = tokenizer
        self.inside = _inside_of(control.values())
        self.control = control.keys() - {tokenizer.unk_token_id}  # which stands for letters, too

    def one(self, text: str, before: str = LINE) -> Tokens:
        """int32[T]: the tokens of `text` behind `before`."""
        parts = self.inside.split(text) if self.inside else [text]
        befores = [before, *[LINE] * (len(parts) - 1)]
        found = [
            encode_after(self.tokenizer, b, part) for b, part in zip(befores, parts, strict=True)
        ]
        tokens = np.concatenate(found)
        if not self.control.isdisjoint(tokens.tolist()) and len(text) > 1:
            # A tokenizer that changes a text before it looks for control tokens.
            letters = [encode_after(self.tokenizer, LINE, letter) for letter in text]
            tokens = np.concatenate(letters)
        return tokens

    def many(self, texts: Iterable[str], before: str = LINE) -> Iterator[Tokens]:
        """The tokens of each text, as of `one`; a tokenizer takes many texts in parallel."""
        left = encode(self.tokenizer, before).tolist()
        rest = iter(texts)
        while some := list(islice(rest, TOGETHER)):
            wholes = [before + text for text in some]
            ids = self.tokenizer(wholes, add_special_tokens=False, **IDS_ONLY)["input_ids"]
            for text, whole in zip(some, ids, strict=True):
                apart = whole[: len(left)] == left and self.tokenizer.unk_token_id not in left
                plain = apart and not (self.inside and self.inside.search(text))
                tokens = whole[len(left) :] if plain else []
                if not plain or not self.control.isdisjoint(tokens):
                    yield self.one(text, before)
                else:
                    yield np.array(tokens, np.int32)


def _inside_of(texts: Iterable[str]) -> re.Pattern[str] | None:
    """Matches after the first letter of any of `texts`; thousands of them may share that letter."""
    rests: dict[str, list[str]] = {}
    for text in texts:
        if len(text) > 1:
            rests.setdefault(text[0], []).append(re.escape(text[1:]))
    cuts = [f"(?<={re.escape(first)})(?={'|'.join(found)})" for first, found in rests.items()]
    return re.compile("|".join(cuts)) if cuts else None
