"""An evaluation as tables: in the terminal, and as CSV, LaTeX (booktabs) and Markdown files.

A cell is text, a number or an interval, according to its column. Shares are shown in percent. An
interval belongs to the column before it; it takes one column, in CSV two: low and high.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.markup import escape
from rich.table import Table as TerminalTable

from malt_fast.evaluation.paper import SIZE, SUBSETS
from malt_fast.evaluation.result import FLIPS, EvaluationResult
from malt_fast.grading.grade_report import sentence
from malt_fast.grading.verdicts import NOTHING, VERDICTS
from malt_fast.utils.files import write_text

Kind = Literal["text", "share", "gain", "number", "percent", "p"]
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
    rows: list[list[Any]] = field(default_factory=list)  # None: an empty cell
    note: str = ""


INTERVAL = Column("95 %", interval=True)
SPENT = (Column("sampled", "number"), Column("trained on", "number"))
SPENT_NOTE = "sampled, trained on: tokens that training took"
GAIN = (Column("gain", "gain"), Column("95 %", "gain", interval=True), Column("p", "p"))


def write_tables(folder: Path, tables: Sequence[Table]) -> None:
    """Write NAME.csv, NAME.tex and NAME.md of each table."""
    folder.mkdir(exist_ok=True)
    for table in tables:
        write_text(folder / f"{table.name}.csv", as_csv(table))
        write_text(folder / f"{table.name}.tex", as_latex(table))
        write_text(folder / f"{table.name}.md", as_markdown(table))


# ---- formats ----


def show(cell: Any, kind: Kind) -> str:
    """A cell as text, rounded; an interval as `low..high`."""
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
    """The rows as text."""
    kinds = [column.kind for column in table.columns]
    return [[show(c, kind) for c, kind in zip(row, kinds, strict=True)] for row in table.rows]


def as_csv(table: Table) -> str:
    """Numbers unrounded; shares in percent, as in the other formats."""

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
    """A booktabs tabular to \\input; title and note are comments."""

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


# ---- tables of an evaluation ----


SUITE_TABLES = ("main", "ablations", "turns", "flips", "curves")  # names of their files


def suite_tables(result: EvaluationResult) -> list[Table]:
    """Every table of a result of the suite `paper`."""
    builders = (paper_table, ablations_table, turns_table, flips_table, curves_table)
    return [build(result) for build in builders]


def main_table(result: EvaluationResult) -> Table:
    """The table of either suite, as the terminal shows it."""
    table = Table(
        "main",
        f"{result.task}, {result.systems[0].n:,} held-out questions, seed {result.seed}",
        [
            *(Column("system", "text"), Column("acc. %"), INTERVAL),
            *(Column("calls", "number"), Column("tokens", "number"), *GAIN),
        ],
        note=f"gain: {result.malt} minus the system, same questions; p: exact McNemar test",
    )
    for system in result.systems:
        cells = [system.name, system.accuracy, system.ci95]
        cells += [system.calls_per_question, system.tokens_per_question]
        table.rows.append([*cells, *_gain(result, system.name)])
    return table


def _gain(result: EvaluationResult, name: str) -> list[Any]:
    """The cells of GAIN; empty for `malt` itself."""
    paired = {difference.b: difference for difference in result.paired}
    other = paired.get(name)
    return [other.difference, other.ci95, other.p_value] if other else [None] * len(GAIN)


def paper_table(result: EvaluationResult) -> Table:
    """The main table with the figures of the paper's protocol, and the published ones."""
    table, known = main_table(result), result.published
    table = replace(table, note=f"{table.note}; {SPENT_NOTE}")
    table.columns.extend(SPENT)
    names = [f"{SUBSETS}x{SIZE} {figure}" for figure in ("mean", "population std", "sample std")]
    table.columns.extend(Column(name) for name in names)
    if known:
        table.columns.extend([Column("paper", "percent"), Column("paper std", "percent")])
    for system, cells in zip(result.systems, table.rows, strict=True):
        subsets = system.subsets
        cells += [system.training_sampled, system.training_tokens]
        if subsets:
            cells += [subsets.mean, subsets.population_std, subsets.sample_std]
        else:
            cells += [None] * len(names)
        cells += [*known.systems.get(system.name, ()), None, None][:2] if known else []
    return table


