"""Graders of one's own: side by side, again after failures, bounded in time, and kept on disk."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malt_fast.grading import calls
from malt_fast.grading.calls import Limits, called
from malt_fast.grading.custom import CustomGrader, code_of, load_custom
from malt_fast.grading.verdicts import FAILED, RIGHT, WRONG, grade_outputs
from malt_fast.utils import interrupt
from malt_fast.utils.errors import MaltError

ASKED: Counter[str] = Counter()  # by output
BARRIER = threading.Barrier(4)
OPEN = threading.Event()  # what hanging calls wait for
VALUES: list[Any] = []


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(calls, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(calls, "LOOK", 0.01)
    ASKED.clear()
    OPEN.clear()
    yield
    OPEN.set()


def plain(text: str, row: Mapping[str, Any]) -> float:
    ASKED[text] += 1
    return int(text) % 7 / 6


def slow(text: str, row: Mapping[str, Any]) -> float:
    time.sleep(random.random() / 500)
    return plain(text, row)


def unsteady(text: str, row: Mapping[str, Any]) -> float:
    """Fails the first time, on a tenth of the outputs."""
    score = plain(text, row)
    if int(text) % 10 == 3 and ASKED[text] == 1:
        raise ConnectionError("no route\nto the judge")
    return score


def broken(text: str, row: Mapping[str, Any]) -> float:
    score = plain(text, row)
    if int(text) % 10 == 3:
        raise SystemExit(f"it broke on {text}")
    return score


def hanging(text: str, row: Mapping[str, Any]) -> float:
    if int(text) % 10 == 3:
        OPEN.wait()
    return plain(text, row)


def together(text: str, row: Mapping[str, Any]) -> float:
    BARRIER.wait(timeout=30)  # fails unless four calls are made at once
    return 1.0


def useless(text: str, row: Mapping[str, Any]) -> float:
    ASKED[text] += 1
    raise ValueError("no key")


def odd(text: str, row: Mapping[str, Any]) -> float:
    return VALUES[0]  # type: ignore[no-any-return]


def grader(function: str, *limits: float, kept: Path | None = None) -> CustomGrader:
    return CustomGrader(f"{__name__}:{function}", Limits(*limits), kept)  # type: ignore[arg-type]


TEXTS = [str(i) for i in range(100)]
ROWS = [{"question": "q"}] * 100
SCORES = [i % 7 / 6 for i in range(100)]


@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize("function", ["plain", "slow", "unsteady"])
def test_scores_depend_neither_on_order_nor_on_failures(function: str, workers: int) -> None:
    one = grader(function, workers)
    assert one.scores(TEXTS, ROWS).tolist() == SCORES
    assert one.figures() == {"judged": 100, "failed": 0}


def test_calls_are_made_side_by_side() -> None:
    assert grader("together", 4, 0).scores(TEXTS, ROWS).tolist() == [1.0] * 100


@pytest.mark.parametrize("workers", [1, 8])
def test_a_failing_call_costs_its_output(workers: int) -> None:
    one = grader("broken", workers, 2)
    scores = one.scores(TEXTS, ROWS)
    assert [s for s in scores.tolist() if s == s] == [
        s for i, s in enumerate(SCORES) if i % 10 != 3
    ]
    assert np.flatnonzero(np.isnan(scores)).tolist() == list(range(3, 100, 10))
    first = {"first_failure": "it broke on 3"}
    assert one.figures() == {"judged": 100, "failed": 10} | first
    assert ASKED["3"] == 3 and ASKED["4"] == 1
    verdicts = grade_outputs(one.grader, TEXTS[:8], [""] * 8, ROWS[:8], 0.5, custom=one)
    assert verdicts.tolist() == [0, 0, 0, FAILED, RIGHT, RIGHT, RIGHT, WRONG]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_call_that_hangs_costs_its_output(workers: int) -> None:
    """Its thread is replaced, though it never ends; what it says later does not count."""
    before = threading.active_count()
    one = grader("hanging", workers, 1, 0.05)
    scores = one.scores(TEXTS, ROWS)
    assert np.flatnonzero(np.isnan(scores)).tolist() == list(range(3, 100, 10))
    assert one.figures()["first_failure"] == "it took more than 0.05 s"
    OPEN.set()
    for thread in threading.enumerate():
        if isinstance(thread, calls.Worker):
            thread.join(30)
    assert threading.active_count() <= before


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *((None, "None"), ("1", "'1'"), (b"1", "b'1'"), ([0.5, 1.0], r"\[0.5, 1.0\]")),
        *((np.array([0.5, 1.0]), r"array\(\[0.5, 1. \]\)"), (float("nan"), "nan"), (1.5, "1.5")),
        *((-0.1, "-0.1"), ({"score": 1}, "{'score': 1}"), (1 + 0j, r"\(1\+0j\)")),
    ],
)
def test_what_is_no_score_is_one_sentence(value: Any, shown: str) -> None:
    VALUES[:] = [value]
    said = f"odd' gave {shown} for output 0: it must return a number from 0 to 1$"
    with pytest.raises(MaltError, match=said) as caught:
        grader("odd").scores(["x"], [{}])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [1, 0.5, True, np.float32(0.25), np.int64(1), np.bool_(False)])
def test_numbers_of_any_type_are_scores(value: Any) -> None:
    VALUES[:] = [value]
    assert grader("odd").scores(["x"], [{}]).tolist() == [float(value)]


def test_a_grader_that_fails_on_all_is_told_soon() -> None:
    with pytest.raises(MaltError, match=r"failed on all of the first 20 outputs \(no key\): "):
        grader("useless", 2, 1).scores(TEXTS, ROWS)
    assert ASKED.total() < 200 + 2 * calls.AHEAD


def test_graders_that_cannot_be_loaded() -> None:
    for wrong in ("nowhere:f", f"{__name__}:missing", f"{__name__}:ROWS", "tests:"):
        with pytest.raises(MaltError, match="grader"):
            load_custom(wrong)


def test_a_stop_is_heard_while_calls_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "_asked", True)
    with pytest.raises(KeyboardInterrupt):
        list(called(lambda i: OPEN.wait(), [(i,) for i in range(9)], Limits(2, 0, 60)))


# ---- kept on disk ----


def test_the_same_output_is_judged_once() -> None:
    rows = [{"question": "a"}, {"question": "b"}]
    assert grader("plain", 2).scores(["1", "1", "1"], [rows[0], rows[1], rows[0]]).shape == (3,)
    assert ASKED == {"1": 2}


def test_kept_scores_are_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "scores.txt"
    grader("broken", 4, 0, kept=kept).scores(TEXTS[:50], ROWS[:50])
    ASKED.clear()
    one = grader("broken", 4, 0, kept=kept)
    scores = one.scores(TEXTS, ROWS)
    again = {str(i) for i in range(100) if i >= 50 or i % 10 == 3}  # what failed is asked again
    assert ASKED.keys() == again and one.asked == len(again)
    assert [s for s in scores.tolist() if s == s] == [
        s for i, s in enumerate(SCORES) if i % 10 != 3
    ]
    assert one.seconds > 0
    ASKED.clear()
    monkeypatch.setattr(broken, "identity", "another judge", raising=False)
    grader("broken", 4, 0, kept=kept).scores(TEXTS, ROWS)
    assert len(ASKED) == 100


def test_damaged_lines_are_judged_again(tmp_path: Path) -> None:
    kept = tmp_path / "scores.txt"
    grader("plain", kept=kept).scores(TEXTS[:4], ROWS[:4])
    lines = kept.read_bytes().splitlines(keepends=True)
    key, _, *rest = lines[0].split(b" ")
    lines[0] = b" ".join([key, b"1.0", *rest])  # another score
    kept.write_bytes(b"".join([*lines[:3], b"\xff\n\n", lines[3][:-9]]))  # and a torn end
    for judged in (["0", "3"], []):
        ASKED.clear()
        assert grader("plain", kept=kept).scores(TEXTS[:4], ROWS[:4]).tolist() == SCORES[:4]
        assert sorted(ASKED) == judged


def test_what_was_judged_before_an_error_is_kept(tmp_path: Path) -> None:
    kept = tmp_path / "scores.txt"
    one = grader("plain", kept=kept)

    def stop(outputs: int) -> None:
        if outputs and len(one.kept.scores) == 10:
            raise KeyboardInterrupt

    one.on_scored = stop
    with pytest.raises(KeyboardInterrupt):
        one.scores(TEXTS, ROWS)
    time.sleep(0)
    ASKED.clear()
    again = grader("plain", kept=kept)
    assert again.scores(TEXTS, ROWS).tolist() == SCORES
    assert again.asked == 90


def test_many_failures_do_not_keep_a_run_from_resuming(tmp_path: Path) -> None:
    """Failures have no line on disk, so they come first when the outputs are asked for again."""
    texts, rows = [str(i) for i in range(400)], [{"question": "q"}] * 400
    kept = tmp_path / "scores.txt"
    grader("broken", 1, 0, kept=kept).scores(texts, rows)
    again = grader("broken", 1, 0, kept=kept)
    assert np.isnan(again.scores(texts, rows)).sum() == again.asked == 40
    assert np.isnan(again.scores(texts, rows)).sum() == again.asked == 40  # not asked a third time
    assert again.figures()["failed"] == 80  # outputs of both calls


def test_a_grader_that_died_is_told_in_a_resumed_run_too(tmp_path: Path) -> None:
    kept = tmp_path / "scores.txt"
    grader("plain", kept=kept).scores(TEXTS[:30], ROWS[:30])
    dead = grader("plain", 1, 0, kept=kept)
    dead.function = useless
    with pytest.raises(MaltError, match=r"failed on all of the first 30 outputs \(no key\): "):
        dead.scores(TEXTS, ROWS)


def test_installed_packages_are_no_part_of_a_grader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update of a package beside the grader must not have every output judged again."""
    packages = tmp_path / ".venv" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "bought_in.py").write_text("def judge(): pass\n")
    (tmp_path / "own_helper.py").write_text("def near(): pass\n")
    (tmp_path / "own_grader.py").write_text(
        "import bought_in, own_helper\ndef score(text, row): return 1.0\n"
    )
    for folder in (packages, tmp_path):
        monkeypatch.syspath_prepend(folder)
    code = code_of("own_grader:score")
    assert "def near" in code and "def judge" not in code
