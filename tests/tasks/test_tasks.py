"""Tasks: questions, prompts and graders as loaded, and every bad input as one sentence."""

import json
import logging
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malt_fast.config.command import read_command
from malt_fast.config.schema import PACKAGE, Config
from malt_fast.config.yaml_files import read_yaml
from malt_fast.grading.verdicts import grade
from malt_fast.tasks.arithmetic import CHAIN, totals
from malt_fast.tasks.hub import is_hub_id, load_hub
from malt_fast.tasks.load import load_task
from malt_fast.tasks.task import Question, Task
from malt_fast.tasks.wording import RolePrompt, split_prompt
from malt_fast.train import PROGRAM
from malt_fast.utils.errors import MaltError
from tests.questions import serve
from tests.questions import write_lines as write
from tests.volume import volume

FEW = ("--task.limit", "2", "--task.test_limit", "2")  # for arithmetic, which makes its questions


def load(*argv: str) -> Task:
    return load_task(config(*argv))


def config(*argv: str) -> Config:
    return read_command(PROGRAM, argv)


def mistake(*argv: str) -> str:
    with pytest.raises(MaltError) as caught:
        load(*argv)
    text = str(caught.value)
    assert "\n" not in text
    return text


def rows(n: int, start: int = 0) -> list[dict[str, str]]:
    numbers = range(start, start + n)
    return [{"question": f"What is {i}?", "answer": f"It is.\n#### {i}"} for i in numbers]


@pytest.mark.parametrize(
    ("number", "gold"),
    [
        ("1e20", "100000000000000000000"),
        ("1e-7", "0.0000001"),
        ("-2.5E-3", "-0.0025"),
        ("1.5", "1.5"),
        ("3.0", "3.0"),
        ("12345678901234567890123", "12345678901234567890123"),
    ],
)
@pytest.mark.parametrize("grader", ["number", "math"])
def test_numbers_in_json_are_golds_in_plain_decimals(
    tmp_path: Path, number: str, gold: str, grader: str
) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text("".join(f'{{"question": "q{i}", "answer": {number}}}\n' for i in range(3)))
    task = load("--task.name", "jsonl", "--task.path", str(path), "--task.grader", grader)
    assert {question.gold for question in task.train} == {gold}
    assert grade(grader, [f"#### {gold}" if grader == "number" else f"\\boxed{{{gold}}}"], [gold])


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
    assert task.report == {}  # three copy a test question with other numbers
    assert task.train[0].gold == "72" and task.train[0].id == "train-0"
    assert (task.grader, task.chat, list(task.prompts)) == (
        "number",
        True,
        ["generator", "verifier", "refiner"],
    )
    with (shared_data / "gsm8k" / "train.jsonl").open(encoding="utf-8") as file:
        every = {f"train-{i}": json.loads(line)["answer"] for i, line in enumerate(file)}
    solutions = [every[q.id] for q in task.train]
    assert grade("number", solutions, [q.gold for q in task.train]).all()


def test_gsm8k_test_path_and_limits(tmp_path: Path) -> None:
    train, test = write(tmp_path / "a.jsonl", rows(9)), write(tmp_path / "b.jsonl", rows(7, 9))
    task = load(
        *("--task.name", "gsm8k", "--task.path", train, "--task.test_path", test),
        *("--task.limit", "4", "--task.test_limit", "100"),
    )
    assert (len(task.train), len(task.test)) == (4, 7)
    assert task.test[6].id == "test-6" and task.test[6].gold == "15"


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
    splits = {"train": rows(3), "test": rows(2, 3)}
    serve(monkeypatch, "openai/gsm8k", {"main": splits, "socratic": {}})
    task = load("--task.name", "gsm8k", "--task.path", "openai/gsm8k")
    assert (len(task.train), len(task.test)) == (3, 2)
    splits["test"][1]["answer"] = "none"
    text = mistake("--task.name", "gsm8k", "--task.path", "openai/gsm8k")
    assert text.startswith("openai/gsm8k:main/test[1]: the answer does not end")

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network\nand more")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    text = mistake("--task.name", "gsm8k", "--task.path", "openai/gsm8k")
    assert "'openai/gsm8k' is neither a file here" in text and "no network" in text


