"""Writes report.html, the page of a run, and the page that compares several."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from malt_fast.results.opened_run import RoleForest, check_is_run, open_forests
from malt_fast.runs.lock import is_held, owner_of
from malt_fast.runs.run import Run
from malt_fast.utils.errors import MaltError, Problems, first_line
from malt_fast.utils.files import replacing
from malt_fast.utils.quiet import quiet

NAME, COMPARISON = "report.html", "comparison.html"


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the page of a run to `out`, DIR/report.html by default; returns its path.

    Raises MaltError where `run` is no run directory, and OSError.
    """
    from malt_fast.results.page import Parts, page
    from malt_fast.results.quality import measure_quality
    from malt_fast.results.run_contents import read_run
    from malt_fast.results.transcripts import read_answers, transcript_data
    from malt_fast.results.trees import tree_data

    check_is_run(run)
    contents, problems = read_run(run)
    owner = "" if is_held(run) else owner_of(run)
    if owner:
        problems.insert(0, f"what is still to come: the run is in use by {owner}, or was")
    forests, missing = list[RoleForest](), Problems()
    with quiet():
        if contents.config and contents.task:
            forests, missing = open_forests(run, contents.config, contents.task)
        trees, hidden = tree_data(forests)
        outputs, unread = read_answers(run, contents.evaluation)
        prompts = forests[0].prompts if forests else None
        transcripts, untold = transcript_data(run, contents, outputs, prompts)
        problems += [*missing, *hidden, *unread, *untold]
        qualities = [measure_quality(one) for one in forests]
        return _write(
            out or run / NAME,
            page(contents, Parts(problems, qualities, outputs, transcripts, trees)),
        )


def write_comparison(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page that compares runs to `out`, comparison.html by default; returns its path.

    Raises MaltError where one is no run directory, and OSError.
    """
    from malt_fast.results.compare import comparison

    for run in runs:
        check_is_run(run)
    return _write(out or Path(COMPARISON), comparison(runs))


def _write(path: Path, parts: Iterator[str]) -> Path:
    with replacing(path) as beside, beside.open("w", encoding="utf-8") as file:
        for part in parts:
            file.write(part)
    return path


def write_final_report(run: Run) -> None:
    """Write the page at the end of a run; a failure to do so only warns."""
    if not run.leads:
        return
    try:
        run.say(f"report: {write_report(run.folder)}")
    except (MaltError, OSError) as error:
        run.warn(f"the report could not be written ({first_line(error)})")
    except Exception as error:  # a damaged file may raise anything
        kind = type(error).__name__
        run.warn(f"the report could not be written ({kind}: {first_line(error)})")
