"""evaluation.json as tables: for the terminal, and as CSV, LaTeX (booktabs) and Markdown files.

A cell is text, a number or an interval, as its column's kind says; shares are shown in percent. An
interval is one column for people, that before it being its own, and two in CSV, low and high.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.markup import escape
from rich.table import Table as TerminalTable

from malt_fast.evaluation.paper import SIZE, SUBSETS
from malt_fast.grading.report import sentence
from malt_fast.utils.files import write_text

Kind = Literal["text", "share", "gain", "number", "percent", "p"]
FLIPS = ("wrong_to_right", "right_to_right", "wrong_to_wrong", "right_to_wrong")
_MARKDOWN = str.maketrans({char: f"\\{char}" for char in "\\`*_[]<>|~#$"})
_LATEX = str.maketrans(
    {char: f"\\{char}" for char in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"$<$", ">": r"$>$", "|": r"$|$"}
)


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    kind: Kind = "share"
    interval: bool = False  # of the column before it


@dataclass(frozen=True, slots=True)
class Table:
    name: str  # of its files
    title: str
    columns: list[Column]
    rows: list[list[Any]] = field(default_factory=list)  # None: nothing to tell
    note: str = ""


INTERVAL = Column("95 %", interval=True)


def write_tables(folder: Path, tables: Sequence[Table]) -> None:
    """NAME.csv, NAME.tex and NAME.md of each table."""
    folder.mkdir(exist_ok=True)
    for table in tables:
        write_text(folder / f"{table.name}.csv", as_csv(table))
        write_text(folder / f"{table.name}.tex", as_latex(table))
        write_text(folder / f"{table.name}.md", as_markdown(table))


# ---- formats ----


def show(cell: Any, kind: Kind) -> str:
    """A cell for people; an interval as `low..high`."""
    if cell is None or isinstance(cell, str):
        return cell or ""
    if isinstance(cell, list | tuple):
        return "..".join(show(end, kind) for end in cell)
    if kind == "p":
        return f"{cell:.1g}" if cell >= 1e-4 else "<1e-4"
    if kind == "number":
        return f"{cell:,.0f}"
    share = cell if kind == "percent" else 100 * cell
    return f"{share:{'+' if kind == 'gain' else ''}.{2 if kind == 'percent' else 1}f}"


def shown(table: Table) -> list[list[str]]:
    """The rows for people."""
    kinds = [column.kind for column in table.columns]
    return [[show(c, kind) for c, kind in zip(row, kinds, strict=True)] for row in table.rows]


def as_csv(table: Table) -> str:
    """Unrounded, shares in percent as in the other formats."""

    def plain(cell: Any, kind: Kind) -> Any:
        scaled = kind in ("share", "gain") and not isinstance(cell, str | None)
        return round(100 * cell, 10) if scaled else cell

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names: list[str] = []
    for before, column in zip([None, *table.columns], table.columns, strict=False):
        own = before.name if before else ""
        names += [f"{own} low", f"{own} high"] if column.interval else [column.name]
    writer.writerow(names)
    for row in table.rows:
        cells: list[Any] = []
        for column, cell in zip(table.columns, row, strict=True):
            parts = (cell or (None, None)) if column.interval else (cell,)
            cells += [plain(part, column.kind) for part in parts]
        writer.writerow(cells)
    return out.getvalue()


def as_markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    lines = [
        f"**{table.title.translate(_MARKDOWN)}**\n",
        line([column.name.translate(_MARKDOWN) for column in table.columns]),
        line(["---" if column.kind == "text" else "---:" for column in table.columns]),
        *(line([cell.translate(_MARKDOWN) for cell in row]) for row in shown(table)),
    ]
    lines += [f"\n{table.note.translate(_MARKDOWN)}"] if table.note else []
    return "\n".join(lines) + "\n"


def as_latex(table: Table) -> str:
    """A tabular for booktabs, to be \\input; its title and note are comments."""

    def tex(cell: Any, column: Column) -> str:
        if column.kind == "text" or cell is None:
            return show(cell, column.kind).translate(_LATEX)
        ends = cell if column.interval else [cell]
        numbers = [show(end, column.kind).replace("<1e-4", "<10^{-4}") for end in ends]
        return "--".join(f"${number.replace(',', '{,}')}$" for number in numbers)

    def line(cells: Sequence[str]) -> str:
        return "  " + " & ".join(cells) + r" \\"

    rows = [[tex(c, k) for c, k in zip(row, table.columns, strict=True)] for row in table.rows]
    align = "".join("l" if column.kind == "text" else "r" for column in table.columns)
    lines = [
        *(f"% {text}" for text in (table.title, table.note) if text),
        rf"\begin{{tabular}}{{{align}}}",
        r"  \toprule",
        line([column.name.translate(_LATEX) for column in table.columns]),
        r"  \midrule",
        *map(line, rows),
        r"  \bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


# ---- the tables of the suite ----


SUITE_TABLES = ("main", "ablations", "turns", "flips", "curves")  # names of their files


def suite_tables(result: dict[str, Any]) -> list[Table]:
    """Every table of a result of the suite `paper`."""
    builders = (paper_table, ablations, turns_table, flips_table, curves_table)
    return [build(result) for build in builders]


def main_table(result: dict[str, Any]) -> Table:
    """The table of any suite, as the terminal shows it."""
    malt, n = result["paired"][0]["a"], result["systems"][0]["n"]
    table = Table(
        "main",
        f"{result['task']}, {n:,} held-out questions, seed {result['seed']}",
        [
            *(Column("system", "text"), Column("right %"), INTERVAL),
            *(Column("calls", "number"), Column("tokens", "number")),
            *(Column("ahead", "gain"), Column("95 %", "gain", True), Column("p", "p")),
        ],
        note=f"ahead: {malt} minus the system, same questions; p: exact McNemar test",
    )
    against = {row["b"]: row for row in result["paired"]}
    for row in result["systems"]:
        other = against.get(row["name"], {})
        cells = [row[key] for key in ("name", "accuracy", "ci95")]
        cells += [row[f"{key}_per_question"] for key in ("calls", "tokens")]
        table.rows.append([*cells, *(other.get(key) for key in ("difference", "ci95", "p_value"))])
    return table


def paper_table(result: dict[str, Any]) -> Table:
    """The main table, with the paper's protocol and its figures."""
    table, known = main_table(result), (result["published"] or {}).get("systems")
    names = [f"{SUBSETS}x{SIZE} {figure}" for figure in ("mean", "population std", "sample std")]
    table.columns.extend(Column(name) for name in names)
    if known:
        table.columns.extend([Column("paper", "percent"), Column("paper std", "percent")])
    for row, cells in zip(result["systems"], table.rows, strict=True):
        subsets = row["subsets"] or {}
        cells += [subsets.get(key) for key in ("mean", "population_std", "sample_std")]
        cells += [*known.get(row["name"], ()), None, None][:2] if known else []
    return table


