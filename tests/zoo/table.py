"""Runs every check on every checkpoint of the zoo and writes docs/zoo.md.

python -m tests.zoo.table
"""

import io
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path

from malt_fast.utils.errors import MaltError
from tests.charts import save_blank, saving_by
from tests.zoo.animal import Animal
from tests.zoo.checks import CHECKS
from tests.zoo.entries import ZOO, Entry
from tests.zoo.expected import BROKEN, found

PAGE = Path(__file__).resolve().parents[2] / "docs" / "zoo.md"
HEAD = """\
# Kinds of checkpoints

Each kind of model, tokenizer and chat template below is built as a tiny random checkpoint and put
through the whole method ([which models](models.md) says what holds for a kind). What is refused
ends in one sentence, before time is spent on it; the numbers are those below the table.
`python -m tests.zoo.table` makes this page.

- **end of turn**: where the checkpoint names it: as the tokenizer's eos, among its added tokens
  only, or in a list in `config.json` or `generation_config.json`
- **prompts**: the prompts of all roles of gsm8k and csqa are the tokens of the whole text, and
  nothing in a question becomes a control token
- **end tokens**: all of those that the checkpoint names end an output
- **stops**: outputs stop at each of them
- **greedy**: greedy outputs are those of transformers' `generate`, alone and beside others
- **DPO at ln 2**: the first loss of DPO
- **log-probs**: equal in engine, trainer (packs and rows) and PEFT, for the base and for adapters
- **serve**: `serve` answers with every role, and the same for the same seed
- **export**: exported adapters and merged checkpoints give the same logits in PEFT and transformers

"""
FIELDS = ("checkpoint", "model", "tokenizer", "template", "end of turn")


def outcome(check: str, animal: Animal) -> str:
    """right, `refused: SENTENCE` or `wrong: REASON`."""
    call: Callable[[Animal], None] = CHECKS[check]
    try:
        with redirect_stdout(io.StringIO()):
            call(animal)
    except MaltError as error:
        return "refused: " + re.sub(rf"{animal.folder}/\w+", "CHECKPOINT", str(error))
    except Exception as error:  # a check may find anything
        say = f"{animal.entry.name}, {check}: {type(error).__name__}: {error}"
        print(say, file=sys.stderr)
        return f"wrong: {found(BROKEN, animal.entry, check) or 'unknown'}"
    return "right"


def page(outcomes: Mapping[Entry, Mapping[str, str]]) -> str:
    """The page: one row a checkpoint, and below them every sentence once."""
    numbers: dict[str, int] = {}
    columns = [*FIELDS, *CHECKS]
    lines = [line(columns), line(["---"] * len(columns))]
    for entry, row in outcomes.items():
        cells = [entry.name, entry.family, entry.tokenizer, entry.template, entry.ends]
        for what in row.values():
            word, _, sentence = what.partition(": ")
            if sentence:
                word += f" ({numbers.setdefault(sentence, len(numbers) + 1)})"
            cells.append(word)
        lines.append(line(cells))
    notes = [f"{number}. {sentence}" for sentence, number in numbers.items()]
    return HEAD + "\n".join([*lines, "", *notes]) + "\n"


def line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def rows_of(text: str) -> dict[str, list[str]]:
    """The rows of the page's table by checkpoint: kinds, then outcomes."""
    rows = [row.strip("| ").split(" | ") for row in text.splitlines() if row.startswith("| ")]
    return {name: cells for name, *cells in rows[2:]}


def main() -> None:
    outcomes: dict[Entry, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder, saving_by(save_blank):
        for entry in ZOO:
            animal = Animal(entry, Path(folder, entry.name))
            outcomes[entry] = {check: outcome(check, animal) for check in CHECKS}
    PAGE.write_text(page(outcomes))


if __name__ == "__main__":
    main()
