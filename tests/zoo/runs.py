"""A whole tiny run on a checkpoint of the zoo: sampled, trained, evaluated."""

from pathlib import Path

import yaml

from malt_fast import method, train
from malt_fast.config.command import read_command
from malt_fast.config.load import plain_config
from malt_fast.config.schema import Config
from tests.zoo.corpus import write_short
from tests.zoo.entries import Entry
from tests.zoo.templates import TEMPLATES

CHAIN = ["generator", "verifier", "refiner"]
ASK = "Question:\n{question}\n\n"
WORDING = {
    "generator": {"system": "You solve problems.", "user": f"{ASK}Solve it."},
    "verifier": {"system": "You verify.", "user": f"{ASK}Answer:\n{{generator}}\n\nIs it right?"},
    "refiner": {
        "system": "You refine.",
        "user": f"{ASK}Answer:\n{{generator}}\n\nVerification:\n{{verifier}}\n\nRefine it.",
    },
}
TINY = [
    *("--task.name", "jsonl", "--task.grader", "tests.zoo.grader:toss", "--task.limit", "6"),
    *("--task.test_limit", "2", "--evaluate.bootstrap", "100", "--evaluate.votes", "1"),
    *("--sampling.temperature", "2", "--sampling.max_tokens", "6", "--tree.branching", "3,2,2"),
    *("--lora.r", "4", "--train.sft.max_steps", "2", "--train.dpo.max_steps", "2"),
    *("--train.sft.learning_rate", "0.01", "--train.dpo.learning_rate", "0.01"),
    *("--model.dtype", "float32", "--model.device", "cpu", "--engine.name", "hf"),
]


def tiny_config(entry: Entry, checkpoint: Path, folder: Path) -> Config:
    """Settings of a run in `folder`, whose questions and prompts are written beside it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    questions = write_short(folder.with_suffix(".jsonl"))
    prompts = folder.with_suffix(".yaml")
    chat = bool(TEMPLATES[entry.template].jinja)
    prompts.write_text(yaml.safe_dump({"chat": chat, "prompts": WORDING}))
    own = ["--task.path", str(questions), "--task.prompts", str(prompts)]
    argv = [*own, "--model.name_or_path", str(checkpoint), "--run", str(folder), *TINY]
    return plain_config(read_command(train.PROGRAM, argv))


def tiny_run(entry: Entry, checkpoint: Path, folder: Path) -> Path:
    """The folder of a finished run. Raises MaltError as training does."""
    method.train(tiny_config(entry, checkpoint, folder))
    return folder
