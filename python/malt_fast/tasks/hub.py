"""Data sets of the Hugging Face hub, by the names that `datasets.load_dataset` takes."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from malt_fast.tasks.files import SUFFIXES
from malt_fast.utils.errors import MaltError, first_line
from malt_fast.utils.hub_access import NO_HUB, offline

WHOLE = ("default", "main", "all")  # names of configurations that hold all rows of a data set
ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def is_hub_id(path: str) -> bool:
    """Whether a path is a hub id, `owner/name`: one slash, no suffix of a file, no local file."""
    return bool(ID.fullmatch(path)) and not path.endswith(SUFFIXES) and not os.path.exists(path)


@dataclass(frozen=True)
class HubData:
    name: str
    parts: Mapping[str, Mapping[str, Iterable[Mapping[str, Any]]]]
    """Rows by configuration and split."""

    def first_of(self, names: Sequence[str]) -> str | None:
        """The first of these splits that all configurations have."""
        return next((n for n in names if all(n in part for part in self.parts.values())), None)

    def rows(self, split: str, option: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(where, row) of a split. Raises MaltError if there is none; option: that names it."""
        for part, splits in self.parts.items():
            if split not in splits:
                raise MaltError(
                    f"'{self.name}' has no {split} split (it has {', '.join(splits)}): name one "
                    f"that it has by --task.{option}, or another data set by "
                    f"--task.{option.replace('split', 'path')}"
                )
            for i, row in enumerate(splits[split]):
                yield f"{self.name}:{part}/{split}[{i}]", dict(row)


def load_hub(name: str, subset: str | None) -> HubData:
    """A data set: the configuration `subset`, else the one that holds all rows, else each of them.

    Raises MaltError for one that cannot be loaded.
    """
    alone = offline()  # first: what is imported below reads it
    from datasets import get_dataset_config_names, load_dataset

    try:
        names = [subset] if subset else get_dataset_config_names(name)
        parts = [only for only in WHOLE if only in names][:1] or names
        return HubData(name, {part: load_dataset(name, part) for part in parts})
    except Exception as error:  # the hub's clients raise many kinds
        reason = f"it is not in the cache, and {NO_HUB}" if alone else first_line(error)
        options = "--task.path and --task.subset" if subset else "--task.path"
        raise MaltError(
            f"'{name}' is neither a file here nor a data set that can be loaded ({reason}): check "
            f"{options}"
        ) from None
