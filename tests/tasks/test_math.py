r"""MATH: its formats, its known blemishes, and every bad row as one sentence.

No problem here is from the data set: they are written in its format.
"""

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from malt_fast.grading.verdicts import can_read, grade
from malt_fast.tasks.math import last_box
from tests import questions
from tests.questions import problem, serve, write_lines, write_math

load = partial(questions.load, "math")
mistake = partial(questions.mistake, "math")


TRAIN = {
    "algebra/10": problem("What is half of ten?", r"It is $\boxed{5}$."),
    "algebra/2": problem("Write a half.", r"So $\boxed{\frac{1}{2}}$ it is."),
    "geometry/1": problem(
        "How long is the side?", r"First $\boxed{1}$, but then $\fbox{\sqrt{2}}$"
    ),
}
TEST = {"algebra/1": problem("What is a third of nine?", r"$9/3 = \boxed 3$")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_math(tmp_path / "MATH", "train", TRAIN)
    write_math(tmp_path / "MATH", "test", TEST)
    return tmp_path / "MATH"


# ---- formats ----


def test_a_folder(folder: Path) -> None:
    task = load(folder)
    assert (task.grader, task.chat) == ("math", True)
    assert [(q.id, q.gold) for q in task.train] == [
        ("train/algebra/2.json", r"\frac{1}{2}"),
        ("train/algebra/10.json", "5"),
        ("train/geometry/1.json", r"\sqrt{2}"),
    ]
    assert [(q.id, q.text, q.gold) for q in task.test] == [
        ("test/algebra/1.json", "What is a third of nine?", "3")
    ]
    assert load(folder / "train").train == task.train  # the test folder lies beside it
    assert load(folder / "train").test == task.test
    apart = load(folder, "--task.test_path", str(folder / "test" / "algebra"))
    assert [q.id for q in apart.test] == ["test/algebra/1.json"]


def test_jsonl_files_with_unique_ids(tmp_path: Path, folder: Path) -> None:
    for split, problems in (("train", TRAIN), ("test", TEST)):
        rows = [row | {"unique_id": f"{split}/{name}.json"} for name, row in problems.items()]
        write_lines(tmp_path / f"{split}.jsonl", rows)
    one = load(tmp_path / "train.jsonl")
    assert one.test == load(folder).test and {q.id for q in one.train} == {
        q.id for q in load(folder).train
    }
    assert load(tmp_path).train == one.train  # a folder of the two files


def test_an_answer_column_is_the_gold(tmp_path: Path) -> None:
    rows = [
        problem("a", r"$\boxed{\dfrac12}$", answer=r"\frac{1}{2}"),  # equal: nothing to tell
        problem("b", r"$\boxed{7}$", answer="8", unique_id="train/odd/1.json"),
        {"problem": "c", "answer": 9},
        problem("d", r"$\boxed{}$", answer="0"),
        problem("e", "no box at all", answer="1"),
    ]
    test = write_lines(tmp_path / "t.jsonl", [problem("z", r"\boxed{1}")])
    task = load(write_lines(tmp_path / "q.jsonl", rows), "--task.test_path", test)
    assert [q.gold for q in task.train] == [r"\frac{1}{2}", "8", "9", "0", "1"]
    assert task.report == {"another box": ["train/odd/1.json", "train-3"]}


@pytest.mark.parametrize(
    ("names", "ids"),
    [(["algebra", "geometry"], ["train-0", "train-1"]), (["default", "algebra"], ["train-0"])],
)
def test_the_hub(names: list[str], ids: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {
        name: {
            "train": [problem(f"What is {name}?", rf"\boxed{{\text{{{name}}}}}")],
            "test": [problem(f"Who is {name}?", rf"\boxed{{\text{{{name}}}}}")],
        }
        for name in names
    }
    serve(monkeypatch, "EleutherAI/hendrycks_math", parts)
    task = load("EleutherAI/hendrycks_math")
    assert [q.id for q in task.train] == ids and len(task.test) == len(ids)


def test_math_500_has_only_a_test_split(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [problem("What now?", r"\boxed{4}", answer="4", unique_id="test/algebra/9.json")]
    serve(monkeypatch, "HuggingFaceH4/MATH-500", {"default": {"test": rows}})
    task = load(folder, "--task.test_path", "HuggingFaceH4/MATH-500")
    assert [(q.id, q.gold) for q in task.test] == [("test/algebra/9.json", "4")]
    text = mistake("HuggingFaceH4/MATH-500")
    assert "has no train split (it has test)" in text and text.endswith(
        "another data set by --task.path"
    )


def test_a_folder_without_a_test_part_holds_out(tmp_path: Path) -> None:
    write_math(
        tmp_path, "mine", {f"algebra/{i}": problem(f"q{i}", r"\boxed{1}") for i in range(20)}
    )
    task = load(tmp_path / "mine")
    assert (len(task.train), len(task.test)) == (18, 2)
    assert task.train[0].id == "train/mine/algebra/0.json"


def test_a_folder_with_the_wrong_part(folder: Path, tmp_path: Path) -> None:
    write_math(tmp_path / "half", "test", TEST)
    text = mistake(tmp_path / "half")
    assert "holds no folder 'train' and no train.jsonl" in text
    write_math(tmp_path / "half2", "train", TRAIN)
    text = mistake(folder, "--task.test_path", str(tmp_path / "half2"))
    assert "holds no folder 'test'" in text


# ---- blemishes ----


def test_known_blemishes_stop_no_load(tmp_path: Path, caplog: Any) -> None:
    rows = [
        problem("empty box", r"$x = \boxed{}$", level="Level ?"),
        problem("blank box", r"$\boxed{ }$"),
        problem("no box", "It is 12."),
        problem("no braces", r"The sum is $\boxed 2$ in all."),
        problem("two boxes", r"$\boxed{-2}$ and $\boxed{1}$"),
        problem("never closed", r"$\boxed{3$"),
        problem("control", "It\tis $\x0crac12$ or $\\boxed{\x0crac12}$"),
        problem("control too", r"\boxed{1}", answer="\text{even}"),
        problem("fbox", r"\fbox{\text{(B)}}"),
        problem("level", r"\boxed{\left\{1, \frac{2}{3}\right\}}", level="Level ?"),
        problem("blank answer", r"\boxed{1}", answer=" "),
    ]
    test = write_lines(tmp_path / "t.jsonl", [problem("z", r"\boxed{@ \beta ^^ }, \boxed{\$ 1}")])
    task = load(write_lines(tmp_path / "q.jsonl", rows), "--task.test_path", test)
    golds = {q.text: q.gold for q in task.train}
    assert golds == {
        "no braces": "2",
        "two boxes": "1",
        "control": "\x0crac12",
        "control too": "\text{even}",
        "fbox": r"\text{(B)}",
        "level": r"\left\{1, \frac{2}{3}\right\}",
    }
    assert task.report == {
        "no gold": ["train-0", "train-1", "train-2", "train-5", "train-10"],
        "several boxes": ["train-4", "test-0"],
        "unreadable gold": ["train-6", "train-7"],
        "another box": ["train-7"],
    }
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(told) == 4 and told[1].startswith("2 of 12 questions have several boxes")
    assert told[0].startswith("5 of 12 questions have no gold answer") and "left out" in told[0]
    assert told[2].endswith(": train-6, train-7")
    readable = [q for q in task.train if can_read("math", q.gold)]
    said = [f"Final Answer: \\boxed{{{q.gold}}}" for q in readable]
    assert grade("math", said, [q.gold for q in readable]).all()


def test_raw_control_characters_in_a_file(tmp_path: Path) -> None:
    """JSON forbids them inside texts; copies of the data set have them."""
    path = tmp_path / "q.jsonl"
    path.write_bytes(b'{"problem": "tab\there", "solution": "\\\\boxed{\x0c1}"}\n')
    test = write_lines(tmp_path / "t.jsonl", [problem("z", r"\boxed{1}")])
    assert load(path, "--task.test_path", test).train[0].text == "tab\there"


@pytest.mark.parametrize(
    ("solution", "gold"),
    [
        (r"$\boxed{\frac{\sqrt{2}}{1 + \sqrt{3}}}$ so {done}", r"\frac{\sqrt{2}}{1 + \sqrt{3}}"),
        (r"\boxed{1} and \boxed{2}", "2"),  # the data set's own rule, not the list of both
        (r"\boxed{1}, \fbox{2}", "2"),
        (r"\fbox{2} \boxed {3}", "3"),
        (r"\boxed\frac12", r"\frac12"),
        (r"\boxed{a \text{ or } \{b\}}", r"a \text{ or } \{b\}"),
        (r"\boxed{1} then \boxed{}", ""),
        (r"\boxed", ""),
        (r"a \boxedtext{1}", ""),
        ("\\boxed{" + "{" * 5000, ""),
        ("\\boxed{1}" * 5000, "1"),
        ("x" * 300_000 + r"\boxed{4}", "4"),
        ("", ""),
    ],
)
def test_the_last_box(solution: str, gold: str) -> None:
    assert last_box(solution) == gold


def test_another_grader_reads_other_golds(folder: Path) -> None:
    assert load(folder, "--task.grader", "number").report["unreadable gold"] == [
        "train/geometry/1.json"
    ]
    task = load(folder, "--task.grader", "tests.questions:score")
    assert "unreadable gold" not in task.report
    assert task.test[0].row["level"] == "Level 1"


# ---- mistakes ----


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"problem": "q"}, "has no column 'solution'"),
        ({"solution": "s"}, "has no column 'problem'"),
        (problem("", r"\boxed{1}"), "has an empty or non-text problem"),
        (problem("q", ""), "non-text value in column 'solution'"),
        ({"problem": "q", "solution": ["s"]}, "non-text value in column 'solution'"),
        ({"problem": "q", "solution": None}, "non-text value in column 'solution'"),
        (problem("q", r"\boxed{1}", answer=["1"]), "non-text value in column 'answer'"),
        (problem("q", "\ud800"), "half a Unicode character"),
        (problem("q", r"\boxed{1}", unique_id="one"), "has the id 'one' of"),
        (problem("q", r"\boxed{1}", unique_id=["a"]), "non-text id"),
    ],
)
def test_bad_rows(tmp_path: Path, row: dict[str, Any], part: str) -> None:
    first = problem("first", r"\boxed{1}", unique_id="one")
    path = write_lines(tmp_path / "q.jsonl", [first, row])
    text = mistake(path)
    assert part in text and text.startswith(f"{path}:2")


def test_bad_files(folder: Path) -> None:
    file = folder / "train" / "algebra" / "3.json"
    file.write_text('{\n "problem": "q",\n "solution" 3}')
    assert mistake(folder).startswith(f"{file}:3 is not valid JSON (Expecting ':'")
    file.write_text(json.dumps(problem("größer", r"\boxed{1}"), ensure_ascii=False), "latin-1")
    assert mistake(folder).startswith(f"{file}:1 is not valid JSON (not UTF-8)")
    file.write_text("[1]")
    assert mistake(folder).startswith(f"{file}:1 is not a JSON object")
    file.write_text("")
    assert "3.json:1 is not valid JSON" in mistake(folder)


def test_nothing_there(tmp_path: Path) -> None:
    assert "does not exist" in mistake(tmp_path / "none.jsonl")
    assert "holds no questions that can be used" in mistake(tmp_path)
    write_lines(tmp_path / "q.jsonl", [problem("q", "no box")])
    assert "holds no questions that can be used" in mistake(tmp_path / "q.jsonl")
