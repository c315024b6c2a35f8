"""The templates of the page and the cards. Values are escaped as they enter one, always.

HTML shows control characters as `\\x1b`; Markdown shows its special characters as they are. What is
HTML or Markdown already is marked by the type Markup.
"""

import json
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from malt_fast.utils.errors import printable

SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\`*_[]<>|~#$"})  # of Markdown


class Grid(NamedTuple):
    """A table of texts. The first `words` columns are text, the others aligned as numbers."""

    names: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1


def trusted(text: str) -> Markup:
    """Text that is HTML or Markdown already: a template shows it without escaping it."""
    return Markup(text)  # nosec B704


def _shown(value: Any) -> Any:
    return value if isinstance(value, Markup) else printable(str(value))


def _plain(value: Any) -> Markup:
    shown = _shown(value)
    return shown if isinstance(shown, Markup) else trusted(shown.translate(SPECIAL))


def asset(name: str) -> Markup:
    """A file of the package, to be put into the page as it is: CSS or JavaScript.

    In JavaScript `<!--` is written as `<\\!--`, which means the same in a string: HTML would read
    the former as a comment.
    """
    file = files("malt_fast.results").joinpath(name)
    return trusted(file.read_text(encoding="utf-8").replace("<!--", "<\\!--").strip())


def allowed(scripts: Sequence[str]) -> str:
    """The source list of a Content-Security-Policy that lets a page run these scripts alone."""
    hashes = [b64encode(sha256(one.encode()).digest()).decode() for one in scripts]
    return " ".join(f"'sha256-{one}'" for one in hashes) or "'none'"


def fenced(text: str) -> Markup:
    """A block of code in Markdown, in a fence longer than any inside it."""
    fence = "```"
    while fence in text:
        fence += "`"
    return trusted(f"{fence}\n{text}\n{fence}")


def code(text: str) -> Markup:
    """Code within a line or a table's cell of Markdown."""
    fence = "`" * (text.count("`") + 1)
    inside = printable(text).replace("\n", " ").replace("|", "\\|")
    return trusted(f"{fence}{inside}{fence}")


def _environment(finalize: Any) -> Environment:
    made = Environment(
        loader=PackageLoader("malt_fast.results"),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.globals |= {"asset": asset, "allowed": allowed}
    made.filters |= {
        "asset": asset,
        "data": lambda chart: chart.data(),
        "fenced": fenced,
        "code": code,
        "yaml": lambda value: trusted(json.dumps(value)),
    }
    return made


HTML = _environment(_shown)
MARKDOWN = _environment(_plain)
