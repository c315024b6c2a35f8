"""Rows of data sets on the Hugging Face hub."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from malt_fast.utils.errors import MaltError, first_line

WHOLE = ("default", "main", "all")  # names of configurations that hold all rows of a data set


def is_hub_id(path: str) -> bool:
    """Whether a path is a hub id, `owner/name`: one slash, no file suffix, and no local file."""
    here = Path(path).exists() or path.endswith((".jsonl", ".json"))
    return not here and path.count("/") == 1


def hub_rows(name: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of a split: of the configuration that holds all rows, else of each in turn.

    Raises MaltError for a data set that cannot be loaded or has no such split.
    """
    from datasets import get_dataset_config_names, load_dataset

    try:
        names = get_dataset_config_names(name)
        parts = [only for only in WHOLE if only in names][:1] or names
        loaded = {part: load_dataset(name, part) for part in parts}
    except Exception as error:  # the hub's clients raise many kinds
        raise MaltError(
            f"'{name}' is neither a file here nor a data set that can be loaded "
            f"({first_line(error)}): check --task.path"
        ) from None
    for part, splits in loaded.items():
        if split not in splits:
            raise MaltError(
                f"'{name}' has no {split} split (it has {', '.join(splits)}): name a data set that "
                "has one by --task.path, or a held-out one by --task.test_path"
            )
        for i, row in enumerate(splits[split]):
            yield f"{name}:{part}/{split}[{i}]", dict(row)
