"""Recorded outputs as an engine: to repeat samples, or to use those of others."""

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from malt_fast.engines import Completion, Request
from malt_fast.utils.errors import MaltError, first_line

Place = tuple[str, tuple[int, ...]]  # question id, path
Tokens = npt.NDArray[np.int32]
Encode = Callable[[int, str, bool], Tokens]


class ReplayEngine:
    """Answers a request with the recording for its question and path; log-probs are NaN.

    The finish reason is that in `finish`, else "stop" if the last token is one of the request's
    stop tokens, else "length". Without a recording the completion is an error.
    """

    wants = 1 << 12

    def __init__(
        self, records: Mapping[Place, Tokens], finish: Mapping[Place, str] | None = None
    ) -> None:
        self.records, self.finish = records, finish or {}
        self.waiting: deque[Request] = deque()

    @classmethod
    def from_jsonl(cls, path: str | Path, encode: Encode) -> Self:
        """Read rows {"question": id, "path": [0, 1], "text": ... or "token_ids": [...]}.

        "finish_reason" ("stop" or "length") is optional; a text without it counts as ended. encode:
        gives the tokens of an output from the length of its path, its text, and whether it ended.
        Raises MaltError with the file and line.
        """
        records: dict[Place, Tokens] = {}
        finish: dict[Place, str] = {}
        try:
            lines = Path(path).read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise MaltError(
                f"the recordings {path} cannot be read ({first_line(error)}): give a JSONL file"
            ) from None
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    place, tokens, reason = _parse(line, encode)
                except ValueError as error:
                    raise MaltError(f"{path}:{number}: {error}; correct that row") from None
                if place in records:
                    raise MaltError(
                        f"{path}:{number}: a second recording of {_name(place)}; remove one"
                    )
                records[place] = tokens
                if reason:
                    finish[place] = reason
        return cls(records, finish)

    @property
    def pending(self) -> int:
        return len(self.waiting)

    def submit(self, requests: Sequence[Request]) -> None:
        self.waiting.extend(requests)

    def poll(self) -> list[Completion]:
        """Everything that is pending, in the order of submission."""
        done = [self._answer(request) for request in self.waiting]
        self.waiting.clear()
        return done

    def figures(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        self.waiting.clear()

    def _answer(self, request: Request) -> Completion:
        place = (request.question, request.path)
        tokens = self.records.get(place)
        if tokens is None:
            return Completion.failed(request.id, f"no recording of {_name(place)}")
        ended = len(tokens) > 0 and int(tokens[-1]) in request.params.stop_token_ids
        reason = self.finish.get(place) or ("stop" if ended else "length")
        logprobs = np.full(len(tokens), np.nan, np.float32)
        return Completion(request.id, tokens, logprobs, "stop" if reason == "stop" else "length")


def _name(place: Place) -> str:
    return f"question '{place[0]}', path {list(place[1])}"


def _parse(line: str, encode: Encode) -> tuple[Place, Tokens, str | None]:
    """One row of a recording. Raises ValueError with what is wrong with it."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError:
        raise ValueError("not JSON: nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError("a row is an object with question, path and text or token_ids")
    question, path, reason = row.get("question"), row.get("path"), row.get("finish_reason")
    if not isinstance(question, str):
        raise ValueError("'question' is missing or not a string")
    if not _whole_numbers(path) or not path:
        raise ValueError("'path' is missing or not a list of child numbers such as [0, 1]")
    if reason not in (None, "stop", "length"):
        raise ValueError(f'finish_reason is {reason!r}: use "stop" or "length"')
    if ("text" in row) == ("token_ids" in row):
        raise ValueError("give either text or token_ids")
    return (question, tuple(path)), _tokens(row, encode), reason


def _tokens(row: Mapping[str, Any], encode: Encode) -> Tokens:
    if "token_ids" in row:
        if not _whole_numbers(row["token_ids"]) or max(row["token_ids"], default=0) >= 2**31:
            raise ValueError("'token_ids' is not a list of token numbers")
        return np.array(row["token_ids"], np.int32)
    if not isinstance(row["text"], str):
        raise ValueError("'text' is not a string")
    return encode(len(row["path"]), row["text"], row.get("finish_reason") != "length")


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(x) is int and x >= 0 for x in value)
