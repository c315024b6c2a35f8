"""Sealed folders: a note of what they were made from, and a hash of every file."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from malt_fast.utils.errors import MaltError

NOTE = "stage.txt"  # one line on what the folder was made from, then HASH NAME per file


def seal(folder: Path, note: str, names: Iterable[str]) -> None:
    """Write the seal of the files `names`."""
    lines = [note, *(f"{_digest(folder / name)} {name}" for name in sorted(names))]
    (folder / NOTE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def seal_of(folder: Path) -> str | None:
    """The note of a sealed folder whose files are unchanged, else None."""
    try:
        text = (folder / NOTE).read_text(encoding="utf-8")
        note, *lines = text.removesuffix("\n").split("\n")
        whole = all(_digest(folder / name) == digest for digest, _, name in map(_parted, lines))
    except (OSError, ValueError):
        return None
    return note if whole and lines else None


def is_damaged(folder: Path) -> bool:
    """Whether a folder is sealed and its files have changed."""
    return (folder / NOTE).is_file() and seal_of(folder) is None


def check_seal(folder: Path, mend: str, what: str = "adapter") -> None:
    """Raises MaltError for a folder whose files have changed, or that has no seal.

    mend: what to do then, for the message.
    """
    if seal_of(folder) is None:
        how = "is damaged" if (folder / NOTE).is_file() else f"lacks its seal, {NOTE}"
        raise MaltError(f"the {what} '{folder}' {how}: {mend}")


def _parted(line: str) -> tuple[str, str, str]:
    return line.partition(" ")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
