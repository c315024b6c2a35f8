"""The command line as nested values."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from malt_fast.config.yaml_files import _check_text, read_value, read_yaml
from malt_fast.utils.errors import MaltError


def parse_arguments(argv: Sequence[str]) -> tuple[dict[str, Any], str | None]:
    """Nested values of `--config` files and `--key value` pairs, and what help was asked for on.

    None: no help; "": the short one; else a section, or all.
    """
    files: dict[str, Any] = {}
    given: dict[str, Any] = {}
    words = list(argv)
    for word in words:
        try:
            _check_text(word)
        except ValueError as error:
            raise MaltError(f"'{word}' is {error}: correct it") from None
    wants_help: str | None = None
    while words:
        word = words.pop(0)
        if word in ("-h", "--help"):
            wants_help = words.pop(0) if words and not words[0].startswith("-") else ""
            continue
        if not word.startswith("--") or word == "--":
            raise MaltError(f"'{word}' is not an option: write `--section.field value`, see --help")
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not words or words[0].startswith("--"):
                raise MaltError(f"--{key} needs a value: write `--{key} VALUE`, see --help")
            text = words.pop(0)
        if key == "config":
            files = merge(files, read_yaml(Path(text)))
        else:
            _set(given, key.split("."), _value(text))
    return merge(files, given), wants_help


def _value(text: str) -> Any:
    """A command-line value: null, a list or a mapping as YAML reads it, all else as typed.

    The setting's type makes a number of it, or leaves it: a run may be called 1, 1e3 or true.
    """
    value = read_value(text)
    group = isinstance(value, list) or (isinstance(value, dict) and text.lstrip().startswith("{"))
    return value if value is None or group else text  # `::` is an address


def _set(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        below = values.get(part)
        if not isinstance(below, dict):
            below = values[part] = {}
        values = below
    values[path[-1]] = value


def merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings joined, `high` winning."""
    out = dict(low)
    for key, value in high.items():
        below = out.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        out[key] = merge(below, value) if both else value  # type: ignore[arg-type]
    return out


def lookup(values: Any, path: Sequence[str], default: Any) -> Any:
    """The value at the end of a path of keys, or the default if any step is missing."""
    for part in path:
        if not isinstance(values, Mapping) or part not in values:
            return default
        values = values[part]
    return values
