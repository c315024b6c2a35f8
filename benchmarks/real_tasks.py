"""Small tasks for a small real model: questions, golds and short wordings (bench_real_gains.py).

stories     word problems of one step; held-out ones come from templates of their own
sums        sums of two numbers up to 30; no held-out sum is among the training questions
choices     CommonsenseQA, from its own files
problems    GSM8K, from its own files; the generator begins with 200 of its solutions

Development questions, on which settings may be chosen, are of the same kind as the training
questions, and neither among those nor held out.

The model can hardly judge or mend an answer, so on the first two it begins with demonstrations of
all roles (`--train.warm_start`): one calculation, whether the draft has the same result, and the
calculation again. Half of the drafts shown are wrong.
"""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

Row = dict[str, Any]

NAMES = ("Mia", "Ken", "Zoe", "Raj", "Anna", "Tom", "Lily", "Omar", "Eva", "Noah", "Sara", "Leo")
THINGS = ("apples", "pens", "coins", "books", "shells", "stickers", "cards", "stones", "balloons")
LEARNT = (  # {a} and {b} are numbers, a > b; the sign tells what to do with them
    ("+", "{n} has {a} {o} and gets {b} more. How many {o} does {n} have now?"),
    ("+", "{n} picked {a} {o} on Monday and {b} on Tuesday. How many {o} did {n} pick in all?"),
    ("+", "There are {a} {o} in a box. {n} puts {b} more in. How many {o} are in the box?"),
    ("+", "{n} found {a} {o} and {m} found {b}. How many {o} did they find together?"),
    ("+", "{n} bought {a} {o} and then {b} more. How many {o} did {n} buy?"),
    ("+", "A shelf holds {a} {o} and another holds {b}. How many {o} do both shelves hold?"),
    ("-", "{n} had {a} {o} and gave {b} of them to {m}. How many {o} does {n} still have?"),
    ("-", "There are {a} {o} on a table. {n} takes away {b}. How many {o} are left?"),
    ("-", "{n} lost {b} of {a} {o}. How many {o} are left?"),
    ("-", "{n} has {a} {o} and {m} has {b}. How many more {o} does {n} have than {m}?"),
    ("-", "{n} needs {a} {o} and has {b}. How many more {o} does {n} need?"),
    ("-", "A shop had {a} {o} and sold {b}. How many {o} does the shop have now?"),
)
HELD_OUT = (
    ("+", "{m} gave {n} {b} {o}. Before that {n} had {a}. How many {o} does {n} own today?"),
    ("+", "In a bag there are {a} old {o} and {b} new ones. How many {o} are in the bag?"),
    ("+", "{n} counts {a} {o} in the morning and {b} in the evening. What is the total?"),
    ("-", "Of the {a} {o} that {n} carried, {b} fell down. How many {o} did {n} keep?"),
    ("-", "{n} wants {a} {o} but {b} are missing. How many {o} are there?"),
    ("-", "{n} used {b} {o} out of a pack of {a}. How many {o} remain in the pack?"),
)


def stories(templates: tuple[tuple[str, str], ...], count: int, seed: str) -> list[Row]:
    """`count` different word problems."""
    rng, rows = random.Random(seed), dict[str, Row]()
    while len(rows) < count:
        sign, template = rng.choice(templates)
        b, a = sorted(rng.sample(range(2, 19), 2))
        (n, m), o = rng.sample(NAMES, 2), rng.choice(THINGS)
        text = template.format(a=a, b=b, n=n, m=m, o=o)
        answer = str(a + b if sign == "+" else a - b)
        rows[text] = {"question": text, "answer": answer, "left": f"{a} {sign} {b}"}
    return list(rows.values())


def all_sums() -> list[Row]:
    """Every sum of two numbers from 1 to 30, in random order."""
    pairs = [(a, b) for a in range(1, 31) for b in range(1, 31)]
    random.Random("sums").shuffle(pairs)
    return [
        {"question": f"What is {a} + {b}?", "answer": str(a + b), "left": f"{a} + {b}"}
        for a, b in pairs
    ]


def demonstrations(rows: list[Row]) -> list[Row]:
    """A draft, its verification and the refinement for every question."""
    rng, shown = random.Random("demonstrations"), list[Row]()
    for row in rows:
        right = int(row["answer"])
        drafted = rng.choice([right, right + rng.choice([-10, -2, -1, 1, 2, 10])])
        verdict = "right" if drafted == right else "wrong"
        shown.append(
            {
                "question": row["question"],
                "generator": f"{row['left']} = {drafted}.",
                "verifier": f"{row['left']} = {right}, so the answer is {verdict}.",
                "refiner": f"{row['left']} = {right}.",
            }
        )
    return shown


