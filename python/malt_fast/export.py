"""Exports a run for other tools: `python -m malt_fast.export --run DIR`.

    OUT/adapters/ROLE/  the adapter for PEFT and `vllm serve --enable-lora`, and a model card
    OUT/merged/ROLE/    with --merged: base and adapter as one checkpoint, tokenizer, card
    OUT/data/ROLE/      what the role learned from, for TRL's trainers (export_rows.py), and a card
    OUT/inspect/        with --inspect: the evaluation as logs of Inspect (inspect_logs.py)
    OUT/export.json     what was exported, and one line on each part that was not

OUT is DIR/export unless --out names another folder. A run need not be finished: what it has is
exported, what it lacks is named. Each folder appears whole or stays as it was; exporting the same
run twice gives the same bytes, but for logs of Inspect.

Does not: sample, train or evaluate anything; choose a licence.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from malt_fast.config.arguments import Program
from malt_fast.config.command import run_command
from malt_fast.config.sections import Section, setting
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
    roles_with_adapters,
)
from malt_fast.runs.directory import resume_command
from malt_fast.runs.lock import locked
from malt_fast.utils import interrupt
from malt_fast.utils.errors import MaltError, Problems, printable
from malt_fast.utils.files import remove_leftovers


class Options(Section):
    run: Path = setting(..., "the run directory")
    out: Path | None = setting(None, "folder to write; unset: export in the run")
    merged: bool = setting(False, "write base model and adapter as one checkpoint too")
    inspect: bool = setting(False, "write the evaluation as logs that Inspect's viewer opens")
    push_to_hub: str | None = setting(
        None, "upload each folder to a private repository NAME-ROLE of the Hugging Face hub"
    )


PROGRAM = Program(
    "malt_fast.export",
    Options,
    "Copies a run's adapters and training data to a folder, with cards, for vLLM, PEFT, TRL and "
    "the Hugging Face hub. The run need not be finished: what is missing is named.",
    (
        "--run runs/gsm8k",
        "--run runs/gsm8k --out exported --merged",
        "--run runs/gsm8k --push_to_hub me/malt",
    ),
)


def export(options: Options) -> None:
    run, out = options.run, options.out or options.run / "export"
    check_is_run(run)
    check_out(out)
    if options.inspect:
        check_inspect()
    hub = (
        open_hub(options.push_to_hub) if options.push_to_hub is not None else None
    )  # before any work

    config, task, problems = read_config(run)
    adapters, missing = find_adapters(run, config.chain if config else roles_with_adapters(run))
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
        folders = write_export(
            options, out, facts, forests, [*problems, *missing, *damaged, *unknown]
        )
    if hub:
        for folder in (one for one in folders if one != INSPECT):
            interrupt.check()
            say(f"pushed {hub.push(out / folder, folder)}")


def write_export(
    options: Options,
    out: Path,
    facts: Facts,
    forests: Sequence[RoleForest],
    problems: Problems,
) -> list[str]:
    """Write every folder of the export and its summary; the folders."""
    sizes, left_out = export_data(options.run, out, facts, forests)
    facts = replace(facts, sizes=sizes)
    folders = [*(f"data/{role}" for role in sizes), *export_adapters(out, facts)]
    merged, failed = export_merged(out, facts) if options.merged else ([], [])
    folders += merged
    logs, unread = export_inspect(options.run, out) if options.inspect else ([], [])
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
    print(printable(text), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(PROGRAM, export, argv)


if __name__ == "__main__":
    sys.exit(main())
