"""Folders that tell what they were made from, and whether they still hold what was written."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from malt_fast.utils.errors import MaltError

NOTE = "stage.txt"  # a line that says what the folder was made from, then a hash and a name a file


def seal(folder: Path, note: str, names: Iterable[str]) -> None:
    """Leave NOTE beside the files `names`."""
    lines = [note, *(f"{_digest(folder / name)} {name}" for name in sorted(names))]
    (folder / NOTE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def seal_of(folder: Path) -> str | None:
    """What a folder was made from, if it is sealed, and its files are what they were."""
    try:
        text = (folder / NOTE).read_text(encoding="utf-8")
        told, *lines = text.removesuffix("\n").split("\n")
        whole = all(_digest(folder / name) == digest for digest, _, name in map(_parted, lines))
    except (OSError, ValueError):
        return None
    return told if whole and lines else None


def is_damaged(folder: Path) -> bool:
    """Whether it is sealed, and its files are not what they were."""
    return (folder / NOTE).is_file() and seal_of(folder) is None


def check_seal(adapter: Path) -> None:
    """Raises MaltError for an adapter that is not what was written."""
    if is_damaged(adapter):
        raise MaltError(
            f"the adapter '{adapter}' is damaged: give the training command again, which mends it"
        )


def _parted(line: str) -> tuple[str, str, str]:
    return line.partition(" ")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
