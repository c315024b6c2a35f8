"""One page of a run's results and trees: `python -m malt_fast.report --run DIR`.

Writes DIR/report.html, one file that needs no network and opens from the disk: the table with its
intervals, charts, plan against fact, what the roles learnt from, settings, and every tree with its
texts. A run need not be finished: the page shows what is there, and names what is not. Every run
ends by writing it. The same run gives the same bytes again.

Does not: sample, grade or evaluate anything.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from malt_fast.config.help import examples
from malt_fast.results.report import NAME, write_report
from malt_fast.utils.errors import printable
from malt_fast.utils.program import Arguments, exit_status


def report(args: argparse.Namespace) -> None:
    print(printable(f"wrote {write_report(args.run, args.out)}"), flush=True)


def parser() -> Arguments:
    about, _, parts = (__doc__ or "").partition("\n\n")
    shown = "\n".join(examples("malt_fast.report"))
    parser = Arguments(
        "python -m malt_fast.report",
        description=f"{about}\n\n{shown}",
        epilog=parts,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--run", type=Path, required=True, metavar="DIR", help="what malt_fast.train made"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"default: DIR/{NAME}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    return exit_status(lambda: report(parser().parse_args(words)))


if __name__ == "__main__":
    sys.exit(main())
