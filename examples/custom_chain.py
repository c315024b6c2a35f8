"""Your own chains: two roles, and four.

A chain is a list of role names. Each role's prompt contains {question} and the names of the earlier
roles that it reads. `tree.branching` has one number per role; the last role's output is graded.
"""

import sys

import malt_fast.api as mf

# The bundled model knows no other words, so the prompts of new roles contain a positive check.
MODEL = {"model.name_or_path": "bundled", "sampling.temperature": 1, "sampling.max_tokens": 16}
TWO = {
    "generator": "{question}\nDraft:",
    "reviser": "{question}\nDraft:{generator}\nCheck: ok ok ok ok ok\nFinal:",
}
FOUR = {
    "generator": "{question}\nDraft:",
    "verifier": "{question}\nDraft:{generator}\nCheck:",
    "refiner": "{question}\nDraft:{generator}\nCheck:{verifier}\nFinal:",
    "finisher": "{question}\nDraft:{refiner}\nCheck: ok ok ok ok ok\nFinal:",
}


def main(limit: int = 100) -> None:
    source = mf.prepare("arithmetic", {"task.limit": limit, "task.test_limit": limit}).task
    train, test = (
        [{"question": q.text, "answer": q.gold} for q in split]
        for split in (source.train, source.test)
    )
    for prompts in (TWO, FOUR):
        task = mf.make_task("arithmetic", train, test, prompts, "number", chat=False)
        branching = [2] * len(prompts)
        setup = mf.prepare(task, {**MODEL, "chain": list(prompts), "tree.branching": branching})
        forest = mf.expand(setup)
        forest.grade()
        values = mf.credit(forest)
        print(forest)
        for role in prompts:
            print(" ", mf.preferences(forest, values, role))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
