"""Exports a run: adapters, checkpoints, data, logs; whatever cannot be exported is named."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from malt_fast.results.cards import Facts, read_results
from malt_fast.results.export_folders import (
    INSPECT,
    begin_export,
    check_out,
    export_adapters,
    export_data,
    export_inspect,
    export_merged,
    write_summary,
)
from malt_fast.results.hub import open_hub
from malt_fast.results.inspect_logs import check_inspect
from malt_fast.results.opened_run import (
    RoleForest,
    check_is_run,
    find_adapters,
    open_forests,
    read_config,
)
from malt_fast.runs.directory import resume_command
from malt_fast.runs.lock import locked
from malt_fast.utils import interrupt
from malt_fast.utils.errors import MaltError, Problems, printable
from malt_fast.utils.exit_status import show
from malt_fast.utils.files import remove_leftovers


def export_run(run: Path, out: Path, *, merged: bool, inspect: bool, hub_name: str | None) -> None:
    """Export what a run has to `out`. hub_name: NAME of the repositories NAME-ROLE to upload to.

    Raises MaltError if there is nothing, or no hub.
    """
    check_is_run(run)
    check_out(out)
    if inspect:
        check_inspect()
    hub = None if hub_name is None else open_hub(hub_name)  # before any work

    config, task, problems = read_config(run)
    adapters, missing = find_adapters(run, config)
    forests, damaged = open_forests(run, config, task) if config and task else ([], [])
    if not adapters and not forests:
        raise MaltError(
            f"{run} holds nothing to export yet: give it time, or finish it by "
            f"`{resume_command(run)}`"
        )
    results, unknown = read_results(run)
    begin_export(out)
    facts = Facts(run.resolve().name, config, task, results, adapters)
    with locked(out, say, "--out"):
        remove_leftovers(out, besides=())
        unread = [*problems, *missing, *damaged, *unknown]
        folders = write_export(run, out, facts, forests, unread, merged=merged, inspect=inspect)
    if hub:
        for folder in (one for one in folders if one != INSPECT):
            interrupt.check()
            say(f"pushed {hub.push(out / folder, folder)}")


def write_export(
    run: Path,
    out: Path,
    facts: Facts,
    forests: Sequence[RoleForest],
    problems: Problems,
    *,
    merged: bool,
    inspect: bool,
) -> list[str]:
    """Write every folder of the export and its summary; the folders."""
    sizes, left_out = export_data(run, out, facts, forests)
    facts = replace(facts, sizes=sizes)
    folders = [*(f"data/{role}" for role in sizes), *export_adapters(out, facts)]
    whole, failed = export_merged(out, facts) if merged else ([], [])
    folders += whole
    logs, unread = export_inspect(run, out) if inspect else ([], [])
    folders += logs
    problems = [*problems, *left_out, *failed, *unread]
    rows = {
        role: {kind: size.rows for kind, size in files.items()} for role, files in sizes.items()
    }
    summary = {"run": facts.name, "folders": folders, "rows": rows, "not_exported": problems}
    write_summary(out, summary)
    for folder in folders:
        say(f"wrote {out / folder}")
    for problem in problems:
        say(f"not exported: {problem}")
    return folders


def say(text: str) -> None:
    show(printable(text))
