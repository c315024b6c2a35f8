"""What `--help` says: a paragraph, examples, the settings used most; a section, or all, when asked.

--help            what is used most, and the names of the rest
--help SECTION    every setting of task, model, engine, sampling, tree, ..., with its bounds
--help all        every setting
"""

import shutil
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from malt_fast.config.arguments import lookup
from malt_fast.config.mistakes import settings, type_name
from malt_fast.utils.errors import MaltError, nearest

GENERAL = "general"  # the section of settings that are in none
HUGE = 2**31 - 1  # a bound that says nothing
BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


@dataclass(frozen=True)
class Program:
    about: str
    examples: tuple[str, ...]  # after the program's name
    common: tuple[str, ...]  # settings used most
    more: tuple[tuple[str, str], ...] = ()  # options that are no settings


PROGRAMS = {
    "malt_fast.train": Program(
        "Samples trees of outputs under every question, grades them, trains an adapter a role and "
        "evaluates. Without options: the bundled demonstration, on CPU. Pointed at its run "
        "directory again, it goes on where it stopped, and does again only what a change needs.",
        (
            "",
            "--task.name gsm8k --task.path train.jsonl --run runs/gsm8k",
            "--config configs/gsm8k.yaml --config configs/1-gpu.yaml",
            "--plan --config configs/gsm8k.yaml --run runs/gsm8k",
            "--run runs/long --tree.branching 4,3,2 --sampling.temperature 0.7",
        ),
        ("run", "task.name", "task.path", "task.limit", "model.name_or_path", "engine.name",
         "sampling.temperature", "sampling.max_tokens", "tree.branching", "train.rounds",
         "train.dpo.beta"),
        (("--plan [QUESTIONS]", "say what the run will take, by a probe that the run keeps"),),
    ),
    "malt_fast.evaluate": Program(
        "Measures a finished run once more, on the same held-out questions or others. Settings "
        "below `evaluate` and `engine`, the device and the test set may be changed.",
        (
            "--run runs/gsm8k",
            "--run runs/gsm8k --suite paper",
        ),
        ("run", "evaluate.votes", "evaluate.limit", "evaluate.sampling.temperature",
         "task.test_path", "engine.name"),
        (("--suite standard|paper", "short for --evaluate.suite"),),
    ),
    "malt_fast.sweep": Program(
        "Trains and evaluates a run for each value of one setting, in DIR/sweeps/KEY=VALUE, with "
        "the other settings of the finished run DIR, and compares them in one table and plot. "
        "Outputs that DIR has already sampled are reused.",
        (
            "--run runs/gsm8k --sweep tree.threshold=0.3,0.5,0.7",
            "--run runs/gsm8k --sweep tree.branching=[2,2,2],[3,3,3]",
        ),
        ("run", "evaluate.votes", "evaluate.limit", "engine.name"),
        (("--sweep KEY=V1,V2", "the setting and its values; a list is one value in brackets"),),
    ),
    "malt_fast.serve": Program(
        "Answers by the roles of a finished run, as one OpenAI-compatible model. Settings below "
        "`serve`, `evaluate` and `engine`, the device and sampling.max_tokens may be changed.",
        (
            "--run runs/gsm8k",
            "--run runs/gsm8k --serve.port 8080 --evaluate.votes 5",
        ),
        ("run", "serve.host", "serve.port", "serve.max_waiting", "evaluate.votes", "engine.name",
         "sampling.max_tokens"),
    ),
}  # fmt: skip
EXAMPLES = {  # of programs whose options are no settings
    "malt_fast.export": (
        "--run runs/gsm8k",
        "--run runs/gsm8k --out exported --merged",
        "--run runs/gsm8k --push_to_hub me/malt",
    ),
    "malt_fast.report": ("--run runs/gsm8k", "--run runs/gsm8k --out gsm8k.html"),
    "malt_fast.demo.build": ("--out world", "--out small --steps 400 --batch 64"),
}


def help_text(
    model: type[BaseModel], program: str, values: Mapping[str, Any], topic: str = ""
) -> str:
    """Of a program; settings with the defaults in `values`, or else their own.

    topic: "" for the short help, a section, or all. Raises MaltError for another one.
    """
    every = list(settings(model))
    sections = list(dict.fromkeys(section_of(name) for name, _, _ in every))
    if topic == "all":
        chosen = sections
    elif topic:
        chosen = [s for s in sections if s == topic or s.startswith(f"{topic}.")]
        if not chosen:
            raise MaltError(f"--help knows no section '{topic}': {nearest(topic, sections)}")
    else:
        return _short(program, every, sections, values)
    lines = [line for section in chosen for line in _section(section, every, values)]
    return "\n".join([usage(program), *lines])


def _short(program: str, every: list[Any], sections: list[str], values: Mapping[str, Any]) -> str:
    known = PROGRAMS[program]
    lines = [usage(program), "", *wrap(known.about, ""), "", *examples(program)]
    lines += ["", "used most:"]
    for option, about in known.more:
        lines += [f"  {option}", *wrap(about, "      ")]
    common = {name: (name, info, default) for name, info, default in every if name in known.common}
    for name in known.common:
        lines += _setting(*common[name], values)
    lines += ["", "the rest, told by --help SECTION or --help all:"]
    for section in sections:
        names = [name.rpartition(".")[2] for name, _, _ in every if section_of(name) == section]
        lines += wrap(f"{section}: {', '.join(names)}", "  ", "      ")
    more = "Lists go as a,b,c or [a, b, c]; null unsets a setting. --config FILE.yaml holds any."
    return "\n".join([*lines, "", *wrap(more, "")])


def usage(program: str) -> str:
    return f"usage: python -m {program} [--config FILE] [--section.field value ...]"


def examples(program: str) -> list[str]:
    """Commands to copy, one a line."""
    given = PROGRAMS[program].examples if program in PROGRAMS else EXAMPLES[program]
    return ["examples:", *(f"  python -m {program} {words}".rstrip() for words in given)]


def section_of(name: str) -> str:
    return name.rpartition(".")[0] or GENERAL


def _section(section: str, every: list[Any], values: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", f"{section}:")
    for name, info, default in every:
        if section_of(name) == section:
            yield from _setting(name, info, default, values)


def _setting(name: str, info: FieldInfo, default: Any, values: Mapping[str, Any]) -> list[str]:
    """`--name TYPE`, and below it what it does, its bounds and its default."""
    value = lookup(values, name.split("."), default)
    if isinstance(value, list):
        value = ",".join(map(str, value))
    facts = [bounds(info), "" if value is None or value in ({}, "") else f"default {value}"]
    told = "; ".join(fact for fact in facts if fact)
    about = f"{info.description or ''}{f' ({told})' if told else ''}"
    return [
        *wrap(f"--{name} {type_name(info.annotation)}", "  ", "          "),
        *wrap(about, "      "),
    ]


def bounds(info: FieldInfo) -> str:
    """`at least 0, below 1`; bounds that nobody meets are left out."""
    told = []
    for limit in info.metadata:
        for key, phrase in BOUNDS.items():
            end = getattr(limit, key, None)
            if end is not None and abs(end) < HUGE:
                told.append(f"{phrase} {end:g}" if end < 1e6 else f"{phrase} {end:,}")
    return ", ".join(told)


def wrap(text: str, first: str, rest: str | None = None) -> list[str]:
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
