"""Tasks: questions, prompts and graders as loaded, and every bad input as one sentence."""

import json
import logging
import re
import zlib
from pathlib import Path
from typing import Any

import pytest

from malt_fast.config import Config, load_config
from malt_fast.errors import MaltError
from malt_fast.grading import grade
from malt_fast.tasks import Task, load_task
from malt_fast.tasks.arithmetic import CHAIN, totals


def load(*argv: str) -> Task:
    return load_task(config(*argv))


def config(*argv: str) -> Config:
    return load_config(argv, "malt_fast.train")


def mistake(*argv: str) -> str:
    with pytest.raises(MaltError) as caught:
        load(*argv)
    text = str(caught.value)
    assert "\n" not in text
    return text


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows(n: int) -> list[dict[str, str]]:
    return [{"question": f"What is {i}?", "answer": f"It is.\n#### {i}"} for i in range(n)]


# ---- arithmetic ----


def test_arithmetic_is_what_it_says() -> None:
    task = load("--task.limit", "200", "--task.test_limit", "50")
    assert (len(task.train), len(task.test)) == (200, 50)
    assert (task.grader, task.chat) == ("number", False)
    for question in [*task.train, *task.test]:
        assert CHAIN.fullmatch(question.text)
        operands = [int(part) for part in re.findall(r"\d+", question.text)]
        assert len(operands) == 6 and all(10 <= operand <= 89 for operand in operands)
        # The twin: Python reads every prefix of the chain as an expression.
        prefixes = [question.text[: 5 + 3 * i] for i in range(5)]
        assert totals(question.text) == [eval(prefix) for prefix in prefixes]
        assert all(10 <= total <= 99 for total in totals(question.text))
        assert question.gold == str(totals(question.text)[-1])
        # Two or more steps carry, or borrow, never both: totals without their units digit tell.
        before = [operands[0], *totals(question.text)[:-1]]
        steps = [int(part) for part in re.findall(r"[+-]\d+", question.text)]
        tens = [(b + s) // 10 - b // 10 - int(s / 10) for b, s in zip(before, steps, strict=True)]
        assert sum(map(abs, tens)) == abs(sum(tens)) >= 2
    assert [q.id for q in task.test[:2]] == ["held-out-0", "held-out-1"]
    assert task.prompts["verifier"].user == "{question}\nDraft:{generator}\nCheck:"


def test_arithmetic_subsets_are_stable_and_splits_disjoint() -> None:
    large = load("--task.limit", "3000", "--task.test_limit", "500")
    small = load("--task.limit", "10", "--task.test_limit", "5", "--seed", "7")
    assert small.train == large.train[:10] and small.test == large.test[:5]
    # Disjoint by construction, however many are drawn: each text belongs to one split.
    assert all(zlib.crc32(q.text.encode()) % 8 == 0 for q in large.test)
    assert all(zlib.crc32(q.text.encode()) % 8 != 0 for q in large.train)
    assert len({q.text for q in large.train}) == 3000


def test_totals_refuses_other_text() -> None:
    for text in ("1+1", "47+38-19+25-36+14+10", "47+38-19+25-36", "", "47+38-19+25-36+1x"):
        with pytest.raises(ValueError, match="chain"):
            totals(text)


def test_arithmetic_needs_a_limit() -> None:
    assert "--task.limit" in mistake("--task.limit", "null")


# ---- gsm8k ----


def test_gsm8k_real_files(shared_data: Path) -> None:
    task = load("--task.name", "gsm8k", "--task.path", str(shared_data / "gsm8k" / "train.jsonl"))
    assert (len(task.train), len(task.test)) == (7473, 1319)
    assert task.train[0].gold == "72" and task.train[0].id == "train-0"
    assert (task.grader, task.chat, list(task.prompts)) == (
        "number",
        True,
        ["generator", "verifier", "refiner"],
    )
    with (shared_data / "gsm8k" / "train.jsonl").open(encoding="utf-8") as file:
        solutions = [json.loads(line)["answer"] for line in file]
    assert grade("number", solutions, [q.gold for q in task.train]).all()


def test_gsm8k_test_path_and_limits(tmp_path: Path) -> None:
    train, test = write(tmp_path / "a.jsonl", rows(9)), write(tmp_path / "b.jsonl", rows(7))
    task = load(
        *("--task.name", "gsm8k", "--task.path", train, "--task.test_path", test),
        *("--task.limit", "4", "--task.test_limit", "100"),
    )
    assert (len(task.train), len(task.test)) == (4, 7)
    assert task.test[6].id == "test-6" and task.test[6].gold == "6"


def test_gsm8k_without_held_out_questions(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    path = write(tmp_path / "questions.jsonl", rows(30))
    task = load("--task.name", "gsm8k", "--task.path", path)
    assert (len(task.train), len(task.test)) == (27, 3)
    assert not {q.id for q in task.train} & {q.id for q in task.test}
    assert "held out 3 of the 30 questions" in caplog.text
    assert all(record.levelno == logging.INFO for record in caplog.records)
    again = load("--task.name", "gsm8k", "--task.path", path, "--seed", "5")
    assert again.test == task.test


def test_gsm8k_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name: str, config: str, split: str) -> list[dict[str, str]]:
        asked.append((name, config, split))
        return rows(3 if split == "train" else 2)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = load("--task.name", "gsm8k", "--task.path", "openai/gsm8k")
    assert (len(task.train), len(task.test)) == (3, 2)
    assert asked == [("openai/gsm8k", "main", "train"), ("openai/gsm8k", "main", "test")]

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network\nand more")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    text = mistake("--task.name", "gsm8k", "--task.path", "openai/gsm8k")
    assert "'openai/gsm8k' is neither a file here" in text and "no network" in text


def test_gsm8k_golds(tmp_path: Path) -> None:
    answers = ["a\n#### 1,000", "b\nA: 18", "72", "c\n#### -3"]
    path = write(tmp_path / "q.jsonl", [{"question": "q", "answer": a} for a in answers])
    task = load("--task.name", "gsm8k", "--task.path", path, "--task.test_path", path)
    assert [q.gold for q in task.train] == ["1,000", "18", "72", "-3"]


# ---- jsonl ----


def jsonl(path: str, *argv: str) -> tuple[str, ...]:
    return ("--task.name", "jsonl", "--task.path", path, "--task.grader", "exact", *argv)


def test_jsonl_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path / "q.jsonl",
        [{"q": " Who? ", "a": "Ann", "key": 7}, {"q": "n", "a": 3, "key": "k"}],
    )
    columns = (
        "--task.question_column",
        "q",
        "--task.answer_column",
        "a",
        "--task.id_column",
        "key",
    )
    other = write(tmp_path / "t.jsonl", [{"q": "x", "a": "y", "key": "z"}])
    task = load(*jsonl(path, *columns, "--task.test_path", other))
    assert [(q.id, q.text, q.gold) for q in task.train] == [("7", "Who?", "Ann"), ("k", "n", "3")]
    assert task.grader == "exact" and task.chat


