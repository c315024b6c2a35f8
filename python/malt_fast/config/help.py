"""The text of `--help`: a paragraph, examples and the common settings; a section, or all, if asked.

--help            the common settings, and the names of the rest
--help SECTION    every setting of task, model, engine, sampling, tree, ..., with its bounds
--help KEY        one setting, such as tree.branching, or all of one name, such as learning_rate
--help all        every setting
"""

import shutil
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic.fields import FieldInfo

from malt_fast.config.arguments import Program
from malt_fast.config.load import task_defaults
from malt_fast.config.mistakes import BOUNDS, type_name
from malt_fast.config.schema import TaskConfig
from malt_fast.config.values import lookup
from malt_fast.utils.errors import MaltError, nearest

GENERAL = "general"  # the section of settings that are in none
HUGE = 2**31 - 1  # a bound that only keeps numbers in range
LISTS = "Lists are written a,b,c or [a, b, c]; null unsets a setting; --config FILE.yaml sets any."


def help_text(program: Program[Any], values: Mapping[str, Any], topic: str = "") -> str:
    """Help on a program; settings have the defaults in `values`, or else their own.

    topic: "" for the short help, a section, a setting, or all. Raises MaltError for another one.
    """
    names = {name: section_of(name) for name, _, _ in program.options()}
    sections = list(dict.fromkeys(names.values()))
    if not topic:
        return "\n".join(_short(program, names, sections, values))
    chosen = [s for s in sections if topic in ("all", s) or f".{topic}." in f".{s}."]
    keys = [name for name in names if topic in (name, name.rpartition(".")[2])]
    if keys and not chosen:
        return "\n".join([_usage(program), "", *_settings(program, keys, values)])
    if not chosen:
        leaves = {name.rpartition(".")[2] for name in names}
        hint = nearest(topic, names if "." in topic else [*sections, *leaves])
        raise MaltError(f"--help knows no section or setting '{topic}': {hint}")
    lines = [_usage(program)]
    for section in chosen:
        inside = [name for name in names if names[name] == section]
        lines += ["", f"{section}:", *_settings(program, inside, values)]
    return "\n".join(lines)


def _short(
    program: Program[Any], names: Mapping[str, str], sections: list[str], values: Mapping[str, Any]
) -> list[str]:
    shown = [f"  python -m {program.name} {words}".rstrip() for words in program.examples]
    lines = [_usage(program), "", *_wrap(program.about, ""), "", "examples:", *shown, ""]
    if not program.common:
        return [*lines, "options:", *_settings(program, names, values)]
    lines += ["common settings:", *_settings(program, program.common, values)]
    lines += ["", "all settings, described by --help SECTION or --help all:"]
    for section in sections:
        inside = [name.rpartition(".")[2] for name in names if names[name] == section]
        lines += _wrap(f"{section}: {', '.join(inside)}", "  ", "      ")
    return [*lines, "", *_wrap(LISTS, "")]


def _usage(program: Program[Any]) -> str:
    options = "[--config FILE] [--section.field value" if program.common else "[--option value"
    return f"usage: python -m {program.name} {options} ...]"


def section_of(name: str) -> str:
    return name.rpartition(".")[0] or GENERAL


def _settings(program: Program[Any], names: Iterable[str], values: Mapping[str, Any]) -> list[str]:
    """For each setting `--name TYPE`, and below it what it does, its bounds and its default."""
    known = {name: (info, default) for name, info, default in program.options()}
    short = {name: f"short: --{option}" for option, name in program.short.items()}
    task = str(lookup(values, ("task", "name"), TaskConfig.model_fields["name"].default))
    of_task, lines = task_defaults(task), list[str]()
    for name in names:
        info, default = known[name]
        value = lookup(values, name.split("."), default)
        stated = _default(value, info.is_required())
        if value != default and lookup(of_task, name.split("."), None) == value:
            stated += f" for the task {task}"
        facts = [bounds(info), stated, short.get(name, "")]
        shown = "; ".join(fact for fact in facts if fact)
        lines += _wrap(f"--{name} {type_name(info.annotation)}", "  ", "          ")
        lines += _wrap(f"{info.description}{f' ({shown})' if shown else ''}", "      ")
    return lines


def _default(value: Any, required: bool) -> str:
    if required:
        return "required"
    if value is None or value in ({}, ""):
        return ""
    if isinstance(value, list):
        value = ",".join(map(str, value))
    return f"default {str(value).lower() if isinstance(value, bool) else value}"


def bounds(info: FieldInfo) -> str:
    """`at least 0, below 1`, without the bounds that only keep numbers in range."""
    parts = []
    for limit in info.metadata:
        for key, phrase in BOUNDS.items():
            end = getattr(limit, key, None)
            if end is not None and abs(end) < HUGE:
                parts.append(f"{phrase} {end:g}" if end < 1e6 else f"{phrase} {end:,}")
    return ", ".join(parts)


def _wrap(text: str, first: str, rest: str | None = None) -> list[str]:
    """`text` in lines that fit the terminal, and at most 100 columns."""
    width = max(60, min(100, shutil.get_terminal_size().columns))
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=first if rest is None else rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
