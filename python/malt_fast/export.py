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
from pathlib import Path

from malt_fast.config.arguments import Program
from malt_fast.config.command import run_command
from malt_fast.config.sections import Section, setting


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
    # Imported here, after the first words: this takes longer than reading the command.
    from malt_fast.results.export_run import export_run

    export_run(
        options.run,
        options.out or options.run / "export",
        merged=options.merged,
        inspect=options.inspect,
        hub_name=options.push_to_hub,
    )


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(PROGRAM, export, argv)


if __name__ == "__main__":
    sys.exit(main())
