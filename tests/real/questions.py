"""Questions that a model of 135 million parameters sometimes answers, in the tasks' formats."""

import json
from pathlib import Path
from typing import Any

SUMS = [(2, 1, "Tom"), (3, 2, "Ann"), (4, 1, "Ben"), (5, 2, "Eva"), (7, 8, "Sam"), (6, 3, "Mia")]
THINGS = {
    "Where do you keep milk cold?": "fridge",
    "What do you use to cut paper?": "scissors",
    "Where do fish live?": "water",
    "What do you wear on your feet?": "shoes",
    "Where do you sleep at night?": "bed",
    "What do birds use to fly?": "wings",
    "What do you read?": "book",
    "What do you drive on a road?": "car",
}
CAPITALS = (
    "France Spain Italy Germany Japan Egypt Greece Norway Poland Austria Portugal Sweden Denmark "
    "Finland Ireland Hungary Russia China India Cuba Peru Chile Canada Kenya Turkey"
)
OPPOSITES = (
    "hot big fast light happy new open early hard wet full strong loud rich near high long clean "
    "young safe thick sweet deep wide first"
)
SUBJECTS = (
    "cats dogs rain snow bread music chess trees birds boats trains maps stars clocks bees horses "
    "rivers paper glass salt tea coffee wool bridges gardens"
)


def short_questions() -> list[str]:
    """100 of them, of four kinds."""
    return [
        *(f"What is {3 * i + 2} + {7 * i % 19}?" for i in range(25)),
        *(f"What is the capital of {country}?" for country in CAPITALS.split()),
        *(f"What is the opposite of '{word}'?" for word in OPPOSITES.split()),
        *(f"Write one sentence about {subject}." for subject in SUBJECTS.split()),
    ]


def gsm8k_rows() -> list[dict[str, Any]]:
    return [
        {
            "question": f"{name} has {a} apples and gets {b} more. How many has {name} now?",
            "answer": f"{a} + {b} = {a + b}\n#### {a + b}",
        }
        for a, b, name in SUMS
    ]


def math_rows() -> list[dict[str, Any]]:
    return [
        {"problem": f"What is ${a} + {b}$?", "solution": f"It is $\\boxed{{{a + b}}}$."}
        for a, b, _ in SUMS
    ]


def csqa_rows() -> list[dict[str, Any]]:
    words, rows = list(THINGS.values()), []
    for i, (stem, right) in enumerate(THINGS.items()):
        said = [word for word in words if word != right][:4]
        said.insert(3 + i % 2, right)  # small models say the last letters more often
        choices = [
            {"label": label, "text": text} for label, text in zip("ABCDE", said, strict=True)
        ]
        key = "ABCDE"[said.index(right)]
        rows.append({"answerKey": key, "question": {"stem": stem, "choices": choices}})
    return rows


ROWS = {"gsm8k": gsm8k_rows, "math": math_rows, "csqa": csqa_rows}


def write_rows(task: str, folder: Path) -> Path:
    """The questions of a task as a JSONL file in `folder`."""
    file = folder / f"{task}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS[task]()))
    return file
