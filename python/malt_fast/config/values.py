"""Nested mappings of settings: made from dotted keys, merged, looked up."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def nested(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """("tree.branching", 3) as {"tree": {"branching": 3}}; a later pair wins."""
    out: dict[str, Any] = {}
    for key, value in pairs:
        *path, last = key.split(".")
        section = out
        for part in path:
            below = section.get(part)
            section[part] = section = below if isinstance(below, dict) else {}
        section[last] = value
    return out


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
