"""Requests and replies of OpenAI's interface, as plain values.

The last message of a chat is the question, and must be the user's. System messages are put before
it as they are; if there are earlier turns, each turn begins with its speaker:

    You answer briefly.

    User: How much is 1 + 1?

    Assistant: 2

    User: And 2 + 2?

Other fields are ignored, except those that ask for log-probabilities: an answer that was voted on
has none.
"""

import json
import time
import uuid
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from malt_fast.config.mistakes import WANTED, sentence
from malt_fast.serving.answer import Answer
from malt_fast.utils.errors import MaltError

MESSAGES = 1024  # of a chat: 100,000 empty ones would be read for a second
PIECE = 32  # characters of a streamed piece
SPEAKERS = {"user": "User", "assistant": "Assistant"}


def joined(content: object) -> object:
    """The text of a message: its parts joined; empty for null."""
    if not isinstance(content, list):
        return "" if content is None else content
    return "".join(map(_part, content))


def _part(part: object) -> str:
    """The text of a part, which says what it is by its type."""
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    text = part.get("text") if isinstance(part, dict) else None
    if kind != "text" or not isinstance(text, str):
        raise PydanticCustomError(
            "parts", "parts of type text only, not {kind}", {"kind": str(kind)[:40]}
        )
    return text


def whole(number: object) -> object:
    """A whole number that may be written 1.0."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def one(n: object) -> object:
    """How many answers are asked for."""
    if n not in (None, 1) or n is True:
        raise PydanticCustomError("n", "1, as the passes of a question vote on one answer")
    return whole(n)


def single(prompt: object) -> object:
    """A text, or the only text of a list."""
    if not isinstance(prompt, list):
        return prompt
    if not all(isinstance(item, str) for item in prompt):
        raise PydanticCustomError("prompt", "text, not token ids")
    if len(prompt) != 1:
        raise PydanticCustomError("prompt", "one prompt, and others in further requests")
    return prompt[0]


def listed(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


class Part(BaseModel):
    """A part of a request: true is no number, and "7" is none."""

    model_config = ConfigDict(allow_inf_nan=False, strict=True)


Whole = Annotated[int, BeforeValidator(whole)]


class StreamOptions(Part):
    include_usage: bool = False


class MaltOptions(Part):
    turns: bool = False


class TextPart(Part):
    type: Literal["text"]
    text: str


Text = Annotated[str, Field(min_length=1)]
Prompt = Text | Annotated[list[Text], Field(min_length=1, max_length=1)]  # as it is sent
Content = str | list[TextPart] | None  # as it is sent


class Message(Part):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(joined, json_schema_input_type=Content)] = ""


class Body(Part):
    """The fields that both kinds of requests share."""

    model: str | None = None
    n: Annotated[int | None, BeforeValidator(one, json_schema_input_type=Literal[1] | None)] = None
    max_tokens: Whole | None = Field(default=None, ge=1)
    max_completion_tokens: Whole | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=10)
    seed: Whole | None = None
    stop: Annotated[
        list[str] | None, BeforeValidator(listed, json_schema_input_type=str | list[str] | None)
    ] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | Whole | None = None
    echo: bool | None = None
    malt: MaltOptions | None = None

    @property
    @abstractmethod
    def question(self) -> str: ...

    @property
    def limit(self) -> int | None:
        """The most tokens of the last role's output."""
        return self.max_completion_tokens or self.max_tokens


class ChatBody(Body):
    messages: list[Message] = Field(json_schema_extra={"minItems": 1, "maxItems": MESSAGES})

    @property
    def question(self) -> str:
        if not self.messages:
            raise MaltError("messages is empty: send one with the question")
        *before, last = self.messages
        if last.role != "user":
            raise MaltError(
                f"the last message is the {last.role}'s, but the question must come last: "
                "end with a message of the user"
            )
        if not last.content.strip():
            raise MaltError("the last message is empty: ask a question")
        parts = [m.content for m in before if m.role not in SPEAKERS]
        turns = [m for m in before if m.role in SPEAKERS]
        spoken = [f"{SPEAKERS[m.role]}: {m.content}" for m in [*turns, last]]
        return "\n\n".join([*parts, *(spoken if turns else [last.content])])


