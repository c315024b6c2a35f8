"""The console script: `malt-fast COMMAND ...` is `python -m malt_fast.COMMAND ...`.

A command's module is imported once it is asked for, so that help costs nothing.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from malt_fast import __version__
from malt_fast.utils.errors import nearest, one_line

COMMANDS = {
    "train": "sample trees, train the roles, evaluate; goes on where it stopped",
    "evaluate": "evaluate a finished run again, with every table of the paper",
    "sweep": "train and evaluate a run for each value of a setting",
    "report": "one page of a run's results and trees",
    "export": "take adapters and data elsewhere: vLLM, PEFT, TRL, the Hugging Face hub",
    "serve": "answer by the trained roles, for OpenAI's clients",
    "completion": "print a script that completes all this in bash, zsh or fish",
}

EXAMPLES = """\
examples:
  malt-fast train --run runs/demo
  malt-fast evaluate --run runs/demo --suite paper
  malt-fast serve --run runs/demo""".splitlines()


def commands() -> dict[str, str]:
    """Those that are part of this installation, and what they do."""
    return {name: about for name, about in COMMANDS.items() if find_spec(f"malt_fast.{name}")}


def help_text() -> str:
    lines = [f"  {name:<10} {about}" for name, about in commands().items()]
    more = "malt-fast COMMAND --help tells what a command takes, malt-fast --version which this is."
    return "\n".join(["usage: malt-fast COMMAND ...", "", *EXAMPLES, "", *lines, "", more])


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or words[0] in ("-h", "--help"):
        print(help_text())
        return 0
    if words[0] == "--version":
        print(f"malt-fast {__version__}")
        return 0
    name, *rest = words
    if name not in commands():
        known = nearest(name, commands())
        print(one_line(f"error: '{name}' is no command: {known}"), file=sys.stderr)
        return 2
    status: int = import_module(f"malt_fast.{name}").main(rest)
    return status


if __name__ == "__main__":
    sys.exit(main())
