"""The run directory: what lies in it, how it is named and checked.

    config.yaml            the resolved config
    questions.jsonl        training questions, in the order of the forest's trees
    prompts.json           the tokens that prompts are made of
    prompts.txt            the prompt of every role for the first question, as text
    samples/               every output ever sampled here, by key (store/)
    scores.txt             scores of a custom grader (grading/kept_scores.py)
    round-0/forest.arrows  the trees (one file per role under `regenerate: sequential`)
    round-0/data/ROLE/     {sft,dpo,kto}.parquet, as TRL reads them, and their seal
    round-0/ROLE/          sft, dpo: adapters; sft.data.txt: what the rows were made from
    adapters/ROLE/         sft, final: the adapters of the last round, ready to serve
    evaluation.arrows      the trees of the evaluation
    evaluation.json        its result
    evaluation.jsonl       what every output of it answered
    tables/, curves.svg    the same as files, under `evaluate.suite: paper`
    sweeps/KEY=VALUE/      runs that differ in one setting
    export/                what export.py made
    metrics.jsonl          one line per stage and log step
    tensorboard/
    loggers.json           ids of the run in the loggers of `report_to`
    lock                   the process that writes here

Every result is written beside its place and renamed, with a fingerprint of what it was made from. A
program that is given the directory again goes on where the last one stopped, and redoes only what
a change of settings or data affects; no output is sampled twice.
"""

import select
import shlex
import sys
import time
from pathlib import Path

from malt_fast.config.changeable import AFTER_WARM_START, HARMLESS, HARMLESS_ENDS, QUESTIONS
from malt_fast.config.load import differences, flat, load_config_file
from malt_fast.config.schema import Config
from malt_fast.utils import distributed, interrupt
from malt_fast.utils.errors import MaltError
from malt_fast.utils.files import check_files

WITH_OWN_WRITERS = ("sweeps", "export")  # folders that other programs may be writing to


def new_folder(task: str) -> Path:
    """runs/TASK-DATE-TIME, with a number behind it where that exists already."""
    name = time.strftime(f"{task}-%Y%m%d-%H%M%S")
    folders = (Path("runs") / f"{name}{more}" for more in ("", *(f"-{i}" for i in range(2, 10**6))))
    return next(folder for folder in folders if not folder.exists())


def resume_command(folder: Path) -> str:
    """The command that goes on with a run."""
    return shlex.join(["python", "-m", "malt_fast.train", "--run", str(folder)])


def mend(folder: Path) -> str:
    """What to do about a damaged result, or one that is missing, for a message."""
    return f"make it again by `{resume_command(folder)}`"


def check_folder(folder: Path) -> None:
    """Raises MaltError for a folder that holds anything but a run, or pipes and devices in it."""
    if not (folder / "config.yaml").is_file() and folder.exists() and not _is_empty(folder):
        raise MaltError(f"{folder} exists and is no run directory: give another --run DIR")
    check_files(folder)


def _is_empty(folder: Path) -> bool:
    """Whether a folder holds only leftovers of a program that was killed at its start."""
    leftovers = (".config.yaml.", "lock")
    return folder.is_dir() and all(path.name.startswith(leftovers) for path in folder.iterdir())


def _shown(value: object) -> str:
    return "unset" if value is None else str(value)


def changes(saved: Path, config: Config) -> list[str]:
    """`KEY OLD -> NEW` for every setting that differs from the saved config."""
    if not saved.is_file():
        return []
    before = load_config_file(saved)
    old, new = flat(before), flat(config)
    return [
        f"{key} {_shown(old.get(key))} -> {_shown(new.get(key))}"
        for key in differences(before, config)
    ]


def check_changes(config: Config, overwrite: bool) -> None:
    """Asks on a terminal before changed settings replace finished work in the run directory.

    Raises MaltError where nobody can be asked, or the answer is no.
    """
    folder = config.run
    if overwrite or folder is None or not (changed := changes(folder / "config.yaml", config)):
        return
    harmful = [
        change
        for change in changed
        if not change.startswith(HARMLESS) and not change.split()[0].endswith(HARMLESS_ENDS)
    ]
    if not harmful or not (lost := finished_work(folder, harmful)):
        return
    what = f"{', '.join(harmful)} would replace {lost} in {folder}"
    if sys.stdin.isatty() and sys.stderr.isatty() and distributed.process_count() == 1:
        print(f"{what}: go on? [y/N] ", end="", file=sys.stderr, flush=True)
        while not select.select([sys.stdin], [], [], 0.2)[0]:
            interrupt.check()
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return
    raise MaltError(f"{what}: add --overwrite, or give another --run DIR")


def finished_work(folder: Path, changed: list[str]) -> str:
    """What a run has that changed settings, as by `changes`, make worthless; "" if nothing."""
    only_dpo = all(change.startswith(("train.dpo.", "train.reference")) for change in changed)
    stages = ("dpo",) if only_dpo else ("sft", "dpo")
    found = [path.parts[-3] for stage in stages for path in folder.glob(f"*/*/{stage}")]
    kept = {"adapters"}  # which are copies
    if all(change.startswith(AFTER_WARM_START) for change in changed):
        kept.add("warm")
    if adapters := sum(part not in kept for part in found):
        return f"{adapters} trained adapter{'s' if adapters > 1 else ''}"
    other = any(change.startswith(QUESTIONS) for change in changed)
    return "the samples" if other and any(folder.glob("samples/*")) else ""
