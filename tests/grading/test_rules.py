"""Cases written from the rules in docs/grading.md alone, without a look at the code: rules.jsonl.

Each line: task, whether the prediction is an answer or a whole completion, gold, expected 0 or 1,
and why. The grader was not fitted to them.
"""

import json
from pathlib import Path

import pytest

from malt_fast.grading import answers_equal, grade

CASES = [
    json.loads(line)
    for line in Path(__file__).with_name("rules.jsonl").read_text("utf-8").splitlines()
]
MOST = {0: 0.003, 1: 0.03}  # the share of wrong verdicts, by what is expected


def is_right(case: dict) -> bool:
    task, prediction, gold = (case[name] for name in ("task", "prediction", "gold"))
    if case["kind"] == "answer":
        return answers_equal(task, prediction, gold)
    return bool(grade(task, [prediction], [gold])[0])


@pytest.mark.parametrize("expected", MOST)
def test_few_verdicts_break_the_rules(expected):
    own = [case for case in CASES if case["expected"] == expected]
    wrong = [case for case in own if is_right(case) != bool(expected)]
    assert len(own) > 1000
    assert len(wrong) <= MOST[expected] * len(own), wrong