def test_jsonl_holds_out_a_tenth(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", rows(100))
    task = load(*jsonl(path))
    assert (len(task.train), len(task.test)) == (90, 10)
    assert [q.id for q in task.test] != [f"train-{i}" for i in range(10)]
    assert "--task.test_path" in mistake(*jsonl(write(tmp_path / "one.jsonl", rows(1))))


def test_blank_lines_and_a_byte_order_mark_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    lines = [json.dumps(row) for row in rows(2)]
    path.write_bytes(b"\xef\xbb\xbf" + "\n\n".join(lines).encode() + b"\r\n \n")
    assert len(load(*jsonl(str(path), "--task.test_path", str(path))).train) == 2


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (b'{"question": "q", ', "q.jsonl:2 is not valid JSON"),
        (b"[1, 2]", "q.jsonl:2 is not a JSON object"),
        (b"\xff\xfe", "q.jsonl:2 is not valid JSON"),
        (b"[" * 100_000, "q.jsonl:2 is not valid JSON"),
        (b'{"questoin": "q", "answer": "a"}', "did you mean 'questoin'?"),
        (b'{"question": "q", "answer": null}', "q.jsonl:2 has an empty or non-text answer"),
        (b'{"question": "  ", "answer": "a"}', "q.jsonl:2 has an empty or non-text question"),
        (b'{"question": "q", "answer": true}', "q.jsonl:2 has an empty or non-text answer"),
        (b'{"question": ["q"], "answer": "a"}', "q.jsonl:2 has an empty or non-text question"),
        (b'{"question": "\\ud800", "answer": "a"}', "q.jsonl:2 has half a Unicode character"),
        (b'{"question": "q", "answer": "a", "id": "x"}', "has the id 'x' of"),
    ],
)
def test_bad_rows(tmp_path: Path, line: bytes, part: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(b'{"question": "q", "answer": "a", "id": "x"}\n' + line + b"\n")
    extra = ("--task.id_column", "id") if b'"id"' in line else ()
    assert part in mistake(*jsonl(str(path), "--task.test_path", str(path), *extra))


def test_bad_golds(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", [{"question": "q", "answer": "no number"}])
    text = mistake("--task.name", "gsm8k", "--task.path", path)
    assert f"{path}:1: the answer does not end with `#### NUMBER`" in text
    text = mistake("--task.name", "jsonl", "--task.path", path, "--task.grader", "number")
    assert f"{path}:1: the answer 'no number' is not one that the number grader reads" in text


def test_missing_and_empty_files(tmp_path: Path) -> None:
    for name in ("gsm8k", "jsonl"):
        kind = ("--task.name", name, "--task.grader", "number", "--task.path")
        assert "none.jsonl does not exist" in mistake(*kind, str(tmp_path / "none.jsonl"))
        (tmp_path / "empty.jsonl").write_text("\n\n")
        assert "holds no questions" in mistake(*kind, str(tmp_path / "empty.jsonl"))
        assert "cannot be read" in mistake(*kind, str(tmp_path))


def test_an_id_in_both_splits(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", [{"question": "q", "answer": "a", "id": "x"}])
    text = mistake(*jsonl(path, "--task.test_path", path, "--task.id_column", "id"))
    assert "the id 'x' is in both" in text


# ---- prompts ----


def test_a_custom_chain(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(
        "chat: true\nprompts:\n  solver: '{question}'\n"
        "  judge: {system: Judge., user: '{question} {solver}'}\n"
    )
    chain = ("--chain", "solver,judge", "--tree.branching", "2,2")
    task = load(*chain, "--task.prompts", str(file))
    assert list(task.prompts) == ["solver", "judge"] and task.chat
    assert task.prompts["solver"].system is None and task.prompts["judge"].system == "Judge."
    assert "'solver' has no prompt: give one by --task.prompts FILE" in mistake(*chain)


def test_a_two_role_chain_needs_wording_that_fits() -> None:
    text = mistake("--chain", "generator,refiner", "--tree.branching", "2,2")
    assert "{verifier}" in text and "--task.prompts FILE" in text


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "holds no prompts"),
        ("prompts: 3", "holds no prompts"),
        ("prompts: {generator: 3}", "no usable prompt for 'generator'"),
        ("prompts: {generator: {system: s}}", "no usable prompt for 'generator'"),
        ("prompts: {generator: {user: '{question}', sytem: s}}", "no usable prompt"),
        ("prompts: {generator: {user: 3}}", "not text"),
        ("prompts: {generator: 'no field'}", "must hold {question} once"),
        ("prmpts: {generator: '{question}'}", "did you mean 'prompts'?"),
        ("chat: 3\nprompts: {generator: '{question}'}", "must be true or false"),
    ],
)
def test_bad_prompt_files(tmp_path: Path, content: str, part: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(content)
    assert part in mistake("--task.prompts", str(file))
