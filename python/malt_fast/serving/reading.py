"""Reads a question into tokens, from any thread, and refuses one that is empty or too long.

A long text takes seconds to tokenise, so its bytes are compared first. N tokens hold at most
N * longest bytes, where `longest` is the longest entry of the vocabulary. A tokenizer that drops
some of a text, such as repeated spaces, could fit more: such a question is refused, too.
"""

from dataclasses import dataclass
from typing import Any

from malt_fast.models.plain_text import Tokens, control_tokens
from malt_fast.tasks.prompts import Prompts
from malt_fast.utils.errors import MaltError

SHORTEN = "shorten it, or raise serve.max_question if the model's context is longer"


@dataclass(frozen=True, eq=False)
class ReadQuestion:
    """A question that may be asked."""

    text: str
    tokens: Tokens


class Reader:
    """Reads questions of at most `room` tokens."""

    def __init__(self, prompts: Prompts, room: int) -> None:
        self.prompts, self.room = prompts, room
        self.most_bytes = room * longest_entry(prompts.tokenizer)

    def read(self, question: str) -> ReadQuestion:
        """Raises MaltError for a question that is empty or too long."""
        text = question.strip()
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise MaltError("the question holds half a Unicode character: correct it") from None
        if not text:
            raise MaltError("the question is empty: ask something")
        if size > self.most_bytes:
            raise MaltError(
                f"the question has {size:,} bytes, but the {self.room:,} tokens that fit hold at "
                f"most {self.most_bytes:,}: {SHORTEN}"
            )
        tokens = self.prompts.encode_question(text)
        if len(tokens) > self.room:
            raise MaltError(
                f"the question has {len(tokens):,} tokens, and {self.room:,} fit: {SHORTEN}"
            )
        return ReadQuestion(text, tokens)


def longest_entry(tokenizer: Any) -> int:
    """Bytes of the longest token of text, or more: byte-level tokens are written in two bytes."""
    control = set(control_tokens(tokenizer).values())
    return max(len(str(token).encode()) for token in tokenizer.get_vocab() if token not in control)