class TextBody(Body):
    prompt: Annotated[str, BeforeValidator(single, json_schema_input_type=Prompt)]

    @property
    def question(self) -> str:
        return self.prompt


B = TypeVar("B", bound=Body)
IN_JSON = WANTED | {"list": "a list", "dict": "an object", "model": "an object"}


def parse(kind: type[B], data: bytes | bytearray) -> B:
    """Parse a request body. Raises MaltError for one that cannot be read or served."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise MaltError("the body is not a JSON object: send one as OpenAI's clients do")
    messages = values.get("messages")
    if isinstance(messages, list) and len(messages) > MESSAGES:
        raise MaltError(f"the body has {len(messages):,} messages: send at most {MESSAGES:,}")
    try:
        body = kind.model_validate(values)
    except ValidationError as error:
        raise MaltError(sentence(kind, error, IN_JSON)) from None
    if body.echo or (body.logprobs is not None and body.logprobs is not False):
        raise MaltError(
            "echo and logprobs are not served, as answers are voted on: use tasks that generate"
        )
    return body


@dataclass(frozen=True)
class Reply:
    """The reply to one request, whole or in chunks."""

    body: Body
    model: str
    created: int = field(default_factory=lambda: int(time.time()))
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def chat(self) -> bool:
        return isinstance(self.body, ChatBody)

    def whole(self, answer: Answer) -> dict[str, Any]:
        text, reason = self._text(answer)
        said = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        out = self._envelope([_choice(said, reason)], chunk=False)
        return out | {"usage": usage(answer)} | self._malt(answer)

    def opening(self) -> list[dict[str, Any]]:
        """The chunks that are sent before the answer is known."""
        return [self._chunk({"role": "assistant", "content": ""})] if self.chat else []

    def chunks(self, answer: Answer) -> Iterator[dict[str, Any]]:
        text, reason = self._text(answer)
        for begin in range(0, len(text), PIECE):
            piece = text[begin : begin + PIECE]
            yield self._chunk({"content": piece} if self.chat else {"text": piece})
        yield self._chunk({} if self.chat else {"text": ""}, reason) | self._malt(answer)
        if self._counts:
            yield self._envelope([], chunk=True) | {"usage": usage(answer)}

    @property
    def _counts(self) -> bool:
        return bool(self.body.stream_options and self.body.stream_options.include_usage)

    def _chunk(self, said: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = _choice({"delta": said} if self.chat else said, reason)
        return self._envelope([choice], chunk=True) | ({"usage": None} if self._counts else {})

    def _envelope(self, choices: list[dict[str, Any]], *, chunk: bool) -> dict[str, Any]:
        kind = "chat.completion" + ".chunk" * chunk if self.chat else "text_completion"
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.token}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def _text(self, answer: Answer) -> tuple[str, str]:
        """(final text, cut at the first stop string; finish reason)."""
        text = cut(answer.text, self.body.stop or [])
        return text, answer.finish_reason if text == answer.text else "stop"

    def _malt(self, answer: Answer) -> dict[str, Any]:
        if not (self.body.malt and self.body.malt.turns):
            return {}
        return {
            "malt": {
                "answer": answer.answer,
                "votes": answer.votes,
                "passes": len(answer.turns),
                "turns": answer.turns,
            }
        }


def _choice(said: dict[str, Any], reason: str | None) -> dict[str, Any]:
    return {"index": 0, **said, "logprobs": None, "finish_reason": reason}


def cut(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first occurrence of any of `stops`."""
    return text[: min((i for stop in stops if stop and (i := text.find(stop)) >= 0), default=None)]


def usage(answer: Answer) -> dict[str, int]:
    """Token counts over all roles and passes."""
    prompt, sampled = answer.prompt_tokens, answer.completion_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": sampled,
        "total_tokens": prompt + sampled,
    }