def ablations_table(result: EvaluationResult) -> Table:
    known = result.published
    columns = [Column("roles", "text"), Column("acc. %"), INTERVAL, *GAIN]
    columns += [Column("paper", "percent")] if known else []
    title = f"{result.task}: one role untrained, and chains of some roles"
    table = Table("ablations", title, columns, note=f"gain: {result.malt} minus the row")
    groups = {"untrained": result.ablations.untrained, "present": result.ablations.present}
    for group, names in groups.items():
        for label, name in names.items():
            system = result.system(name)
            cells = [f"{group}: {label}", system.accuracy, system.ci95, *_gain(result, name)]
            cells += [known.systems.get(name, [None])[0]] if known else []
            table.rows.append(cells)
    return table


def turns_table(result: EvaluationResult) -> Table:
    known = result.published.turns if result.published else {}
    columns = [Column("system", "text"), Column("after", "text"), Column("answered %")]
    columns += [Column("acc. %"), INTERVAL]
    columns += [Column("paper", "percent")] if known else []
    title = f"{result.task}: accuracy after each role's turn, from the answers in its outputs"
    table = Table("turns", title, columns)
    for name, turns in result.turns.items():
        for turn in turns:
            cells = [name, turn.role, turn.answered, turn.accuracy, turn.ci95]
            cells += [known.get(turn.role) if name == result.malt else None] if known else []
            table.rows.append(cells)
    return table


def flips_table(result: EvaluationResult) -> Table:
    known = result.published.flips if result.published else {}
    columns = [Column("system", "text"), Column("questions", "text"), Column("share %")]
    columns += [INTERVAL, *([Column("paper", "percent")] if known else [])]
    title = f"{result.task}: first to last answer of a pass, or one system's to another's"
    table = Table("flips", title, columns)
    for name, shares in result.flips.items():
        for flip in FLIPS:
            cells = [name, flip.replace("_", " "), shares[flip], result.flips_ci95[name][flip]]
            cells += [known[flip] if "->" in name else None] if known else []
            table.rows.append(cells)
    return table


def curves_table(result: EvaluationResult) -> Table:
    columns = [Column("system", "text"), Column("votes", "number"), Column("calls", "number")]
    columns += [Column("maj@k %"), INTERVAL, Column("pass@k %"), INTERVAL]
    title = f"{result.task}: k votes from one pool of passes, averaged over all subsets"
    table = Table("curves", title, columns)
    for name, curve in result.curves.items():
        points = zip(
            *(curve.votes, curve.calls, curve.majority, curve.majority_ci95),
            *(curve.pass_at_k, curve.pass_ci95),
            strict=True,
        )
        table.rows.extend([name, *point] for point in points)
    return table


# ---- the terminal ----


def as_terminal(table: Table, bold: str = "") -> TerminalTable:
    """bold: the first cell of the row to set in bold."""
    title, note = escape(table.title), escape(table.note)
    out = TerminalTable(title=title, caption=note, box=box.SIMPLE, padding=0)
    for column in table.columns:
        out.add_column(escape(column.name), justify="left" if column.kind == "text" else "right")
        out.columns[-1].no_wrap = True
    for row in shown(table):
        out.add_row(*map(escape, row), style="bold" if row[0] == bold else "")
    return out


def describe(result: EvaluationResult) -> list[str]:
    """Lines below the table: the relative gain, the flips, and the accuracy after each turn."""
    lines = []
    if result.relative_gain is not None:
        lines.append(f"{result.malt} against SA: {100 * result.relative_gain:+.2f} % relative")
    if malt := result.system(result.malt).training_tokens:
        sampled = result.system(result.malt).training_sampled
        lines.append(f"training took {sampled:,} sampled tokens, and trained on {malt:,}")
    for name, shares in result.flips.items():
        mended, spoilt = 100 * shares["wrong_to_right"], 100 * shares["right_to_wrong"]
        turns = [turn for turn in result.turns.get(name, ()) if turn.answered > 0.5]
        steps = " -> ".join(f"{turn.role} {100 * turn.accuracy:.1f}" for turn in turns)
        line = f"{name}: wrong to right {mended:.1f} %, right to wrong {spoilt:.1f} %"
        lines.append(line + (f"; accuracy after each turn, %: {steps}" if steps else ""))
    for role, figures in result.grading.items():
        if any(n for verdict, n in figures["verdicts"].items() if verdict != VERDICTS[NOTHING]):
            lines.append(f"{role}, {sentence(figures)}")  # a verifier states no answer
    return lines