SHOWN = 90  # demonstrations
SOLUTIONS = 200  # of GSM8K that serve as demonstrations
CALCULATOR = re.compile("<<.*?>>")
HELD_OUT_SUMS = 500

NUMBER = {
    "generator": "{question}\nAnswer in one short sentence.",
    "verifier": (
        "{question}\n\nAn answer is:\n{generator}\n\nIs it right? Say so in one short sentence."
    ),
    "refiner": (
        "{question}\n\nAn answer is:\n{generator}\n\nA check of it says:\n{verifier}\n\n"
        "Give the final answer in one short sentence."
    ),
}
LETTER = {
    "generator": "{question}\nAnswer with the best choice.",
    "verifier": NUMBER["verifier"],
    "refiner": NUMBER["refiner"].replace("answer in one short sentence", "choice"),
}


def read_lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_lines(path: Path, rows: list[Row]) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


def write_prompts(path: Path, wording: dict[str, str]) -> str:
    prompts = {role: {"user": text} for role, text in wording.items()}
    path.write_text(yaml.safe_dump({"chat": True, "prompts": prompts}), encoding="utf-8")
    return str(path)


def from_rows(folder: Path, train: list[Row], test: list[Row], shown: list[Row]) -> list[str]:
    """The options of `malt_fast.train` for questions whose answer is a number."""
    return [
        *("--task.name", "jsonl", "--task.grader", "number", "--task.decontaminate", "false"),
        *("--task.path", write_lines(folder / "train.jsonl", train)),
        *("--task.test_path", write_lines(folder / "test.jsonl", test)),
        *("--task.prompts", write_prompts(folder / "prompts.yaml", NUMBER)),
        *("--train.warm_start", write_lines(folder / "shown.jsonl", demonstrations(shown))),
    ]


def story_task(folder: Path, train: int, test: int, development: bool) -> list[str]:
    learnt, shown = stories(LEARNT, train, "learnt"), stories(LEARNT, SHOWN, "shown")
    if development:
        return from_rows(folder, learnt, stories(LEARNT, test, "development"), shown)
    return from_rows(folder, learnt, stories(HELD_OUT, test, "held out"), shown)


def sum_task(folder: Path, train: int, test: int, development: bool) -> list[str]:
    rows = all_sums()
    rest, held_out = rows[train + SHOWN : -HELD_OUT_SUMS], rows[-HELD_OUT_SUMS:]
    asked = (rest if development else held_out)[:test]
    return from_rows(folder, rows[:train], asked, rows[train : train + SHOWN])


DATA = Path(__file__).parents[2] / "shared" / "data"


def choice_task(folder: Path, train: int, test: int, development: bool) -> list[str]:
    files = DATA / "csqa"
    rows = read_lines(files / "train_rand_split.jsonl")
    asked = rows[-test:] if development else read_lines(files / "dev_rand_split.jsonl")[:test]
    return [
        *("--task.name", "csqa", "--task.decontaminate", "false"),
        *("--task.path", write_lines(folder / "train.jsonl", rows[:train])),
        *("--task.test_path", write_lines(folder / "test.jsonl", asked)),
        *("--task.prompts", write_prompts(folder / "prompts.yaml", LETTER)),
    ]


def problem_task(folder: Path, train: int, test: int, development: bool) -> list[str]:
    files = DATA / "gsm8k"
    rows = read_lines(files / "train.jsonl")
    asked = rows[-test:] if development else read_lines(files / "test.jsonl")[:test]
    shown = []
    for row in rows[train : train + SOLUTIONS]:
        steps, answer = CALCULATOR.sub("", row["answer"]).split("\n#### ")
        text = f"{steps}\nThe answer is {answer}."
        shown.append({"question": row["question"], "generator": text})
    return [
        *("--task.name", "gsm8k", "--task.decontaminate", "false"),
        *("--task.path", write_lines(folder / "train.jsonl", rows[:train])),
        *("--task.test_path", write_lines(folder / "test.jsonl", asked)),
        *("--train.warm_start", write_lines(folder / "shown.jsonl", shown)),
    ]


TASKS: dict[str, Callable[[Path, int, int, bool], list[str]]] = {
    "stories": story_task,
    "sums": sum_task,
    "choices": choice_task,
    "problems": problem_task,
}
