"""Rows of files: JSON Lines, JSON, CSV and TSV, Parquet; told by the suffix, else JSON Lines.

Rows come as a stream, each with its place. The first thing that cannot be read raises a MaltError
with the place, the reason and what to do.
"""

import csv
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from malt_fast.utils.errors import MaltError, first_line, not_there

SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet")
SEPARATORS = ",;\t|"  # of CSV, by preference
PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "ZIP, as spreadsheets are",
    b"\x28\xb5\x2f\xfd": "zstd",
}
UTF16 = (b"\xff\xfe", b"\xfe\xff")  # as PowerShell and spreadsheets write it
READ = 1024  # rows of a Parquet file at once

Row = dict[str, Any]


def file_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """(where, row) of every row of a file."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except FileNotFoundError:
        raise MaltError(f"{not_there(path)}: check the path") from None
    except OSError as error:
        raise MaltError(f"{path} cannot be read ({error.strerror}): give a file of rows") from None
    for start, kind in PACKED.items():
        if head.startswith(start):
            raise MaltError(f"{path} is compressed ({kind}): unpack it, or save it as CSV")
    if head == b"PAR1" or path.suffix == ".parquet":
        return _parquet_rows(path)
    if path.suffix in (".csv", ".tsv"):
        return _csv_rows(path, "utf-16" if head.startswith(UTF16) else "utf-8-sig")
    return _json_rows(path) if path.suffix == ".json" else _jsonl_rows(path)


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file in UTF-8, or in UTF-16 with its mark, without a byte order mark."""
    try:
        with path.open("rb") as file:
            if file.peek(2).startswith(UTF16):
                with path.open(encoding="utf-16", newline="") as text:
                    yield from (line.encode() for line in text)
                return
            for number, line in enumerate(file):
                yield line if number else line.removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise MaltError(f"{path} cannot be read ({error.strerror}): give a JSONL file") from None
    except UnicodeError:
        raise MaltError(f"{path} is not UTF-16, as its first bytes say: save it as UTF-8") from None


# ---- JSON ----


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """(file:line, row) of every line that is not blank."""
    number = 0
    for lines in read_lines(path):
        for line in lines.splitlines():  # at a lone \r, too
            number += 1
            if line.strip():
                yield json_row(line, path, number)


def _json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """(file[i], row) of an array, alone or as `data` of an object; else of JSON Lines."""
    text = b"".join(read_lines(path))
    begin = text.lstrip()
    try:
        rows = _parsed(text, path, 1)
    except MaltError:
        if begin.startswith(b"{") and b"}" in begin.partition(b"\n")[0]:  # a row in a line
            yield from _jsonl_rows(path)
            return
        raise
    if isinstance(rows, dict):
        rows = rows["data"] if isinstance(rows.get("data"), list) else [rows]
    if not isinstance(rows, list):
        raise MaltError(
            f"{path} is neither a JSON array nor an object with `data`: write [{{...}}]"
        )
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise MaltError(f"{path}[{i}] is not a JSON object: write {{...}} for every row")
        yield f"{path}[{i}]", row


def json_row(text: bytes, path: Path, number: int = 1) -> tuple[str, Row]:
    """(file:line, row) of a JSON object that begins at line `number`."""
    row = _parsed(text, path, number)
    if not isinstance(row, dict):
        raise MaltError(f"{path}:{number} is not a JSON object: write one {{...}} per line")
    return f"{path}:{number}", row


def _parsed(text: bytes, path: Path, number: int) -> Any:
    """The value of a JSON text that begins at line `number`.

    Control characters in its texts are allowed, since MATH has some.
    """
    try:
        return json.loads(text.decode("utf-8"), strict=False)
    except (ValueError, RecursionError) as error:
        where = f"{path}:{number + getattr(error, 'lineno', 1) - 1}"
        problem = getattr(error, "msg", None) or type(error).__name__
        if isinstance(error, UnicodeDecodeError):
            problem = "not UTF-8"
        raise MaltError(
            f"{where} is not valid JSON ({problem}): correct or remove that line"
        ) from None


# ---- CSV ----


def _csv_rows(path: Path, encoding: str) -> Iterator[tuple[str, Row]]:
    """(file:line, row) of every row that is not blank; a row may go over several lines."""
    where = f"{path}:1"
    try:
        with path.open(encoding=encoding, newline="") as file:
            separator = "\t" if path.suffix == ".tsv" else _separator(file.readline())
            file.seek(0)
            reader = csv.reader(file, delimiter=separator, strict=True)
            names = [name.strip() for name in next(reader, [])]
            if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
                raise MaltError(f"{where} names the column '{twice}' twice: rename one of them")
            where = f"{path}:{reader.line_num + 1}"
            for cells in reader:
                if any(map(str.strip, cells)):
                    yield where, _csv_row(cells, names, where, separator)
                where = f"{path}:{reader.line_num + 1}"
    except csv.Error as error:
        raise MaltError(
            f"{where} is not valid CSV ({error}): put texts with quotes or separators in quotes, "
            'and write "" for a quote inside'
        ) from None
    except UnicodeError:
        raise MaltError(_wrong_encoding(path, encoding)) from None


def _separator(head: str) -> str:
    """The separator that divides the head of a CSV file into most columns."""

    def columns(separator: str) -> int:
        return len(next(csv.reader([head], delimiter=separator), []))

    return max(SEPARATORS, key=columns)


def _csv_row(cells: list[str], names: list[str], where: str, separator: str) -> Row:
    if len(cells) != len(names):
        raise MaltError(
            f"{where} has {len(cells)} cells, but the first line names {len(names)} columns: put "
            f"texts that hold {separator!r} in quotes"
        )
    if any("\0" in cell for cell in cells):
        raise MaltError(f"{where} holds a NUL: save the file as UTF-8 text")
    return dict(zip(names, cells, strict=True))


def _wrong_encoding(path: Path, encoding: str) -> str:
    if encoding == "utf-16":
        return f"{path} is not UTF-16, as its first bytes say: save it as UTF-8"
    with path.open("rb") as file:
        number = next((i for i, line in enumerate(file, 1) if not _is_utf8(line)), 1)
    old, new = shlex.quote(str(path)), shlex.quote(str(path.with_suffix(f".utf8{path.suffix}")))
    return (
        f"{path}:{number} is not UTF-8: convert the file, from Latin-1 by "
        f"`iconv -f latin1 -t utf-8 {old} > {new}`"
    )


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


# ---- Parquet ----


def _parquet_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """(file[i], row) of every row."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    i = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(READ):
                for row in batch.to_pylist():
                    yield f"{path}[{i}]", row
                    i += 1
    except (pa.ArrowException, OSError, ValueError) as error:
        raise MaltError(
            f"{path}[{i}] cannot be read as Parquet ({first_line(error)}): write the file anew"
        ) from None
