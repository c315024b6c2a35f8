"""manifest.json of a store: its id, its sealed segments, and what was found damaged."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from malt_fast.store.segments import VERSION
from malt_fast.utils.errors import MaltError
from malt_fast.utils.files import checksum, write_text

SEGMENT = re.compile(r"samples-[0-9]+\.arrows")


@dataclass(frozen=True)
class Manifest:
    store: str  # id
    sealed: list[dict[str, Any]]  # name, first row, rows
    quarantined: list[tuple[int, int]]  # (first row, rows) of damaged batches


def segment_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("samples-*") if SEGMENT.fullmatch(path.name))


def new_segment_path(folder: Path, known: Iterable[Path]) -> Path:
    """A name that no segment of the folder has, and none of `known` had."""
    files = [*segment_files(folder), *known]
    last = max((int(file.stem.rpartition("-")[2]) for file in files), default=-1)
    return folder / f"samples-{last + 1:05d}.arrows"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    values: dict[str, Any] = {"version": VERSION, **vars(manifest)}
    values["xxh3"] = checksum(values)
    write_text(folder / "manifest.json", json.dumps(values, indent=1) + "\n")


def read_manifest(folder: Path) -> Manifest | None:
    """None if it is missing, damaged, or names files that are no segments of this folder.

    All but the damage can be found again from the segments. Raises MaltError for another version.
    """
    try:
        values: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        written = values.pop("xxh3")
        own = all(SEGMENT.fullmatch(segment["name"]) for segment in values["sealed"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if written != checksum(values) or not own:
        return None
    if values["version"] != VERSION:
        raise MaltError(
            f"{folder} has format {values['version']}, this version reads {VERSION}: use the "
            "version that wrote it, or give another --run DIR"
        )
    damaged = [(first, rows) for first, rows in values["quarantined"]]
    return Manifest(values["store"], values["sealed"], damaged)


def id_in_segments(folder: Path) -> str | None:
    """The store's id, from the head of the first segment that can be read."""
    for file in segment_files(folder):
        try:
            with pa.ipc.open_stream(pa.OSFile(str(file))) as reader:
                id: str = (reader.schema.metadata or {})[b"store"].decode()
        except (OSError, ValueError, KeyError, pa.ArrowException):
            continue
        if len(id) == 32:  # else the head would have another length
            return id
    return None
