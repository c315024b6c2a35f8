"""Training data as text, in the columns of TRL's datasets, for other trainers.

Pages have checksums and the folder has a seal (seals.py), so that damage is noticed: by training,
which writes the files again, and by whoever reads them.
"""

from pathlib import Path
from typing import Any

from malt_fast.forest.role_data import RoleData, Stage
from malt_fast.models.plain_text import Tokens
from malt_fast.tasks.prompts import Prompts
from malt_fast.utils.files import replacing
from malt_fast.utils.seals import seal, seal_of


def write_datasets(data: RoleData, prompts: Prompts, folder: Path, stage: Stage) -> Path:
    """Write the rows of `as_dataset` to folder/{sft,dpo}.parquet, and return that path."""
    from datasets.utils.logging import (
        disable_progress_bar,
        enable_progress_bar,
        is_progress_bar_enabled,
    )

    rows = as_dataset(data, prompts, stage)
    folder.mkdir(parents=True, exist_ok=True)
    if seal_of(folder) is None:  # the other stage writes its file again
        for file in folder.glob("*.parquet"):
            file.unlink()
    path, shown = folder / f"{stage}.parquet", is_progress_bar_enabled()
    disable_progress_bar()
    try:
        with replacing(path) as beside:
            rows.to_parquet(beside, write_page_checksum=True)
    finally:
        if shown:
            enable_progress_bar()
    seal(folder, "", [file.name for file in folder.glob("*.parquet")])
    return path


def has_dataset(folder: Path, stage: Stage) -> bool:
    """Whether the rows of a stage are there, unchanged."""
    return (folder / f"{stage}.parquet").is_file() and seal_of(folder) is not None


def as_dataset(data: RoleData, prompts: Prompts, stage: Stage) -> Any:
    """A `datasets.Dataset` with TRL's columns as text.

    SFT: prompt, completion. DPO: prompt, chosen, rejected. Prompts keep their control tokens,
    except a begin token that the tokenizer adds itself; outputs lose the end token, which TRL adds.
    """
    from datasets import Dataset, Features, Value

    wording = {id(prompt): prompt for prompt in data.prompts}
    worded = {key: prompt_text(prompts.tokenizer, prompt) for key, prompt in wording.items()}
    texts = [prompts.decode(completion) for completion in data.completions]
    asked = [worded[id(prompt)] for prompt in data.prompts]
    if stage == "sft":
        columns = {"prompt": asked, "completion": texts}
    else:
        chosen, rejected = data.pairs.T.tolist()
        columns = {
            "prompt": [asked[i] for i in chosen],
            "chosen": [texts[i] for i in chosen],
            "rejected": [texts[i] for i in rejected],
        }
    texts_only = Features({name: Value("string") for name in columns})
    return Dataset.from_dict(columns, features=texts_only)


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
