"""Tables as files: every format says the same, and no name can break one."""

import csv
import io

import pytest

from malt_fast.evaluation.result import FLIPS, EvaluationResult
from malt_fast.evaluation.tables import (
    INTERVAL,
    Column,
    Table,
    as_csv,
    as_latex,
    as_markdown,
    describe,
    paper_table,
    show,
    suite_tables,
    turns_table,
    write_tables,
)

NASTY = r"a_b|c&d%e$f#g{h}i~j^k\l<m>n*o`p[q]"
COLUMNS = [
    Column("name_1", "text"),
    *(Column("right %"), INTERVAL),
    *(Column("ahead", "gain"), Column("95 %", "gain", True)),
    *(Column("p", "p"), Column("tokens", "number"), Column("paper", "percent")),
]
TABLE = Table(
    "t",
    "a % title",
    COLUMNS,
    [
        [NASTY, 0.5981, (0.567, 0.628), -0.062, [-0.08, 0.0], 1e-9, 12345.6, 90.5],
        ["last", 1.0, (0.9, 1.0), None, None, None, 0, None],
    ],
    note="a note",
)


def test_csv_is_unrounded_and_names_its_intervals():
    rows = list(csv.DictReader(io.StringIO(as_csv(TABLE))))
    assert rows[0] == {
        "name_1": NASTY,
        "right %": "59.81",
        "right % low": "56.7",
        "right % high": "62.8",
        "ahead": "-6.2",
        "ahead low": "-8.0",
        "ahead high": "0.0",
        "p": "1e-09",
        "tokens": "12345.6",
        "paper": "90.5",
    }
    assert rows[1]["ahead low"] == rows[1]["paper"] == "" and rows[1]["tokens"] == "0"


def test_markdown_has_one_cell_a_column_whatever_a_name_holds():
    title, _, head, rule, first, last, _, note = as_markdown(TABLE).splitlines()
    assert title == "**a % title**" and note == "a note" and rule.startswith("| --- | ---: |")
    for line in (head, rule, first, last):
        assert line.replace("\\\\", "").replace("\\|", "").count("|") == len(COLUMNS) + 1
    assert "| 59.8 | 56.7..62.8 | -6.2 | -8.0..+0.0 | \\<1e-4 | 12,346 | 90.50 |" in first
    assert "\\_b\\|c" in first and "name\\_1" in head
    assert last == "| last | 100.0 | 90.0..100.0 |  |  |  | 0 |  |"


def test_latex_has_one_cell_a_column_whatever_a_name_holds():
    lines = as_latex(TABLE).splitlines()
    assert lines[:2] == ["% a % title", "% a note"]
    assert lines[2] == r"\begin{tabular}{lrrrrrrr}" and lines[-1] == r"\end{tabular}"
    for line in lines[4:5] + lines[6:8]:
        assert line.endswith(r" \\")
        assert line.replace(r"\&", "").count("&") == len(COLUMNS) - 1
    assert r"a\_b$|$c\&d\%e\$f\#g\{h\}i\textasciitilde{}j\textasciicircum{}k" in lines[6]
    assert r"\textbackslash{}l$<$m$>$n" in lines[6]
    assert r"& $59.8$ & $56.7$--$62.8$ & $-6.2$ & $-8.0$--$+0.0$ & $<10^{-4}$ &" in lines[6]
    assert r"$12{,}346$" in lines[6] and lines[7].count("$") == 8


@pytest.mark.parametrize(
    ("cell", "kind", "text"),
    [(None, "share", ""), ("x", "text", "x"), (0.03, "p", "0.03"), (0.0, "gain", "+0.0")],
)
def test_cells(cell, kind, text):
    assert show(cell, kind) == text


def result(published=None):
    """A small result of the suite `paper`."""
    row = {"accuracy": 0.5, "ci95": (0.4, 0.6), "n": 90}
    row |= {"calls_per_question": 3.0, "tokens_per_question": 30.0}
    shares = dict.fromkeys(FLIPS, 0.25)
    turn = {"role": "generator", "answered": 0.4, "accuracy": 0.3, "ci95": (0.2, 0.4)}
    paired = {"a": "MALT+MV@3", "b": "SA", "difference": 0.1, "ci95": (0, 0.2), "p_value": 0.1}
    curve = {"votes": [1, 2], "calls": [3, 6], "majority": [0.3, 0.4], "pass": [0.3, 0.6]}
    curve |= {f"{key}_ci95": [(0.2, 0.4), (0.3, 0.7)] for key in ("majority", "pass")}
    return EvaluationResult.model_validate(
        {
            "task": "gsm8k",
            "seed": 0,
            "malt": "MALT+MV@3",
            "relative_gain": None,
            "systems": [row | {"name": "SA"}, row | {"name": "MALT+MV@3"}],
            "paired": [paired],
            "flips": {"SA -> MALT+MV@3": shares},
            "flips_ci95": {"SA -> MALT+MV@3": {name: (0.2, 0.3) for name in shares}},
            "turns": {"MALT": [turn], "MALT+MV@3": [turn]},
            "ablations": {"untrained": {}, "present": {"G": "SA", "G+V+R": "MALT+MV@3"}},
            "curves": {"SA": curve},
            "published": published,
        }
    )


def test_every_table_of_the_suite_is_whole(tmp_path):
    tables = suite_tables(result())
    assert [table.name for table in tables] == ["main", "ablations", "turns", "flips", "curves"]
    assert [len(table.rows) for table in tables] == [2, 2, 2, 4, 2]
    for table in tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert any(column.interval for column in table.columns)
    write_tables(tmp_path / "tables", tables)
    assert len(list((tmp_path / "tables").iterdir())) == 15
    assert describe(result()) == ["SA -> MALT+MV@3: wrong to right 25.0 %, right to wrong 25.0 %"]


def test_what_was_published_stands_beside():
    known = {"systems": {"SA": [84.25, 2.28], "MALT+MV@3": [90.5]}}
    table = paper_table(result(known))
    assert [column.name for column in table.columns][-2:] == ["paper", "paper std"]
    assert [row[-2:] for row in table.rows] == [[84.25, 2.28], [90.5, None]]
    whole = result(known | {"turns": {"generator": 87.0}})
    assert [row[-1] for row in turns_table(whole).rows] == [None, 87.0]
    assert [row[-1] for row in suite_tables(result(known))[1].rows] == [84.25, 90.5]
    flips = result(known | {"flips": dict.fromkeys(FLIPS, 25.0)})
    assert [row[-1] for row in suite_tables(flips)[3].rows] == [25.0] * 4