def test_gsm8k_golds(tmp_path: Path) -> None:
    answers = ["a\n#### 1,000", "b\nA: 18", "72", "c\n#### -3"]
    path = write(tmp_path / "q.jsonl", [{"question": "q", "answer": a} for a in answers])
    same = ("--task.test_path", path, "--task.decontaminate", "false")
    task = load("--task.name", "gsm8k", "--task.path", path, *same)
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
    other = write(tmp_path / "t.jsonl", rows(1, 2))
    lines = [json.dumps(row) for row in rows(2)]
    path.write_bytes(b"\xef\xbb\xbf" + "\n\n".join(lines).encode() + b"\r\n \n")
    assert len(load(*jsonl(str(path), "--task.test_path", other)).train) == 2


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (b'{"question": "q", ', "q.jsonl:2 is not valid JSON"),
        (b"[1, 2]", "q.jsonl:2 is not a JSON object"),
        (b"\xff\xfe", "q.jsonl:2 is not valid JSON (not UTF-8)"),
        ('{"question": "Größe", "answer": "a"}'.encode("latin-1"), "JSON (not UTF-8)"),
        (b"[" * 100_000, "q.jsonl:2 is not valid JSON"),
        (b'{"questoin": "q", "answer": "a"}', "did you mean 'questoin'?"),
        (b'{"question": "q", "answer": null}', "q.jsonl:2 has an empty or non-text answer"),
        (b'{"question": "  ", "answer": "a"}', "q.jsonl:2 has an empty or non-text question"),
        (b'{"question": "q", "answer": true}', "q.jsonl:2 has an empty or non-text answer"),
        (b'{"question": ["q"], "answer": "a"}', "q.jsonl:2 has an empty or non-text question"),
        (b'{"question": "\\ud800", "answer": "a"}', "q.jsonl:2 has half a Unicode character"),
        (b'{"question": "q", "answer": "a", "id": "x"}', "has the id 'x' of"),
        (b'{"problem": "q", "solution": "a"}', "'question' (did you mean 'problem'?)"),
        (b'{"question": "q", "solution": "a"}', "'answer' (did you mean 'solution'?)"),
        (b'{"q": "q", "solution": "a"}', "'question' (known are q, solution)"),
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


def test_a_prompt_of_no_role_is_told(tmp_path: Path, caplog: Any) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text("prompts:\n  verifer: '{question}'\n  refiner: '{question}'\n")
    load(*FEW, "--task.prompts", str(file))
    assert "has a prompt for 'verifer', which is not in the chain: did you mean" in caplog.text
    assert "refiner'," not in caplog.text


def test_a_custom_chain(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(
        "chat: true\nprompts:\n  solver: '{question}'\n"
        "  judge: {system: Judge., user: '{question} {solver}'}\n"
    )
    chain = ("--chain", "solver,judge", "--tree.branching", "2,2")
    task = load(*chain, *FEW, "--task.prompts", str(file))
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


# ---- the hub ----


def test_the_hub_reads_real_data_sets(tmp_path: Path) -> None:
    """The client's own, on a folder: the whole of a data set, by whatever name it goes."""
    pytest.importorskip("datasets")
    for name in ("a", "b"):
        write(tmp_path / f"{name}.jsonl", rows(2, 10 * (name == "b")))
    listed = [
        {"config_name": name, "data_files": [{"split": "train", "path": f"{name}.jsonl"}]}
        for name in ("a", "b")
    ]
    (tmp_path / "README.md").write_text(f"---\n{json.dumps({'configs': listed})}\n---\n")
    data = load_hub(str(tmp_path), None)
    found = list(data.rows("train", "split"))
    assert [row["question"] for _, row in found] == [f"What is {i}?" for i in (0, 1, 10, 11)]
    assert found[3][0] == f"{tmp_path}:b/train[1]"
    with pytest.raises(
        MaltError,
        match=r"has no test split \(it has train\).*--task.test_split, .*--task.test_path$",
    ):
        list(data.rows("test", "test_split"))
    only = load_hub(str(tmp_path), "b")
    assert [where for where, _ in only.rows("train", "split")] == [
        f"{tmp_path}:b/train[{i}]" for i in range(2)
    ]
    with pytest.raises(MaltError, match=r"neither a file here .*--task.path and --task.subset$"):
        load_hub(str(tmp_path), "c")


@pytest.mark.parametrize(
    ("names", "read"),
    [
        (["default", "algebra"], ["default"]),
        (["all", "algebra"], ["all"]),
        (["socratic", "main"], ["main"]),
        (["algebra", "geometry"], ["algebra", "geometry"]),
    ],
)
def test_the_hubs_configurations(
    names: list[str], read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, "a/b", {name: {"test": [{"name": name}]} for name in names})
    found = load_hub("a/b", None).rows("test", "test_split")
    assert [row["name"] for _, row in found] == read


def test_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "data").mkdir(parents=True)
    assert is_hub_id("openai/gsm8k")
    assert not any(
        map(is_hub_id, ("here/data", "none/x.jsonl", "x/y.csv", "a/b/c", "./a", "name", ""))
    )


