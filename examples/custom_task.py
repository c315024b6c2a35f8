"""Your own task: questions with answers, a prompt for every role, and a grader.

Rows may come from a list, a csv.DictReader or a datasets.Dataset. On the command line, use
`--task.name jsonl --task.path FILE.jsonl --task.prompts FILE.yaml --task.grader number`.
"""

import random
import sys

import malt_fast.api as mf

PROMPTS = {  # {question} and earlier roles; the bundled model knows no other words
    "generator": "{question}\nDraft:",
    "verifier": "{question}\nDraft:{generator}\nCheck:",
    "refiner": "{question}\nDraft:{generator}\nCheck:{verifier}\nFinal:",
}
MODEL = {"model.name_or_path": "bundled", "sampling.temperature": 1, "sampling.max_tokens": 16}


def rows(n: int, seed: int) -> list[dict[str, str]]:
    """Sums that only go up: 12+14+11+13+10+12."""
    rng = random.Random(seed)
    sums = [[rng.randint(10, 15) for _ in range(6)] for _ in range(n)]
    return [{"question": "+".join(map(str, terms)), "answer": str(sum(terms))} for terms in sums]


def main(limit: int = 100) -> None:
    task = mf.make_task("sums", rows(limit, 0), rows(limit, 1), PROMPTS, "number", chat=False)
    setup = mf.prepare(task, MODEL)
    forest = mf.expand(setup)
    print(forest.grade())
    print(forest.show(0, mf.credit(forest)))
    print(mf.evaluate(setup))  # no role is trained yet: the base model's accuracy


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
