"""HTML from untrusted text: everything is escaped here, and nowhere else."""

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from malt_fast.evaluation.tables import Table, shown
from malt_fast.utils.errors import printable


def text(value: object) -> str:
    """Text for an element or a quoted attribute, with control characters made visible."""
    return escape(printable(str(value)))


def element(name: str, inside: str = "", **attributes: str) -> str:
    """`inside` is HTML. Of an attribute's underscores a last one is dropped, others are dashes."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"' for key, value in attributes.items()
    )
    return f"<{name}{told}>{inside}</{name}>"


def as_json(value: Any) -> str:
    """JSON that may stand inside a <script>: nothing in it ends or begins an element."""
    raw = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return raw.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def paragraph(words: str, **attributes: str) -> str:
    return element("p", text(words), **attributes)


def items(lines: Iterable[str], **attributes: str) -> str:
    return element("ul", "".join(element("li", text(line)) for line in lines), **attributes)


def grid(names: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """A table of texts; all columns but the first `words` are aligned as numbers."""

    def line(cell: str, values: Sequence[str]) -> str:
        kinds = [{} if i < words else {"class_": "number"} for i in range(len(values))]
        return element(
            "tr",
            "".join(element(cell, text(v), **kind) for v, kind in zip(values, kinds, strict=True)),
        )

    head = element("thead", line("th", names))
    body = element("tbody", "".join(line("td", row) for row in rows))
    return element("div", element("table", head + body), class_="wide")


def table(made: Table) -> str:
    """One of tables.py's."""
    names = [column.name for column in made.columns]
    note = paragraph(made.note, class_="note") if made.note else ""
    return grid(names, shown(made)) + note


def section(name: str, title: str, *parts: str) -> str:
    """Nothing without parts."""
    inside = "".join(parts)
    return element("section", element("h2", text(title)) + inside, id=name) if inside else ""


def folded(title: str, inside: str) -> str:
    return element("details", element("summary", text(title)) + inside)
