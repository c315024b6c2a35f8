"""Writes one page with all that a run has: `python -m malt_fast.report --run DIR`.

DIR/report.html is one file that opens from the disk and needs no network: the result table with its
intervals, what every system said to every held-out question, every tree, training curves, the data,
plan and time, and settings. A run need not be finished: the page shows what it has and names what
it lacks. Every run writes its page at its end. The same run always gives the same bytes.

With several runs, `--run A --run B`, the page compares them: settings that differ, the results side
by side with their differences, and curves over each other.

Does not: sample, grade or evaluate anything.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import field_validator

from malt_fast.config.arguments import Program
from malt_fast.config.command import run_command
from malt_fast.config.sections import Section, setting
from malt_fast.utils.errors import printable
from malt_fast.utils.exit_status import show


class Options(Section):
    run: list[Path] = setting(..., "the run directory; several are compared", min_length=1)
    out: Path | None = setting(
        None, "file to write; unset: report.html in the run, or comparison.html here for several"
    )

    @field_validator("run", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        return [value] if isinstance(value, str | Path) else value


PROGRAM = Program(
    "malt_fast.report",
    Options,
    "Writes one HTML page with a run's results, transcripts and trees, or a comparison of several "
    "runs. A run need not be finished.",
    ("runs/gsm8k", "runs/gsm8k runs/mine --out comparison.html"),
)


def report(options: Options) -> None:
    # Imported here, after the first words: this takes longer than reading the command.
    from malt_fast.results.write_report import write_comparison, write_report

    runs = list(dict.fromkeys(options.run))
    several = len(runs) > 1
    made = write_comparison(runs, options.out) if several else write_report(runs[0], options.out)
    show(printable(f"wrote {made}"))


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(PROGRAM, report, argv)


if __name__ == "__main__":
    sys.exit(main())
