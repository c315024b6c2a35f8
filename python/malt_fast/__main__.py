"""The console script: `malt-fast COMMAND ...` is `python -m malt_fast.COMMAND ...`.

The module of a command is imported only when it runs, so that help is fast.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from malt_fast import __version__
from malt_fast.utils.errors import nearest, one_line
from malt_fast.utils.exit_status import show

COMMANDS = {
    "train": "sample trees, train the roles, evaluate; continue a run that stopped",
    "evaluate": "measure a run once more, with every table of the paper if asked",
    "sweep": "train and compare one run for each value of a setting",
    "report": "write one page of a run's results and trees",
    "export": "copy adapters and data for vLLM, PEFT, TRL and the Hugging Face hub",
    "serve": "answer with the trained roles, for OpenAI's clients",
    "completion": "print a completion script for bash, zsh, tcsh or fish",
}

EXAMPLES = """\
examples:
  malt-fast train --task.name arithmetic --run runs/demo
  malt-fast evaluate --run runs/demo --suite paper
  malt-fast serve --run runs/demo""".splitlines()


def commands() -> dict[str, str]:
    """The commands of this installation, and what they do."""
    return {name: about for name, about in COMMANDS.items() if find_spec(f"malt_fast.{name}")}


def help_text() -> str:
    lines = [f"  {name:<10} {about}" for name, about in commands().items()]
    more = "malt-fast COMMAND --help lists a command's options, malt-fast --version the version."
    return "\n".join(["usage: malt-fast COMMAND ...", "", *EXAMPLES, "", *lines, "", more])


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or words[0] in ("-h", "--help"):
        show(help_text())
        return 0
    if words[0] == "--version":
        print(f"malt-fast {__version__}")
        return 0
    name, *rest = words
    if name not in commands():
        known = nearest(name, commands())
        print(one_line(f"error: '{name}' is not a command: {known}"), file=sys.stderr)
        return 2
    status: int = import_module(f"malt_fast.{name}").main(rest)
    return status


if __name__ == "__main__":
    sys.exit(main())
