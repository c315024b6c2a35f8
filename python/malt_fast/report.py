"""Writes one page with a run's results and trees: `python -m malt_fast.report --run DIR`.

DIR/report.html is one file that opens from the disk and needs no network: the result table with its
intervals, charts, plan against fact, what the roles learned from, settings, and every tree with its
texts. A run need not be finished: the page shows what it has and names what it lacks. Every run
writes its page at its end. The same run always gives the same bytes.

Does not: sample, grade or evaluate anything.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from malt_fast.config.arguments import Program
from malt_fast.config.command import run_command
from malt_fast.config.sections import Section, setting
from malt_fast.results.write_report import NAME, write_report
from malt_fast.utils.errors import printable


class Options(Section):
    run: Path = setting(..., "the run directory")
    out: Path | None = setting(None, f"file to write; unset: {NAME} in the run")


PROGRAM = Program(
    "malt_fast.report",
    Options,
    "Writes one HTML page with a run's results and trees. The run need not be finished.",
    ("--run runs/gsm8k", "--run runs/gsm8k --out gsm8k.html"),
)


def report(options: Options) -> None:
    print(printable(f"wrote {write_report(options.run, options.out)}"), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(PROGRAM, report, argv)


if __name__ == "__main__":
    sys.exit(main())
