"""Take a run elsewhere: `python -m malt_fast.export --run DIR`.

    OUT/adapters/ROLE/  the adapter as PEFT and `vllm serve --enable-lora` read it, and a model card
    OUT/merged/ROLE/    with --merged: base and adapter as one checkpoint, tokenizer, card
    OUT/data/ROLE/      what the role learned from, for TRL's trainers (export_rows.py), and a card
    OUT/export.json     what is there, and a line on each part that is not

OUT is DIR/export unless given by --out. A run need not be finished: what is there is exported, and
what is not is named. Each folder appears whole, or stays as it was; the same run gives the same
bytes again.

Does not: sample, train or evaluate anything; choose a licence.
"""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from malt_fast.config.arguments import Program
from malt_fast.config.command import run_command
from malt_fast.config.schema import ModelConfig
from malt_fast.config.sections import Section, setting
from malt_fast.models.adapter_files import no_adapter
from malt_fast.models.loading import load_causal
from malt_fast.models.tokenizer import load_tokenizer
from malt_fast.results.cards import (
    KINDS,
    Facts,
    data_card,
    model_card,
    read_results,
)
from malt_fast.results.export_rows import Size, write_rows
from malt_fast.results.opened_run import (
    Trees,
    find_adapters,
    open_trees,
    read_config,
    reference_logps,
    roles_there,
)
from malt_fast.runs.metrics import Lacking
from malt_fast.utils import interrupt
from malt_fast.utils.errors import MaltError, printable
from malt_fast.utils.files import replacing_folder, write_text
from malt_fast.utils.quiet import quiet

MARK = "export.json"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


class Options(Section):
    run: Path = setting(..., "the run directory")
    out: Path | None = setting(None, "folder to write; unset: export in the run")
    merged: bool = setting(False, "write base model and adapter as one checkpoint too")
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
    check_folders(run, out)
    hub = None
    if options.push_to_hub is not None:
        from malt_fast.results.hub import open_hub

        hub = open_hub(options.push_to_hub)  # before any work
    lacking: Lacking = []
    config, task = read_config(run, lacking)
    chain = config.chain if config else roles_there(run)
    adapters = find_adapters(run, chain, lacking)
    trees = open_trees(run, config, task, lacking) if config and task else []
    if not adapters and not trees:
        raise MaltError(
            f"{run} holds nothing to export yet: give it time, or finish it by "
            f"python -m malt_fast.train --run {run}"
        )
    out.mkdir(parents=True, exist_ok=True)
    if not (out / MARK).is_file():
        write_text(out / MARK, "{}\n")
    facts = Facts(run.resolve().name, config, task, read_results(run, lacking), adapters)
    sizes = export_data(run, out, facts, trees, lacking)
    facts = replace(facts, sizes=sizes)
    folders = [f"data/{role}" for role in sizes]
    folders += [export_adapter(out, facts, role) for role in adapters]
    if options.merged:
        folders += export_merged(out, facts, lacking)
    rows = {role: {kind: size.rows for kind, size in one.items()} for role, one in sizes.items()}
    told = {"run": facts.name, "folders": folders, "rows": rows, "not_exported": lacking}
    write_text(out / MARK, json.dumps(told, indent=2) + "\n")
    for folder in folders:
        say(f"wrote {out / folder}")
    for line in lacking:
        say(f"not exported: {line}")
    if hub is not None:
        for folder in folders:
            interrupt.check()
            say(f"pushed {hub.push(out / folder, folder)}")


def say(text: str) -> None:
    print(printable(text), flush=True)


def check_folders(run: Path, out: Path) -> None:
    """Raises MaltError unless `run` is a run and `out` free, or an export of before."""
    if not (run / "config.yaml").is_file():
        raise MaltError(f"{run} holds no run: give a directory that malt_fast.train made")
    free = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    if not free and not (out / MARK).is_file():
        raise MaltError(f"{out} exists and is no export: give another --out DIR")


def export_data(
    run: Path, out: Path, facts: Facts, trees: Sequence[Trees], lacking: Lacking
) -> dict[str, dict[str, Size]]:
    """Write the rows of every role that has any; sizes of its files."""
    sizes = {}
    for role in dict.fromkeys(one.role for one in trees):
        mine = [one for one in trees if one.role == role]
        references = [reference_logps(run, one, lacking) for one in mine]
        with new_folder(out / "data" / role) as folder:
            found = write_rows(folder, mine, references)
            write_text(folder / "README.md", data_card(facts, role, found))
        lacking += [
            f"data/{role}/{kind}: the trees hold none" for kind in KINDS if kind not in found
        ]
        sizes[role] = found
    return sizes


def export_adapter(out: Path, facts: Facts, role: str) -> str:
    """Copy a role's adapter and write its card; the folder below `out`."""
    name = f"adapters/{role}"
    with new_folder(out / name) as folder:
        for file in ADAPTER:
            shutil.copyfile(facts.adapters[role].folder / file, folder / file)
        write_text(folder / "README.md", model_card(facts, role))
    return name


def export_merged(out: Path, facts: Facts, lacking: Lacking) -> list[str]:
    """Write base and adapter of every role as one checkpoint; the folders below `out`."""
    names = []
    for role in facts.adapters:
        name = f"merged/{role}"
        try:
            with quiet():
                parts = merge(facts, role)
                with new_folder(out / name) as folder:
                    for part in parts:
                        part.save_pretrained(folder)
                    write_text(folder / "README.md", model_card(facts, role, merged=True))
        except MaltError as error:
            lacking.append(f"{name}: {error}")
            continue
        names.append(name)
    return names


def merge(facts: Facts, role: str) -> tuple[Any, Any]:
    """Model and tokenizer, in the precision that the role was trained in. Raises MaltError."""
    import peft
    import torch

    model = facts.config.model if facts.config else ModelConfig()
    base, adapter = facts.base(role), str(facts.adapters[role].folder)
    tokenizer = load_tokenizer(base, model.chat_template, model.trust_remote_code)
    causal = load_causal(base, model.trust_remote_code, dtype=getattr(torch, model.dtype))
    try:
        return peft.PeftModel.from_pretrained(causal, adapter).merge_and_unload(), tokenizer
    except Exception as error:  # PEFT, safetensors and torch raise many kinds
        raise no_adapter(adapter, error) from None


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """To fill; then it takes the place of `path`. Raises KeyboardInterrupt if a stop was asked."""
    interrupt.check()
    path.parent.mkdir(exist_ok=True)
    with replacing_folder(path) as folder:
        yield folder


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(PROGRAM, export, argv)


if __name__ == "__main__":
    sys.exit(main())
