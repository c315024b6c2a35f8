"""Unknown, misspelt and impossible settings, each as one sentence; the list of all settings."""

import shlex
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from malt_fast.config.habits import HABITS, INSTEAD
from malt_fast.config.sections import FORMS, Section
from malt_fast.config.values import nested
from malt_fast.config.yaml_files import line_of
from malt_fast.utils.errors import MaltError, nearest

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MANY = 3  # settings of one name that are all suggested
BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
WANTED = {  # by the first word of pydantic's type of error
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "unwritable": "text without NUL, in UTF-8",
    "list": "a list such as a,b,c",
    "too": "a list of at least one item and at most 16",
    "dict": "a group of settings, such as {key: value}",
    "model": "a group of settings, such as {key: value}",
}


def sentence(
    model: type[BaseModel], error: ValidationError, words: Mapping[str, str] = WANTED
) -> str:
    """The first mistake that pydantic found: the dotted key, the value and the bound.

    words: what is wanted, by the first word of pydantic's type of error.
    """
    first = first_mistake(error)
    key = ".".join(map(str, where(first)))
    if first["type"] == "extra_forbidden":
        return f"'{key}' is not a setting: {_suggest(model, key)} (--help lists all)"
    if first["type"] == "missing":
        field = model.model_fields.get(key)
        if field is None or not issubclass(model, Section):
            return f"'{key}' is missing: give it"
        kind = type_name(field.annotation)
        return f"--{key} is missing: give --{key} {kind}, {field.description}"
    if (
        issubclass(model, Section)
        and isinstance(text := first["input"], str | int | float)
        and (first["type"] == "model_type")
    ):
        named = HABITS.get(key, f"{key}.FIELD")
        return f"{key} is a section: write `--{named} {shlex.quote(str(text))}`, see --help {key}"
    context = first.get("ctx", {})
    limits = [f"{word} {context[name]}" for name, word in BOUNDS.items() if name in context]
    wanted = " and ".join(limit.removesuffix(".0") for limit in limits)
    if first["type"] == "string_pattern_mismatch":
        wanted = FORMS.get(context["pattern"], f"of the form {context['pattern']}")
    if first["type"] == "literal_error":
        wanted = f"one of {context['expected']}".replace("'", "")
    if not wanted:
        wanted = words.get(first["type"].partition("_")[0], f"valid ({first['msg']})")
    plain = {None: "null", True: "true", False: "false"}
    value = first["input"]
    given = plain[value] if value is None or isinstance(value, bool) else repr(value)
    return f"{key} = {given} is not possible: it must be {wanted}"


def first_mistake(error: ValidationError) -> "ErrorDetails":
    """A mistyped key explains errors elsewhere, so it comes first."""
    return min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")


def where(mistake: "ErrorDetails") -> list[str | int]:
    """The path of keys to the setting of a mistake."""
    kinds = ("str", "list[str]")  # of a setting that may be either
    return [part for part in mistake["loc"] if part not in kinds]


def check_file(model: type[BaseModel], path: Path, values: Mapping[str, Any]) -> None:
    """Raises MaltError, naming file and line, for a mistake in the settings that a file gives."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        first = first_mistake(error)
        if first["type"] != "missing":  # a program's own option, which a file need not give
            line = line_of(path, where(first))
            raise MaltError(f"{path}:{line}: {sentence(model, error)}") from None


def check_known(model: type[BaseModel], key: str) -> None:
    """Raises MaltError for a dotted key that is not a setting."""
    try:
        model.model_validate(nested([(key, "")]))
    except ValidationError as error:
        if any(item["type"] == "extra_forbidden" for item in error.errors()):
            raise MaltError(sentence(model, error)) from None


def _suggest(model: type[BaseModel], key: str) -> str:
    known = [name for name, _, _ in settings(model)]
    named = HABITS.get(key, "")
    if named == "config" or any(named == name or named.startswith(f"{name}.") for name in known):
        return f"here it is `--{named}`"
    parent, _, leaf = key.rpartition(".")
    if leaf in INSTEAD and "task.name" in known:  # a program that takes the settings of a run
        return INSTEAD[leaf]
    # Below a role's override, offer the settings of that section.
    section, _, role = parent.partition(".roles.")
    if role:
        inside = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == section]
        return nearest(leaf, [name for name in inside if name != "roles"])
    same = [name for name in known if name.rpartition(".")[2] == leaf]
    if leaf and 1 < len(same) <= MANY:
        return f"did you mean {' or '.join(map(repr, same))}?"
    sections = {name.rpartition(".")[0] for name in known} - {""}
    return nearest(key, same or [*known, *sorted(sections)])


def settings(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo, Any]]:
    """(dotted name, field, default) of every setting; a section's own before its sub-sections'."""
    below = []
    for name, info in section.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            below.append((name, kind))
        else:
            yield prefix + name, info, None if info.is_required() else info.default
    for name, kind in below:
        yield from settings(kind, f"{prefix}{name}.")


def type_name(kind: Any) -> str:
    """`int`, `a|b`, `list` ...: what a user may type."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "|".join(map(str, args))
    if origin in (typing.Union, types.UnionType):
        return "|".join(dict.fromkeys(type_name(arg) for arg in args if arg is not types.NoneType))
    if origin is Annotated or args == (Path,):
        return type_name(args[0])
    name: str = getattr(origin or kind, "__name__", str(kind))
    return {"str": "TEXT", "Path": "PATH", "bool": "true|false"}.get(name, name)