# ---- copies of held-out questions ----


def load_pair(folder: Path, train: list[str], test: list[str], *argv: str) -> Task:
    files = [
        write(folder / f"{name}.jsonl", [{"question": q, "answer": "1"} for q in questions])
        for name, questions in (("a", train), ("b", test))
    ]
    return load(*jsonl(files[0], "--task.test_path", files[1], *argv))


# ---- rows that nobody thought of ----

KEYS = ("question", "answer", "problem", "solution", "unique_id", "id", "answerKey", "choices")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("A"),
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(st.sampled_from(["stem", "choices", "label", "text", "x"]), inside)
    ),
    max_leaves=8,
)
ROWS = st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES), max_size=3)


@pytest.mark.parametrize("name", ["gsm8k", "math", "csqa", "jsonl"])
@settings(max_examples=volume(50))
@given(odd=ROWS)
def test_odd_rows_are_questions_or_a_sentence(
    name: str, odd: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(tmp_path_factory.getbasetemp() / f"odd-{name}.jsonl", odd)
    grader = ("--task.grader", "tests.questions:score") if name == "jsonl" else ()
    try:
        task = load("--task.name", name, "--task.path", path, *grader)
    except MaltError as error:
        assert path in str(error) and "\n" not in str(error)
    else:
        assert task.train and task.test


# ---- subsets ----


def test_subsets(tmp_path: Path) -> None:
    train, test = [f"a{i}" for i in range(50)], [f"b{i}" for i in range(30)]

    def ids(*argv: str) -> tuple[list[str], list[str]]:
        task = load_pair(tmp_path, train, test, *argv)
        return [q.id for q in task.train], [q.id for q in task.test]

    def limits(a: int, b: int) -> tuple[str, ...]:
        return ("--task.limit", str(a), "--task.test_limit", str(b))

    first = ids(*limits(5, 3))
    assert first == ([f"train-{i}" for i in range(5)], [f"test-{i}" for i in range(3)])
    seed = ("--task.subset_seed", "0")
    small, large, whole = ids(*limits(5, 3), *seed), ids(*limits(20, 9), *seed), ids(*seed)
    for few, more, every, n in zip(small, large, whole, (50, 30), strict=True):
        assert every[: len(more)] == more and more[: len(few)] == few
        assert len(set(every)) == n
    assert small != first and small == ids(*limits(5, 3), *seed, "--seed", "9")
    assert ids(*limits(5, 3), "--task.subset_seed", "1") != small


def test_subsets_do_not_depend_on_the_files_order(tmp_path: Path) -> None:
    train = [{"question": f"q {i}", "answer": "a", "id": f"x{i}"} for i in range(20)]
    test = write(tmp_path / "t.jsonl", [{"question": "t", "answer": "a", "id": "t"}])
    options = ("--task.test_path", test, "--task.id_column", "id", "--task.limit", "4")
    drawn = [
        load(*jsonl(write(tmp_path / "q.jsonl", order), *options, "--task.subset_seed", "3")).train
        for order in (train, train[::-1])
    ]
    assert drawn[0] == drawn[1]


# ---- graders of one's own ----


def test_rows_are_kept_for_a_grader_of_ones_own(tmp_path: Path) -> None:
    own = [{"question": "q1", "tests": ["assert f(1)"]}, {"question": "q2", "answer": "a"}]
    path, test = write(tmp_path / "q.jsonl", own), write(tmp_path / "t.jsonl", rows(1))
    options = ("--task.name", "jsonl", "--task.path", path, "--task.test_path", test)
    task = load(*options, "--task.grader", "tests.questions:score")
    assert [dict(q.row) for q in task.train] == own and task.grader == "tests.questions:score"
    assert [q.gold for q in task.train] == ["", "a"]
    assert task.train[0] == Question("train-0", "q1", "")  # rows are not compared
    assert "tests" not in repr(task.train[0])
    assert hash(task.train[0]) == hash(Question("train-0", "q1", ""))
    assert "has no column 'answer'" in mistake(*options, "--task.grader", "exact")
    named = (*options, "--task.grader", "tests.questions:score", "--task.answer_column", "gold")
    assert "has no column 'gold'" in mistake(*named)
    (tmp_path / "c.jsonl").write_text('{"question": "q", "answer": ["a"]}\n')
    assert "non-text answer" in mistake(
        *("--task.name", "jsonl", "--task.path", str(tmp_path / "c.jsonl")),
        *("--task.grader", "tests.questions:score"),
    )


def test_rows_are_not_kept_else(tmp_path: Path) -> None:
    path, test = write(tmp_path / "q.jsonl", rows(2)), write(tmp_path / "t.jsonl", rows(1, 2))
    task = load(*jsonl(path, "--task.test_path", test))
    assert all(not q.row for q in [*task.train, *task.test])
    task = load(
        "--task.name", "gsm8k", "--task.path", path, "--task.grader", "tests.questions:score"
    )
    assert [q.row["question"] for q in [*task.train, *task.test]] and task.train[0].gold


def test_gsm8k_needs_answers_whatever_the_grader(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", [{"question": "q"}])
    text = mistake(
        "--task.name", "gsm8k", "--task.path", path, "--task.grader", "tests.questions:score"
    )
    assert "has no column 'answer'" in text


# ---- wordings for an evaluation ----

NAMES = ["arithmetic", "gsm8k", "math", "csqa", "jsonl"]


@pytest.mark.parametrize("name", NAMES)
def test_every_task_has_wordings_for_all(name: str) -> None:
    own = read_yaml(PACKAGE / "tasks" / f"{name}.yaml")
    assert set(own) - {"grader", "defaults"} == {"chat", "prompts", "extra"}
    prompts, extra = (
        {k: wording(v) for k, v in own[part].items()} for part in ("prompts", "extra")
    )
    assert list(extra) == ["direct", "debater"]
    for role in CHAIN_OF_THREE:
        assert split_prompt(CHAIN_OF_THREE, role, prompts)[1]
    assert split_prompt(["generator", "direct"], "direct", extra)[1] == [0, 1]
    debater = ["own", "first", "second", "debater"]
    assert split_prompt(debater, "debater", extra)[1] == [0, 1, 2, 3]
    ends = {"math": "Final Answer: \\boxed{{answer}}", "csqa": "Final Answer: <letter>"}
    for text in [prompts["generator"], prompts["refiner"], *extra.values()]:
        assert name == "arithmetic" or ends.get(name, "Final Answer: <") in text.user


CHAIN_OF_THREE = ["generator", "verifier", "refiner"]


def wording(value: Any) -> RolePrompt:
    return RolePrompt(None, value) if isinstance(value, str) else RolePrompt(**value)


def test_arithmetic_speaks_its_own_wording() -> None:
    extra = load(*FEW).extra
    assert extra["direct"].user == "{question}\nDraft:{generator}\nCheck:\nFinal:"
    assert extra["debater"].user == "{question}\nDraft:{own}\nCheck:{first}{second}\nFinal:"


def test_a_file_replaces_extra_wordings(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("extra: {direct: '{question} {generator}'}\n")
    task, own = load(*FEW, "--task.prompts", str(file)), load(*FEW)
    assert task.extra["direct"].user == "{question} {generator}"
    assert task.extra["debater"] == own.extra["debater"] and task.prompts == own.prompts


@pytest.mark.parametrize(
    ("extra", "part"),
    [
        ("{}", "holds no prompts"),
        ("{dierct: '{question}'}", "did you mean 'direct'?"),
        ("{direct: '{question}{verifier}'}", "names {verifier}"),
        ("{debater: '{question}{second}{own}'}", "must name the question and then"),
        ("{debater: '{own}'}", "must hold {question} once"),
        ("{debater: 3}", "no usable prompt for 'debater'"),
    ],
)
def test_bad_extra_wordings(tmp_path: Path, extra: str, part: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(f"extra: {extra}\n")
    assert part in mistake("--task.prompts", str(file))
