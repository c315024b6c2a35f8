"""report.html of a run is written."""

from pathlib import Path

from malt_fast.results.opened_run import Trees, open_trees
from malt_fast.runs.lock import is_held, owner_of
from malt_fast.runs.run import Run
from malt_fast.utils.errors import MaltError, first_line
from malt_fast.utils.files import replacing
from malt_fast.utils.quiet import quiet

NAME = "report.html"


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the page of a run; where it lies. Raises MaltError for what is no run, and OSError."""
    from malt_fast.results.page import page
    from malt_fast.results.quality import quality
    from malt_fast.results.read import read_run
    from malt_fast.results.trees import tree_section

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
