"""Your own grader: a function of (completion, row) that returns a score from 0 to 1.

Here an answer that is off by ten scores 0.5, because only a carry was forgotten. An output is right
if its score is at least `task.min_score`. On the command line, use
`--task.grader custom_grader:close` with this folder on PYTHONPATH.
"""

import dataclasses
import re
import sys
from collections.abc import Mapping
from typing import Any

import malt_fast.api as mf


def close(completion: str, row: Mapping[str, Any]) -> float:
    numbers = re.findall(r"\d+", completion)
    miss = abs(int(numbers[-1]) - int(row["answer"])) if numbers else 100
    return {0: 1.0, 10: 0.5}.get(miss, 0.0)


def main(limit: int = 50) -> None:
    setup = mf.prepare("arithmetic", {"task.limit": limit, "task.test_limit": limit})
    forest = mf.expand(setup)
    forest.grade()
    print("by the task's own grader:", forest)

    rows = [{"question": q.text, "answer": q.gold} for q in setup.task.train]
    task = mf.make_task("sums", rows, [], setup.task.prompts, close, chat=False)
    again = dataclasses.replace(forest, setup=dataclasses.replace(setup, task=task))
    again.grade()
    print("half a point is enough:  ", again)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
