"""A whole run in a second or two, on a tiny model that sometimes answers correctly."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from malt_fast import train
from malt_fast._core.forest import Forest
from malt_fast.forest.file import forest_of, read_forest, save_forest
from malt_fast.store.store import open_store
from malt_fast.utils.files import content_checksum
from tests.tiny import tiny_llama

FAST = [
    *("--sampling.temperature", "1", "--sampling.max_tokens", "1", "--model.dtype", "float32"),
    *("--train.sft.max_steps", "2", "--train.dpo.max_steps", "2", "--lora.r", "4"),
    *("--train.sft.learning_rate", "0.01", "--train.dpo.learning_rate", "0.01"),
    *("--evaluate.bootstrap", "200", "--report_to", "[]"),
    *("--tree.branching", "3,2,2"),
]


def write_model(folder: Path) -> Path:
    """A random model that mostly says 1 or 2."""
    likes = {"1": 12.0, "2": 12.0, "</s>": 9.0}
    return tiny_llama(folder, chat_template=True, layers=1, likes=likes)


def write_questions(file: Path) -> Path:
    """Questions whose answer is 1 or 2."""
    rows = [{"question": f"one or two? ({i})", "answer": str(1 + i % 2)} for i in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def load_forest(folder: Path, name: str = "round-0/forest.arrows") -> Forest:
    """A forest of a run."""
    store = open_store(folder / "samples", writable=False)
    file = read_forest(folder / name, store)
    assert file is not None
    forest = forest_of(file, store)
    assert forest is not None
    return forest


def content(folder: Path, name: str = "round-0/forest.arrows") -> bytes:
    """The content of a run's forest, independent of where its store keeps the outputs."""
    forest = load_forest(folder, name)
    names = ("parent", "first_child", "n_children", "level", "state", "finish", "outcome")
    tokens = [forest.tokens_of(node) for node in range(len(forest))]
    columns = [getattr(forest, name) for name in (*names, "token_len")]
    return b"".join(column.tobytes() for column in [*columns, *tokens])


def run(data: Path, model: Path, folder: Path, *options: str) -> int:
    """Trains and evaluates in `folder`; returns the exit status."""
    task = ["--task.name", "jsonl", "--task.path", str(data), "--task.grader", "number"]
    base = ["--model.name_or_path", str(model), "--run", str(folder)]
    return train.main([*task, *base, *FAST, *options])


def replace_questions(run: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Give a finished run other questions, for which its forests are said to be made."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "questions.jsonl").write_text(text)
    store = open_store(run / "samples", writable=False)
    for path in run.glob("round-*/*.arrows"):
        file = read_forest(path, store)
        assert file is not None
        forest = forest_of(file, store)
        assert forest is not None
        asked = content_checksum(text.encode())
        made_from = file.fingerprint, file.grading, file.parents, file.rows, asked
        save_forest(path, forest, store, *made_from)
