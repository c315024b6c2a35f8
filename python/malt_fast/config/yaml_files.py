"""YAML files: a safe, bounded subset of YAML 1.2, read as nested values and written."""

import os
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from malt_fast.utils.errors import MaltError, first_line, not_there

DEEPEST, MOST = 50, 100_000  # levels of nesting, and values, that a YAML text may have
NESTED = "it is nested too deeply, or its aliases stand for too much"


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: `1e-5` is a number; dates, `on` and `1_0` stay text (run names look so)."""

    yaml_implicit_resolvers: typing.ClassVar[dict[str, Any]] = {}

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """Refuses a key that is given twice; PyYAML would take the last."""
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
    """Quotes text that `_Loader` would read as something else."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def parse_yaml(text: str) -> Any:
    """The value of a YAML text. Raises yaml.YAMLError for everything that can be wrong with it."""
    try:
        value = yaml.load(text, Loader=_Loader)  # nosec B506
        _check_values(value)
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.MarkedYAMLError(problem=NESTED) from None
    except Exception as error:  # a tag that does not fit its value, such as `!!int x`
        reason = "a tag does not fit its value"
        reason = first_line(error) if isinstance(error, ValueError) else reason
        raise yaml.MarkedYAMLError(problem=reason) from None
    return value


def _check_values(value: Any) -> None:
    """Raises ValueError for text that no file can hold, and RecursionError for too many values:
    a few aliases can stand for billions of values, or for themselves."""
    waiting, seen = [(value, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if depth > DEEPEST or seen > MOST:
            raise RecursionError
        if isinstance(value, str):
            check_text(value)
        if isinstance(value, dict | list):
            items = [*value, *value.values()] if isinstance(value, dict) else value
            waiting += [(item, depth + 1) for item in items]


def check_text(text: str) -> None:
    """Raises ValueError for text that cannot name a file."""
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
        raise MaltError(f"{not_there(path)}: check the path") from None
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


def line_of(path: Path, keys: Sequence[str | int]) -> int:
    """The line of the value under a path of keys in a YAML file, or of the last key that is there.

    Counted from 1.
    """
    node = yaml.compose(path.read_text(encoding="utf-8-sig"), _Loader)
    line = node.start_mark.line
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            found = [(name, below) for name, below in node.value if name.value == str(key)]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int):
            found = [(below, below) for below in node.value[key : key + 1]]
        else:
            found = []
        if not found:
            break
        line, node = found[0][0].start_mark.line, found[0][1]
    return int(line) + 1


def yaml_text(values: Mapping[str, Any]) -> str:
    """YAML that `read_yaml` reads back as the same values."""
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def read_value(text: str) -> Any:
    """The value of a text as YAML; the text itself if it is not YAML."""
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        return text


def typed(values: object) -> object:
    """A group of untyped settings: texts in it are read as YAML."""
    if not isinstance(values, dict):
        return values
    return {k: read_value(v) if isinstance(v, str) else v for k, v in values.items()}
