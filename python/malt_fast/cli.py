"""The command line and YAML files as nested values, and mistakes as one sentence.

Nothing here knows the settings themselves: they are pydantic models (config.py) handed in.
"""

import os
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from malt_fast.errors import MaltError, first_line, nearest

DEEPEST, MOST = 50, 100_000  # values in values, and values, that a YAML text may hold
NESTED = "it is nested too deeply, or its aliases stand for too much"


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: `1e-5` is a number; dates, `on` and `1_0` stay text (run names look so)."""

    yaml_implicit_resolvers: typing.ClassVar[dict[str, Any]] = {}

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """Refuses a key that is given twice, of which PyYAML takes the last."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                what = f"'{key.value}' is given twice"
                raise yaml.MarkedYAMLError(problem=what, problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else key)
        return node


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    (
        "float",
        r"^[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$",
        "-+.0123456789",
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


class _Dumper(yaml.SafeDumper):
    """Puts in quotes the text that `_Loader` would take for something else."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def parse_yaml(text: str) -> Any:
    """What a YAML text says. Raises yaml.YAMLError for all that can be wrong with it."""
    try:
        value = yaml.load(text, Loader=_Loader)  # nosec B506
        _check_values(value)
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.MarkedYAMLError(problem=NESTED) from None
    except Exception as error:  # of a tag that its value does not fit, such as `!!int x`
        told = first_line(error) if isinstance(error, ValueError) else "a tag and its value differ"
        raise yaml.MarkedYAMLError(problem=told) from None
    return value


def _check_values(value: Any) -> None:
    """Raises ValueError for text that nothing can hold, and for more than a config may mean:
    a few aliases can stand for billions of values, or for themselves."""
    waiting, seen = [(value, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if depth > DEEPEST or seen > MOST:
            raise RecursionError
        if isinstance(value, str):
            _check_text(value)
        if isinstance(value, dict | list):
            items = [*value, *value.values()] if isinstance(value, dict) else value
            waiting += [(item, depth + 1) for item in items]


def _check_text(text: str) -> None:
    """Raises ValueError for text that no file could be named by."""
    try:
        usable = b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise ValueError("text with half a Unicode character or a NUL")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file holding a mapping; an empty file is an empty mapping."""
    try:
        values = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise MaltError(f"{path} does not exist: check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = first_line(error)
        raise MaltError(f"{path} cannot be read ({reason}): give a YAML text file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else f"{path}"
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise MaltError(f"{where} is not valid YAML ({problem}): correct that line") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise MaltError(
            f"{path} holds no mapping at its top level: write `section:` and keys below it"
        )
    return values


def yaml_text(values: Mapping[str, Any]) -> str:
    """YAML that `read_yaml` reads back as the same values."""
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


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
    value = _read(text)
    group = isinstance(value, list) or (isinstance(value, dict) and text.lstrip().startswith("{"))
    return value if value is None or group else text  # `::` is an address


def _read(text: str) -> Any:
    """What a text says as YAML, else the text."""
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        return text


def typed(values: object) -> object:
    """A group that anything may be set in, its values read as YAML: no type tells what they are."""
    if not isinstance(values, dict):
        return values
    return {k: _read(v) if isinstance(v, str) else v for k, v in values.items()}


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


# ---- what is wrong, in one sentence ----


WANTED = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "unwritable": "text without NUL, in UTF-8",
    "list": "a list such as a,b,c",
    "too": "a list of at least one item and at most 16",
    "dict": "a group of keys",
    "model": "a group of keys",
}


def sentence(model: type[BaseModel], error: ValidationError) -> str:
    """The first mistake pydantic found, as: the dotted key, the value, the bound."""
    # A mistyped key explains errors elsewhere, so it comes first.
    first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"'{key}' is not a setting: {_suggest(model, key)} (--help lists all)"
    if first["type"] == "missing":
        return f"'{key}' is missing: give it"
    context = first.get("ctx", {})
    bounds = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    limits = [f"{word} {context[name]}" for name, word in bounds.items() if name in context]
    wanted = " and ".join(limit.removesuffix(".0") for limit in limits)
    if first["type"] == "string_pattern_mismatch":
        wanted = f"of the form {context['pattern']}"
    if first["type"] == "literal_error":
        wanted = f"one of {context['expected']}".replace("'", "")
    if not wanted:
        wanted = WANTED.get(first["type"].partition("_")[0], f"valid ({first['msg']})")
    return f"{key} = {first['input']!r} is not possible: it must be {wanted}"


def _suggest(model: type[BaseModel], key: str) -> str:
    known = [name for name, _, _ in settings(model)]
    parent, _, leaf = key.rpartition(".")
    # Below a role's override, offer the settings of that section.
    section, _, role = parent.partition(".roles.")
    if role:
        inside = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == section]
        return nearest(leaf, [name for name in inside if name != "roles"])
    same = [name for name in known if name.rpartition(".")[2] == leaf]
    sections = {name.rpartition(".")[0] for name in known} - {""}
    return nearest(key, same or [*known, *sorted(sections)])


# ---- which settings there are ----


def settings(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo, Any]]:
    """(dotted name, field, default) of every setting; a section's own before its sub-sections'."""
    nested = []
    for name, info in section.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            nested.append((name, kind))
        else:
            yield prefix + name, info, info.default
    for name, kind in nested:
        yield from settings(kind, f"{prefix}{name}.")


def lookup(values: Any, path: Sequence[str], default: Any) -> Any:
    """The value at the end of a path of keys, or the default if any step is missing."""
    for part in path:
        if not isinstance(values, Mapping) or part not in values:
            return default
        values = values[part]
    return values


def type_name(kind: Any) -> str:
    """`int`, `a|b`, `list` ...: what a user may type."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "|".join(map(str, args))
    if origin in (typing.Union, types.UnionType):
        return "|".join(dict.fromkeys(type_name(arg) for arg in args if arg is not types.NoneType))
    if origin is Annotated:
        return type_name(args[0])
    name: str = getattr(origin or kind, "__name__", str(kind))
    return {"str": "TEXT", "Path": "PATH"}.get(name, name)
