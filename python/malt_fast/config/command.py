"""One command line for every program: options, YAML files, help and mistakes."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from malt_fast.config.arguments import Program, Taken, parse_arguments
from malt_fast.config.help import help_text
from malt_fast.config.load import make, over_saved, saved_config
from malt_fast.config.schema import Config
from malt_fast.utils import distributed
from malt_fast.utils.errors import MaltError, not_there, printable
from malt_fast.utils.exit_status import exit_status, show


def run_command(
    program: Program[Taken], action: Callable[[Taken], object], argv: Sequence[str] | None
) -> int:
    """Run a program on a command line, `sys.argv` if None; returns its exit status."""
    words = sys.argv[1:] if argv is None else argv

    def work() -> None:
        taken = read_command(program, words)
        if distributed.is_leader():
            show(printable(first_words(program, taken)))
        action(taken)

    return exit_status(work)


def check_given(program: Program[Any], values: Mapping[str, Any]) -> None:
    """Raises MaltError for a run directory that is not there, without any setting of a new run.

    It is a mistyped one more often than a demonstration that was given a name.
    """
    own = {name for name, info, _ in program.options() if info.exclude}  # such as `plan`
    run = values.get("run")
    if isinstance(run, str) and not values.keys() - own - {"run"} and not Path(str(run)).exists():
        raise MaltError(
            f"{not_there(run)}, and no settings of a new run are given: check the path, or add "
            "`--task.name arithmetic` for the demonstration"
        )


def first_words(program: Program[Taken], taken: Taken) -> str:
    """What a program says before it imports what takes seconds."""
    what = getattr(taken, "run", None)
    if isinstance(taken, Config) and (what is None or not what.exists()):
        what = f"{taken.task.name}, {taken.model.name_or_path}"
    if isinstance(what, list):
        what = ", ".join(map(str, what))
    return f"{program.name.removeprefix('malt_fast.')}: loading {what or 'libraries'}"


def read_command(program: Program[Taken], argv: Sequence[str]) -> Taken:
    """The options of a command line, over `--config` files and over the run's or task's settings.

    `--help` is printed, and exits. Raises MaltError for the first mistake.
    """
    values, topic = parse_arguments(program, argv)
    defaults = over_saved(values) if issubclass(program.takes, Config) else values
    if topic is None and program.may_change is None and issubclass(program.takes, Config):
        check_given(program, values)
    if topic is not None:
        show(help_text(program, defaults, topic))
        raise SystemExit(0)
    if program.may_change is not None:
        return saved_config(program.takes, values, program.may_change)
    return make(program.takes, defaults)
