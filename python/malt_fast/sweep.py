"""One setting, several values: `python -m malt_fast.sweep --run DIR --sweep tree.threshold=0.3,1`.

Each value gets a run of its own, DIR/sweeps/KEY=VALUE, with the settings of DIR and that one value.
Outputs that DIR has already sampled are reused, and a finished run is only read. The runs are
compared in tables/sweep-KEY and sweep-KEY.svg.
"""

import sys
from collections.abc import Sequence

from malt_fast.config.arguments import Program
from malt_fast.config.changeable import EVALUATION_SETTINGS
from malt_fast.config.command import run_command
from malt_fast.config.load import plain_config
from malt_fast.config.schema import Config
from malt_fast.config.sections import setting


class Command(Config):
    sweep: str = setting(
        ..., "KEY=V1,V2: a setting and its values; a list as a value has brackets", exclude=True
    )


PROGRAM = Program(
    "malt_fast.sweep",
    Command,
    "Trains and evaluates one run for each value of a setting, in DIR/sweeps, and compares them. "
    "Every run has the settings of the finished run DIR, and reuses its samples.",
    (
        "--run runs/gsm8k --sweep tree.threshold=0.3,0.5,0.7",
        "--run runs/gsm8k --sweep 'tree.branching=[3,3,3],[4,4,4]'",
    ),
    common=("run", "sweep", "evaluate.votes", "evaluate.limit", "engine.name"),
    may_change=(*EVALUATION_SETTINGS, "report_to"),
)


def run_program(command: Command) -> None:
    # Imported here, after the first words: this takes longer than reading the command.
    from malt_fast.sweep_runs import sweep

    sweep(plain_config(command), command.sweep)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(PROGRAM, run_program, argv)


if __name__ == "__main__":
    sys.exit(main())
