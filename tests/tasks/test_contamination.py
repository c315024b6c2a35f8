"""Copies of held-out questions among the training questions."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malt_fast.config.changeable import EVALUATION_SETTINGS
from malt_fast.config.load import dump, saved_config
from malt_fast.config.schema import Config
from malt_fast.tasks import contamination
from malt_fast.tasks.task import Question
from malt_fast.utils.errors import MaltError
from tests.tasks.test_tasks import FEW, config, load_pair
from tests.volume import volume

NUMERALS = contamination.NUMERALS.split()
COPY = "A farmer has seven hens and each of them lays three eggs on every single day of the week"
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def test_copies_are_left_out_and_told(tmp_path: Path, caplog: Any) -> None:
    train = ["Is  IT, Tuesday?", f"{COPY}. How many are some of them?", "Is it Friday?"]
    train += [f"Is it the day after {day}?" for day in DAYS]
    test = ["is it tuesday", f"{COPY}: so how many eggs are there in a month?"]
    task = load_pair(tmp_path, train, test)
    assert len(task.train) == 8 and len(task.test) == 2
    assert task.report == {"contaminated": ["train-0", "train-1"]}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    text = record.getMessage()
    assert text.startswith("2 of 10 training questions") and text.endswith(": train-0, train-1")
    assert "left out (task.decontaminate)" in text

    task = load_pair(tmp_path, train, test, "--task.decontaminate", "false")
    assert len(task.train) == 10 and task.report == {"contaminated": ["train-0", "train-1"]}
    assert "task.decontaminate would leave them out" in caplog.records[-1].getMessage()


def test_what_is_no_copy(tmp_path: Path) -> None:
    """A turn of phrase in a long question, other signs, texts without a word."""
    story = " ".join(f"word{i}" for i in range(40))
    train = [f"{story} {COPY}", "3 + 4", "x-2", "+-", "Is it so?"]
    test = [f"{COPY} or not, and what of it", "3 - 4", "x+2", "-+", "It is so"]
    assert load_pair(tmp_path, train, test).report == {}


def test_more_than_a_fifth_are_copies(tmp_path: Path) -> None:
    """The run stops before any work, with what to type."""
    train = [f"Is it {day}?" for day in DAYS[:5]]
    assert len(load_pair(tmp_path, train, train[:1]).train) == 4
    said = (
        r"^2 of 5 training .*\(train-0, train-1\): .*--task.test_path FILE.*--task.decontaminate f"
    )
    with pytest.raises(MaltError, match=said):
        load_pair(tmp_path, train, train[:2])
    assert len(load_pair(tmp_path, train, train, "--task.decontaminate", "false").train) == 5


APPLES = "Ann has {} apples in {} baskets and eats {} of them. How many are left?"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("30", "2", "4"), ("30", "2", "4"), True),
        (("30", "2", "4"), ("31", "2", "4"), False),
        (("30", "2", "4"), ("30", "2", "5"), False),
        (("30", "2", "4"), ("30", "4", "2"), False),
        (("30", "two", "4"), ("30", "three", "4"), False),
        (("3.5", "2", "4"), ("3.6", "2", "4"), False),
        (("30", "2", "half"), ("30", "2", "a third"), False),
        (("30", "wicker", "most"), ("30", "wooden", "most"), True),
    ],
)
def test_other_numbers_make_another_problem(
    one: tuple[str, ...], other: tuple[str, ...], same: bool
) -> None:
    story = " ".join(f"word{chr(97 + i)}" for i in range(20))  # a run that both have
    train = [Question("a", f"{story}: {APPLES.format(*one)}", "")]
    held = [Question("b", f"{story}! {APPLES.format(*other)} Say it.", "")]
    assert contamination.contaminated(train, held) == (["a"] if same else [])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("12 \u00d7 4", "12 \u00f7 4", False),
        ("p \u2227 q", "p \u2228 q", False),
        ("(2+3)*4", "2+(3*4)", False),
        ("5!", "5", False),
        ("|x-3|", "x-3", False),
        ("3.5 kg", "35 kg", False),
        ("How much is it?", "how much  is it", True),
        ("Ann, Bob: who?", "Ann Bob who", True),
    ],
)
def test_signs_count_and_punctuation_does_not(one: str, other: str, same: bool) -> None:
    found = contamination.contaminated([Question("a", one, "")], [Question("b", other, "")])
    assert found == (["a"] if same else [])


def test_drawings_are_no_copies(tmp_path: Path) -> None:
    code = "[asy]size(150); pair A, B, C, D, E, F, G; draw(A--B--C--D--E--F--G--cycle);[/asy]"
    task = load_pair(tmp_path, [f"{code} Find AB."], [f"Find the area. {code}"])
    assert task.report == {}
    with pytest.raises(MaltError, match="1 of 1"):
        load_pair(tmp_path, [f"{code} Find it."], [f"{code} find it"])


WORD = re.compile(r"[^\W_]+|[+*/^=<>]|(?<![^\W\d_])-|-(?![^\W\d_])")
MARK = re.compile(r"(?<!\d)[.,;:?\"']|[.,;:?\"'](?!\d)")


def words_of(text: str) -> list[str]:
    before, *drawings = text.casefold().split("[asy]")
    return WORD.findall(" ".join([before, *(d.rpartition("[/asy]")[2] for d in drawings)]))


def copied(text: str, test: list[str], run: int) -> bool:
    """Every run of words against every other, by hand."""

    def key(text: str) -> str:
        return " ".join(MARK.sub(" ", text.casefold()).split()) or text.strip()

    def numbers(words: list[str]) -> list[str]:
        return [w for w in words if any(map(str.isdecimal, w)) or w in NUMERALS]

    words = words_of(text)
    inside = [False] * len(words)
    for other in map(words_of, test):
        if numbers(other) != numbers(words):
            continue
        for i in range(len(words) - run + 1):
            if any(other[j : j + run] == words[i : i + run] for j in range(len(other))):
                inside[i : i + run] = [True] * run
    share = sum(inside) / len(words) if words else 0
    return share >= contamination.SHARE or any(key(text) == key(other) for other in test)


PIECES = st.sampled_from(
    [
        *"ab-+3.'=_\n\0\u00df\u0661\u00bd\u65e5\u0130\ud800",
        "  ",
        "[asy]",
        "[/asy]",
        "x\u00b2",
        "SS",
        "a-b",
        "a-3",
        " two ",
        " 7 ",
    ]
)
TEXTS = st.lists(st.lists(PIECES, max_size=30).map("".join), max_size=6)


@settings(max_examples=volume(300))
@given(train=TEXTS, test=TEXTS, run=st.integers(1, 4), characters=st.sampled_from([1, 20, 1 << 20]))
def test_against_a_twin(train: list[str], test: list[str], run: int, characters: int) -> None:
    for text in test:  # nearly the same
        train += [text[1:], text.upper(), text.replace("-", " "), " ".join(text.split()[::-1])]

    def made(texts: list[str], split: str) -> list[Question]:
        return [Question(f"{split}-{i}", text, "") for i, text in enumerate(texts)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contamination, "RUN", run)
        patch.setattr(contamination, "CHARACTERS", characters)
        found = contamination.contaminated(made(train, "train"), made(test, "test"))
        assert found == [f"train-{i}" for i, text in enumerate(train) if copied(text, test, run)]


def test_only_ten_ids_are_shown(tmp_path: Path, caplog: Any) -> None:
    texts = [f"q{i}" for i in range(12)]
    task = load_pair(tmp_path, [*texts, *(f"other {i}" for i in range(50))], texts)
    assert len(task.report["contaminated"]) == 12
    assert caplog.records[0].getMessage().endswith("train-8, train-9 and 2 more")


def test_a_saved_run_keeps_its_choice(tmp_path: Path) -> None:
    """Evaluating again lets training questions be asked, but changes no setting of the run."""
    (tmp_path / "config.yaml").write_text(dump(config(*FEW)))
    assert saved_config(Config, {"run": tmp_path}, EVALUATION_SETTINGS).task.decontaminate


def test_only_the_first_process_warns(
    tmp_path: Path, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert load_pair(tmp_path, [*DAYS, "q"], ["q"]).report and not caplog.records
