"""MaltError, the error that users see as one sentence; nearest names and printable text for it."""

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path

MANY = 30  # names are too many for a sentence
LONGEST = 900  # characters of a line
# Control characters but tab and newline; marks of text direction; surrogates.
CONTROL = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


Problems = list[str]  # a sentence for people on each thing that is missing or cannot be read


class MaltError(Exception):
    """A user's mistake. Programs print it as `error: ...` and exit with status 2."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none."""
    cause = getattr(error, "cause", None)  # of Ray's errors
    error = cause if isinstance(cause, BaseException) else error
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without its number and file name
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if "validation error" not in line]  # pydantic's heading
    return (reasons or lines or [type(error).__name__])[0].rstrip(".:")


def not_there(path: Path | str) -> str:
    """Says that a file or folder does not exist, and where a relative path was looked for."""
    try:
        where = "" if os.path.isabs(path) else f" in {os.getcwd()}"
    except OSError:  # that folder is gone, too
        where = ""
    return f"{path} does not exist{where}"


def printable(text: str) -> str:
    """`text` with escapes, `\\x1b`, for all that could control a terminal or reorder its line."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def nearest(name: str, names: Iterable[str]) -> str:
    """`did you mean 'x'?` for the closest or only one of `names`, else the list of them."""
    known = list(names)
    close = known if len(known) == 1 else difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    if len(known) > MANY:
        return "no name is close to it"
    return f"known are {', '.join(known)}" if known else "none is known"


def one_line(text: str) -> str:
    """One printable line, shortened in the middle."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 400]} ... {shown[-400:]}"
