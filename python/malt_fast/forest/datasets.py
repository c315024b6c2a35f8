"""Training data as text, in the columns of TRL's datasets, for other trainers.

Pages have checksums and the folder has a seal (seals.py), so that damage is noticed: by training,
which writes the files again, and by whoever reads them.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from malt_fast.forest.role_data import RoleData, Stage
from malt_fast.models.plain_text import Tokens
from malt_fast.tasks.prompts import Prompts
from malt_fast.utils.files import replacing
from malt_fast.utils.seals import seal, seal_of

Kind = Literal["sft", "dpo", "kto"]  # examples, pairs, labelled outputs
NAMES: dict[Kind, str] = {"sft": "examples", "dpo": "pairs", "kto": "labelled"}  # in figures
KINDS: dict[Stage, tuple[Kind, ...]] = {"sft": ("sft",), "dpo": ("dpo", "kto")}


def counts_of(data: RoleData, stage: Stage) -> dict[Kind, int]:
    """The kinds of rows that a stage learns from, and how many there are."""
    every: dict[Kind, int] = {
        "sft": len(data.completions),
        "dpo": len(data.pairs),
        "kto": len(data.labelled),
    }
    return {kind: every[kind] for kind in KINDS[stage] if every[kind]}


def write_datasets(data: RoleData, prompts: Prompts, folder: Path, stage: Stage) -> list[Path]:
    """Write a stage's rows, by kind, to folder/{sft,dpo,kto}.parquet; return these paths."""
    from datasets.utils.logging import (
        disable_progress_bar,
        enable_progress_bar,
        is_progress_bar_enabled,
    )

    folder.mkdir(parents=True, exist_ok=True)
    whole = seal_of(folder) is not None  # if not, the other stage writes its files again
    for file in folder.glob("*.parquet"):
        if not whole or file.stem in KINDS[stage]:
            file.unlink()
    paths, shown = [], is_progress_bar_enabled()
    disable_progress_bar()
    try:
        for kind in counts_of(data, stage):
            paths.append(folder / f"{kind}.parquet")
            with replacing(paths[-1]) as beside:
                as_dataset(data, prompts, kind).to_parquet(beside, write_page_checksum=True)
    finally:
        if shown:
            enable_progress_bar()
    seal(folder, "", [file.name for file in folder.glob("*.parquet")])
    return paths


def remove_datasets(folder: Path, stage: Stage) -> None:
    """Remove the rows that other settings gave a stage, if there are any."""
    files = [folder / f"{kind}.parquet" for kind in KINDS[stage]]
    if any(file.is_file() for file in files):
        whole = seal_of(folder) is not None
        for file in files:
            file.unlink(missing_ok=True)
        if whole:  # what is damaged is written again
            seal(folder, "", [file.name for file in folder.glob("*.parquet")])


def has_datasets(folder: Path, kinds: Iterable[Kind]) -> bool:
    """Whether the rows of these kinds are there, unchanged."""
    files = all((folder / f"{kind}.parquet").is_file() for kind in kinds)
    return files and seal_of(folder) is not None


def as_dataset(data: RoleData, prompts: Prompts, kind: Kind) -> Any:
    """A `datasets.Dataset` with TRL's columns as text.

    sft: prompt, completion. dpo: prompt, chosen, rejected. kto: prompt, completion, label. Prompts
    keep their control tokens, except a begin token that the tokenizer adds itself; outputs lose the
    end token, which TRL adds.
    """
    from datasets import Dataset, Features, Value

    wording = {id(prompt): prompt for prompt in data.prompts}
    worded = {key: prompt_text(prompts.tokenizer, prompt) for key, prompt in wording.items()}
    texts = [prompts.decode(completion) for completion in data.completions]
    asked = [worded[id(prompt)] for prompt in data.prompts]
    columns: dict[str, list[Any]]
    if kind == "sft":
        columns = {"prompt": asked, "completion": texts}
    elif kind == "kto":
        which, labels = data.labelled.T.tolist()
        columns = {
            "prompt": [asked[i] for i in which],
            "completion": [texts[i] for i in which],
            "label": [label == 1 for label in labels],
        }
    else:
        chosen, rejected = data.pairs.T.tolist()
        columns = {
            "prompt": [asked[i] for i in chosen],
            "chosen": [texts[i] for i in chosen],
            "rejected": [texts[i] for i in rejected],
        }
    types = {name: Value("bool" if name == "label" else "string") for name in columns}
    return Dataset.from_dict(columns, features=Features(types))


def prompt_text(tokenizer: object, prompt: Tokens) -> str:
    """A prompt with its control tokens, except a begin token that the tokenizer adds itself."""
    ids = prompt.tolist()
    own = tokenizer("")["input_ids"]  # type: ignore[operator]
    if own and ids[:1] == own[:1]:
        ids = ids[1:]
    text: str = tokenizer.decode(  # type: ignore[attr-defined]
        ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text
