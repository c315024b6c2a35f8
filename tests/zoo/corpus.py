"""The text that the zoo's tokenizers are trained on, and the questions that its checks ask."""

import json
from pathlib import Path

from tests.questions import choices, write_lines

CORPUS = """\
You are a careful tutor who solves problems step by step. Answer the question below.

Question: A farmer has 24 cows and buys 12 more. He sells 8 of them for $35 each. How much money \
does he get, and how many cows are left?

Step 1: Key information - there are 24 cows at first, 12 are bought, 8 are sold at $35 each.
Step 2: Plan - add what is bought, subtract what is sold, and multiply the price.
Step 3: Execute - 24 + 12 = 36, 36 - 8 = 28, and 8 * 35 = 280.

Final Answer: 280

Initial Answer: The answer is 28. I don't think that it's wrong, but we'll check it again.

Verification: The quantities were understood, but the answer isn't the number that was asked for.
Feedback: State the money instead: 8 * 35 = 280.

Refined Solution: He gets 8 * 35 = 280 dollars.

Final Answer: 280

Question: Where would you put a plate after you have washed it?
A: cupboard
B: restaurant
C: the table
D: dish washer
E: shelf

The initial answer may be wrong, and so may the verification: judge both. Write two headings:

1. What was asked?
2. What is the right choice, and why?

Final Answer: A

Anna's train leaves at 7:45 and needs 1,250 minutes (20.8 hours)... She says: "That's too long!"
It costs 3/4 of 1000 euros; there are 365 days in a year, 52 weeks, and 12 months.

    def total(price, count):
        return price * count  # a line of code
"""

LONG = "Twelve bakers make 345 loaves a day."
NUMBERS = [
    f"{LONG} How many loaves do they make in 6 days?",
    "Lea has $1,234.50; she spends 25% on books\nand 1/4 of the rest on tea. What is left",
    "A caf\u00e9 sells 3\u00d74 na\u00efve cakes \U0001f370 at \u20ac2.  How much?\n\nIt's 7",
    "The price is 12.",
]
CHOICES = [
    choices("Where is a door?", "A", "c1", "bank", "library", "department store", "mall", "york"),
    choices("What do people do", "B", "c2", "sleep well", "eat.", "10 things", "run!", "sing"),
]

OUTPUTS = {
    "letter": "The farmer sells 8 cows, so the right choice is the bank",
    "digit": "Step 1: 24 + 12 = 36\nStep 2: 8 * 35 = 280\n\nFinal Answer: 280",
    "punctuation": "I think that it's wrong.\n\nFeedback: the answer isn't 28, it's 280.",
}


def write_gsm8k(folder: Path) -> str:
    """The questions with numbers as a train.jsonl of GSM8K."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"question": text, "answer": f"So it is.\n#### {i}"} for i, text in enumerate(NUMBERS)]
    return write_lines(folder / "train.jsonl", rows)


def write_csqa(folder: Path) -> str:
    """The questions with choices as a train_rand_split.jsonl of CommonsenseQA."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_lines(folder / "train_rand_split.jsonl", list(CHOICES))


def write_short(file: Path, count: int = 8) -> Path:
    """Questions for tiny runs."""
    rows = [{"question": f"What is {i} + {i * 3}?", "answer": str(i * 4)} for i in range(count)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
