"""How the data of the viewers lies in the page: gzipped JSON in base64, opened when it is needed.

Each piece is a <script> of its own, which a browser does not run; viewer.js opens it by its id.
"""

import base64
import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from malt_fast import _core
from malt_fast._core.forest import DONE, FAILED, FINISH_LENGTH
from malt_fast.config.schema import Config
from malt_fast.grading.custom import is_custom
from malt_fast.results.opened_run import Array
from malt_fast.results.templates import trusted
from malt_fast.tasks.evaluation_prompts import EvaluationPrompts
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.task import Task

CHUNK = 50  # questions: few enough to open while a reader waits
MOST = 20_000  # questions that a viewer shows


@dataclass(frozen=True)
class ViewerData:
    """What a viewer reads."""

    meta: Any  # small, and read at once
    chunks: Iterator[tuple[str, Markup]]  # (id, content) of the scripts, made one at a time


def packed(value: Any) -> Markup:
    raw = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    data = gzip.compress(raw.encode("utf-8", "backslashreplace"), 6, mtime=0)
    return trusted(base64.b64encode(data).decode())


def extracted(config: Config, task: Task, texts: list[str], asked: str) -> Sequence[str | None]:
    """The answer that the grader finds in each text; a custom grader gives verdicts alone."""
    if is_custom(task.grader):
        return [None] * len(texts)
    questions = [asked] * len(texts)
    return _core.answers.extract_answers(task.grader, texts, config.task.strict, questions)


def states(state: Array, finish: Array) -> list[str]:
    """`failed`, `cut` (by max_tokens), `open` (not sampled) or nothing for each output."""
    done = np.where(finish == FINISH_LENGTH, "cut", "")
    return np.select([state == FAILED, state == DONE], ["failed", done], "open").tolist()


def prompt_parts(prompts: Prompts | EvaluationPrompts, number: int) -> list[list[str]]:
    """[fixed text, what stands behind it] of a prompt: `question`, a role, or nothing."""
    return [[text, source] for text, _, source in prompts.parts(number)]


def numbers(values: Any) -> list[float | None]:
    return [None if np.isnan(value) else round(value, 4) for value in values.tolist()]
