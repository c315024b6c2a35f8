"""A program's command line: what the program declares, and its options as nested values."""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic.fields import FieldInfo

from malt_fast.config.habits import HABITS
from malt_fast.config.mistakes import check_file, check_known, settings
from malt_fast.config.sections import Section
from malt_fast.config.values import merge, nested
from malt_fast.config.yaml_files import check_text, read_value, read_yaml
from malt_fast.utils.errors import MaltError

Taken = TypeVar("Taken", bound=Section)
SHORT = {"-h": "--help", "-c": "--config"}
SETTERS = ("set", "override")  # of other programs: --set key=value
# What --run is to a program that takes its settings from a run.
FINISHED_RUN = FieldInfo(annotation=Path, description="the directory of a finished run")


@dataclass(frozen=True)
class Program(Generic[Taken]):
    """A program that is run as `python -m NAME`.

    Its options are the fields of `takes`: Config, Config with fields of the program's own
    (`exclude=True`: they are not saved with the run), or a section without any setting of Config.
    """

    name: str
    takes: type[Taken]
    about: str
    examples: tuple[str, ...]  # command lines without the program's name
    common: tuple[str, ...] = ()  # options that the short help describes; all, if empty
    may_change: tuple[str, ...] | None = None
    """Prefixes of the settings that may differ from those of the run, for a program that takes its
    settings from a run; None for one that does not."""
    alone: Mapping[str, str] = field(default_factory=dict)  # values of options given without one
    short: Mapping[str, str] = field(default_factory=dict)  # short option -> setting

    def options(self) -> Iterator[tuple[str, FieldInfo, Any]]:
        """(dotted name, field, default) of every option that the program takes."""
        taken = ("",) if self.may_change is None else self.may_change
        for name, info, default in settings(self.takes):
            if name == "run" and self.may_change is not None:
                info = FINISHED_RUN
            if name == "run" or info.exclude or name.startswith(taken):
                yield name, info, default


def parse_arguments(
    program: Program[Any], argv: Sequence[str]
) -> tuple[dict[str, Any], str | None]:
    """Nested values of `--config` files and `--key value` pairs, and the topic of `--help`.

    The topic is None without `--help`, "" for the short help, else a section or `all`.
    """
    files: dict[str, Any] = {}
    given: list[tuple[str, Any]] = []
    topic = None
    # The runs that a program compares: each one that is given counts, and may have a comma.
    several = program.takes.model_fields.get("run", FINISHED_RUN).annotation == list[Path]
    words = list(argv)
    front = [*takewhile(lambda word: _is_run(program, word), words)]
    if len(front) == 1 or several:
        words = [*(word for run in front for word in ("--run", run)), *words[len(front) :]]
    for word in words:
        try:
            check_text(word)
        except ValueError as error:
            raise MaltError(f"'{word}' is {error}: correct it") from None
    while words:
        key, text = _take_option(program, words)
        if key == "help":
            topic = text
        elif key == "config":
            files = merge(files, _read_file(program, Path(text)))
        elif key == "run" and several:
            given.append((key, [*dict(given).get(key, []), text]))
        else:
            given.append((key, _value(text)))
    return merge(files, nested(given)), topic


def _is_run(program: Program[Any], word: str) -> bool:
    """Whether a word at the front stands for `--run DIR`; if a run may be new, it must exist."""
    if word.startswith("-") or word == "help":
        return False
    run = program.takes.model_fields.get("run")
    old = program.may_change is not None or (run is not None and run.is_required())
    return os.path.isdir(word) or (old and "=" not in word)


def _take_option(program: Program[Any], words: list[str]) -> tuple[str, str]:
    """The name and the text of the first option; both are removed from `words`."""
    word = SHORT.get(words[0], words[0])
    if not word.startswith("--") or word == "--":
        raise MaltError(f"'{word}' is not an option: {_write_instead(word)}")
    del words[0]
    given, equals, text = word[2:].partition("=")
    given = given.replace("-", "_")  # as programs with transformers' or vLLM's options do
    if given in SETTERS:
        raise MaltError(
            f"'--{given}' is not an option: {_write_instead(text or ''.join(words[:1]))}"
        )
    key = program.short.get(given, given)
    if not equals and words and not words[0].startswith("--") and words[0] not in SHORT:
        equals, text = " ", words.pop(0)
    if text.strip():
        return key, text
    flags = {name: "true" for name, info, _ in program.options() if info.annotation is bool}
    alone = {"help": "", **flags, **program.alone}
    if key in alone and (key == "help" or not equals):
        return key, alone[key]
    if key != "config":
        check_known(program.takes, key)
    if any(name.startswith(f"{key}.") for name, _, _ in program.options()):
        raise MaltError(f"--{key} is a section: write `--{key}.FIELD VALUE`, see --help {key}")
    empty = "the one given is empty, " if equals else ""
    raise MaltError(f"--{given} needs a value: {empty}write `--{given} VALUE`, see --help")


def _write_instead(word: str) -> str:
    """What to write for `key=value`, and for a word that is nothing."""
    key, equals, text = word.lstrip("+").partition("=")
    if word == "help":
        return "write `--help`"
    if not equals or not all(part.isidentifier() for part in key.split(".")):
        if word.isdigit():
            return "write a list with commas, as in 3,3,3"
        return "write `--section.field value`, or `--run DIR`"
    return f"write `--{HABITS.get(key, key)} {shlex.quote(text)}`"


def _read_file(program: Program[Any], path: Path) -> dict[str, Any]:
    values = read_yaml(path)
    check_file(program.takes, path, values)
    return values


def _value(text: str) -> Any:
    """A command-line value: null, a list or a mapping as YAML reads it, all else as text.

    The type of the setting converts the text: a run may be called 1, 1e3 or true.
    """
    value = read_value(text)
    group = isinstance(value, list) or (isinstance(value, dict) and text.lstrip().startswith("{"))
    null = value is None and not text.lstrip().startswith("#")  # a YAML comment
    return value if null or group else text  # `::` is an address
