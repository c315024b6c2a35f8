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

from malt_fast.errors import MaltError, first_line, printable
from malt_fast.export import Arguments
from malt_fast.files import replacing
from malt_fast.help import examples
from malt_fast.quiet import quiet
from malt_fast.run import Run, exit_status, is_held, owner_of
from malt_fast.run_parts import Trees, open_trees

NAME = "report.html"


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the page of a run; where it lies. Raises MaltError for what is no run, and OSError."""
    from malt_fast.viewer.page import page
    from malt_fast.viewer.quality import quality
    from malt_fast.viewer.read import read_run
    from malt_fast.viewer.trees import tree_section

    if not (run / "config.yaml").is_file():
        raise MaltError(f"{run} holds no run: give a directory that malt_fast.train made")
    found, path, opened = read_run(run), out or run / NAME, list[Trees]()
    owner = "" if is_held(run) else owner_of(run)
    if owner:
        found.lacking.insert(0, f"what is still to come: the run is in use by {owner}, or was")
    with quiet():
        if found.config and found.task:
            opened = open_trees(run, found.config, found.task, found.lacking)
        shown = tree_section(run, opened, found.task, found.lacking) if found.task else None
        qualities = [quality(one) for one in opened]
        with replacing(path) as beside, beside.open("w", encoding="utf-8") as file:
            for part in page(found, qualities, shown):
                file.write(part)
    return path


def finish(run: Run) -> None:
    """Write the page at the end of a run, which it must not cost."""
    if not run.leads:
        return
    try:
        run.say(f"report: {write_report(run.folder)}")
    except (MaltError, OSError) as error:
        run.warn(f"there is no report of this run ({first_line(error)})")
    except Exception as error:  # what a damaged file made of it
        run.warn(f"there is no report of this run ({type(error).__name__}: {first_line(error)})")


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
