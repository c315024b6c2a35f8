"""Writes docs/settings.md from the settings: `python -m tests.docs.settings_page`."""

from itertools import groupby
from pathlib import Path

from malt_fast.config.help import bounds, section_of
from malt_fast.config.mistakes import type_name
from malt_fast.train import PROGRAM

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
HEAD = """\
# Settings

Every setting of `train`, with its default. Three ways set one:

- on the command line: `--tree.branching 4,3,2`
- in a YAML file that `--config` names; of several files the later one counts
- from Python, in the dictionary that [`prepare`](api.md) takes

The command line overrides the files. Both override the settings of a run that is
[continued](resume.md). A list is written `a,b,c` or `[a, b, c]`, and `null` unsets a setting.
Hyphens in the name of an option are read as underscores.

A task may have defaults of its own. `--help all --task.name gsm8k` shows those of GSM8K.
`--help all` prints the list below, `--help sampling` one section and `--help tree.branching` one
setting. `malt-fast completion bash` prints a completion script for the shell (or zsh, tcsh, fish).

The other programs (`evaluate`, `sweep`, `report`, `export`, `serve`) take some of these settings.
Their `--help` names them. `python -m tests.docs.settings_page` writes this page.
"""
TABLE = ("| setting | value | default | meaning |", "|---|---|---|---|")


def settings_page() -> str:
    lines = [HEAD]
    for section, options in groupby(PROGRAM.options(), lambda option: section_of(option[0])):
        lines += [f"## {section}", "", *TABLE]
        for name, info, default in options:
            value = ", ".join(filter(None, (type_name(info.annotation), bounds(info))))
            cells = (f"`{name}`", value, _default(default), info.description or "")
            lines.append(f"| {' | '.join(map(_cell, cells))} |")
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def _default(value: object) -> str:
    if value is None or value in ({}, [], ""):
        return ""
    if isinstance(value, list):
        value = ",".join(map(str, value))
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _cell(text: str) -> str:
    """Text of one cell: a bar would end it, and a bracket could open a tag."""
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf-8")
