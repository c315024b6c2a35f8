"""evaluation.jsonl: what every output of an evaluation answered, a held-out question per line.

    {"id": "test-0", "text": "12+34", "gold": "46",
     "answers": [0, 1, -1], "right": [1, 0, 0], "voted": {"SA": 0, "MALT": -1}}

answers and right: by slot of the evaluation's shape. Equal answers to a question have equal
numbers, -1 is none. voted: by system the slot whose answer it gave, -1 where no pass states one.
The slots of a system are its `passes` in evaluation.json.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from malt_fast.config.schema import Config
from malt_fast.evaluation.design import EvaluationDesign
from malt_fast.evaluation.judge import Judged
from malt_fast.evaluation.scores import tie_seed, voted
from malt_fast.utils.files import content_checksum, write_bytes

OUTPUTS = "evaluation.jsonl"


@dataclass(frozen=True, slots=True)
class Outputs:
    """A line of the file."""

    id: str
    text: str
    gold: str
    answers: list[int]
    right: list[int]
    voted: dict[str, int]


def write_outputs(path: Path, judged: Judged, design: EvaluationDesign, config: Config) -> str:
    """Write the file; returns its checksum."""
    questions, seed = design.questions, tie_seed(config)
    votes = {
        name: voted(judged, used, questions, seed).tolist()
        for name, (_, used) in design.systems.items()
    }
    answers, right = judged.answers.tolist(), judged.right.astype(np.int64).tolist()
    out = bytearray()
    for q, one in enumerate(questions):
        own = {name: slots[q] for name, slots in votes.items()}
        line = Outputs(one.id, one.text, one.gold, answers[q], right[q], own)
        out += json.dumps(asdict(line)).encode() + b"\n"
    write_bytes(path, out)
    return content_checksum(out)


def read_outputs(path: Path, checksum: str) -> list[Outputs]:
    """The lines. Raises OSError, and ValueError for a file with another checksum."""
    data = path.read_bytes()
    if content_checksum(data) != checksum:
        raise ValueError(f"{path} is not the file that the evaluation wrote")
    return [Outputs(**json.loads(line)) for line in data.splitlines()]