def ablations(result: dict[str, Any]) -> Table:
    known = (result["published"] or {}).get("systems")
    columns = [Column("roles", "text"), Column("right %"), INTERVAL]
    columns += [Column("ahead", "gain"), Column("95 %", "gain", True), Column("p", "p")]
    columns += [Column("paper", "percent")] if known else []
    malt = result["paired"][0]["a"]
    title = f"{result['task']}: a role untrained, or roles left out"
    table = Table("ablations", title, columns, note=f"ahead: {malt} minus the row")
    systems = {row["name"]: row for row in result["systems"]}
    against = {row["b"]: row for row in result["paired"]}
    for group, names in result["ablations"].items():
        for label, name in names.items():
            row, other = systems[name], against.get(name, {})
            cells = [f"{group}: {label}", row["accuracy"], row["ci95"]]
            cells += [other.get(key) for key in ("difference", "ci95", "p_value")]
            cells += [known.get(name, [None])[0]] if known else []
            table.rows.append(cells)
    return table


def turns_table(result: dict[str, Any]) -> Table:
    known, malt = (result["published"] or {}).get("turns"), result["paired"][0]["a"]
    columns = [Column("system", "text"), Column("after", "text"), Column("answered %")]
    columns += [Column("right %"), INTERVAL]
    columns += [Column("paper", "percent")] if known else []
    title = f"{result['task']}: answers after each role's turn, found in its text by the grader"
    table = Table("turns", title, columns)
    for name, turns in result["turns"].items():
        for turn in turns:
            cells = [name, turn["role"], turn["answered"], turn["accuracy"], turn["ci95"]]
            cells += [known.get(turn["role"]) if name == malt else None] if known else []
            table.rows.append(cells)
    return table


def flips_table(result: dict[str, Any]) -> Table:
    known = (result["published"] or {}).get("flips")
    columns = [Column("system", "text"), Column("questions", "text"), Column("share %")]
    columns += [INTERVAL, *([Column("paper", "percent")] if known else [])]
    title = (
        f"{result['task']}: the first role's answer and the last one's of a pass, or two systems'"
    )
    table = Table("flips", title, columns)
    for name, shares in result["flips"].items():
        for flip in FLIPS:
            interval = result["flips_ci95"][name][flip]
            cells = [name, flip.replace("_", " "), shares[flip], interval]
            cells += [known[flip] if "->" in name else None] if known else []
            table.rows.append(cells)
    return table


def curves_table(result: dict[str, Any]) -> Table:
    columns = [Column("system", "text"), Column("votes", "number"), Column("calls", "number")]
    columns += [Column("majority right %"), INTERVAL, Column("any right %"), INTERVAL]
    title = f"{result['task']}: k votes out of one pool of passes, averaged over all subsets"
    table = Table("curves", title, columns)
    names = ("votes", "calls", "majority", "majority_ci95", "pass", "pass_ci95")
    for name, curve in result["curves"].items():
        points = zip(*(curve[key] for key in names), strict=True)
        table.rows.extend([name, *point] for point in points)
    return table


# ---- the terminal ----


def as_terminal(table: Table, bold: str = "") -> TerminalTable:
    """bold: the first cell of the row that is to stand out."""
    title, note = escape(table.title), escape(table.note)
    out = TerminalTable(title=title, caption=note, box=box.SIMPLE, padding=0)
    for column in table.columns:
        out.add_column(escape(column.name), justify="left" if column.kind == "text" else "right")
        out.columns[-1].no_wrap = True
    for row in shown(table):
        out.add_row(*map(escape, row), style="bold" if row[0] == bold else "")
    return out


def describe(result: dict[str, Any]) -> list[str]:
    """Beside the table: the gain, and what later roles do to the first one's answer."""
    lines = []
    if result["relative_gain"] is not None:
        malt, gain = result["paired"][0]["a"], 100 * result["relative_gain"]
        lines.append(f"{malt} against SA: {gain:+.2f} % relative")
    for name, share in result["flips"].items():
        mended, spoilt = share["wrong_to_right"], share["right_to_wrong"]
        told = f"wrong to right {100 * mended:.1f} %, right to wrong {100 * spoilt:.1f} %"
        turns = [t for t in result["turns"].get(name, ()) if t["answered"] > 0.5]
        steps = " -> ".join(f"{t['role']} {100 * t['accuracy']:.1f}" for t in turns)
        lines.append(f"{name}: {told}" + (f"; right after each turn, %: {steps}" if steps else ""))
    lines += [f"{role}, {sentence(told)}" for role, told in result.get("grading", {}).items()]
    return lines
