"""The held-out questions with all that was said about them, as data for the page.

    meta    {systems, chain, prompts}: a system is {name, about, turns, passes}
    index   {id, question, gold, right}; right: by system a sign per question, 1, 0 or - (no answer)
    chunk   [question]; a question is {text, answer, same, right, state, tokens, voted, passed}

Lists of a question are by slot, as in evaluation.jsonl: `same` numbers equal answers, and `voted`
is, by system, the slot whose answer it gave. passed: as in trees.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from malt_fast._core.forest import Forest
from malt_fast.config.schema import Config
from malt_fast.evaluation.outputs import OUTPUTS, Outputs, read_outputs
from malt_fast.evaluation.result import EvaluationResult, SystemResult
from malt_fast.forest.file import forest_of, read_forest
from malt_fast.results.opened_run import open_prompts
from malt_fast.results.run_contents import RunContents
from malt_fast.results.systems import spelled_out
from malt_fast.results.viewer_data import (
    CHUNK,
    MOST,
    ViewerData,
    extracted,
    packed,
    prompt_parts,
    states,
)
from malt_fast.store.store import open_store
from malt_fast.tasks.evaluation_prompts import EvaluationPrompts
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.task import Task
from malt_fast.utils.errors import MaltError, Problems

OUTPUTS_SHOWN = 500_000  # of all questions together
AGAIN = "run `python -m malt_fast.evaluate --run {}`"


def transcript_data(
    folder: Path, run: RunContents, outputs: Sequence[Outputs], prompts: Prompts | None
) -> tuple[ViewerData | None, Problems]:
    """prompts: of the chain, if they were opened already; None without an evaluation."""
    if run.evaluation is None or not outputs:
        return None, []
    try:
        view = open_transcripts(folder, run, outputs, prompts)
    except MaltError as error:
        return None, [f"transcripts: {error}"]
    slots = len(outputs[0].answers)
    shown = min(len(outputs), MOST, max(CHUNK, OUTPUTS_SHOWN // max(1, slots)))
    hidden = [f"transcripts: only the first {shown:,} of {len(outputs):,} questions are shown"]
    view.outputs = outputs[:shown]
    return ViewerData(view.meta(), view.chunks()), hidden if shown < len(outputs) else []


def open_transcripts(
    folder: Path, run: RunContents, outputs: Sequence[Outputs], prompts: Prompts | None = None
) -> "Transcripts":
    """Raises MaltError where the evaluation, or what it needs, cannot be read."""
    config, task, result = run.config, run.task, run.evaluation
    if not (config and task and result and outputs):
        raise MaltError(f"the run has no evaluation that can be read: {AGAIN.format(folder)}")
    prompts = prompts or open_prompts(folder, config, task)
    return Transcripts(config, task, result, outputs, prompts, _open(folder, result, len(outputs)))


def read_answers(folder: Path, result: EvaluationResult | None) -> tuple[list[Outputs], Problems]:
    """What every output answered; empty where that cannot be read."""
    if result is None:
        return [], []
    try:
        return read_outputs(folder / OUTPUTS, result.outputs), []
    except (OSError, ValueError, TypeError):
        again = AGAIN.format(folder)
        return [], [f"transcripts: {OUTPUTS} is missing, damaged or of another evaluation: {again}"]


def _open(folder: Path, result: EvaluationResult, questions: int) -> Forest:
    """The outputs of the evaluation. Raises MaltError where they cannot be read."""
    again = AGAIN.format(folder)
    store = open_store(folder / "samples", writable=False)
    file = read_forest(folder / "evaluation.arrows", store)
    if file is None or file.fingerprint != result.sampled_from or file.trees != questions:
        raise MaltError(f"evaluation.arrows is missing, damaged or of another evaluation: {again}")
    forest = forest_of(file, store, graded=False)
    if forest is None:
        raise MaltError(f"some samples can no longer be read: {again}")
    return forest


class Transcripts:
    """An evaluation as the page shows it."""

    def __init__(
        self,
        config: Config,
        task: Task,
        result: EvaluationResult,
        outputs: Sequence[Outputs],
        prompts: Prompts,
        forest: Forest,
    ) -> None:
        self.config, self.task, self.systems = config, task, result.systems
        self.outputs, self.prompts, self.forest = outputs, prompts, forest
        extra = task.extra if result.suite == "paper" else {}
        self.all_prompts = EvaluationPrompts(prompts, extra)
        self.numbers = _numbers(result.systems, self.all_prompts.numbers)

    def meta(self) -> dict[str, Any]:
        numbers = self.all_prompts.numbers
        systems = [
            {
                "name": one.name,
                "about": spelled_out(one, self.config.chain)[1],
                "turns": one.turns,
                "passes": one.passes,
            }
            for one in self.systems
        ]
        return {
            "systems": systems,
            "chain": list(self.config.chain),
            "prompts": {name: prompt_parts(self.all_prompts, n) for name, n in numbers.items()},
            "questions": len(self.outputs),
            "chunk": CHUNK,
        }

    def prompt(self, turn: str, known: Mapping[str, str]) -> str:
        """The prompt of a turn as text. known: what was put into it, by its name."""
        parts = prompt_parts(self.all_prompts, self.all_prompts.numbers[turn])
        return "".join(
            text + (known.get(name, f"⟨{name}⟩") if name else "") for text, name in parts
        )

    def chunks(self) -> Iterator[tuple[str, Markup]]:
        for i, begin in enumerate(range(0, len(self.outputs), CHUNK)):
            end = min(begin + CHUNK, len(self.outputs))
            yield f"transcripts-{i}", packed([self.question(q) for q in range(begin, end)])
        yield "transcripts-index", packed(self.index())

    def index(self) -> dict[str, Any]:
        return {
            "id": [one.id for one in self.outputs],
            "question": [one.text for one in self.outputs],
            "gold": [one.gold for one in self.outputs],
            "right": [
                "".join(_sign(one, system.name) for one in self.outputs) for system in self.systems
            ],
        }

    def question(self, q: int) -> dict[str, Any]:
        one, size = self.outputs[q], len(self.outputs[q].answers)
        first = q * (1 + size) + 1
        nodes = slice(first, first + size)
        tokens = [self.forest.tokens_of(node) for node in range(first, first + size)]
        texts = [self.prompts.decode(ids) for ids in tokens]
        replies, passed = texts, dict[int, str]()
        if self.prompts.marks_thoughts:
            replies = list(texts)
            for slot, number in self.numbers.items():
                replies[slot] = self.all_prompts.reply(number, tokens[slot])
                if number <= len(self.prompts.chain):
                    text = self.prompts.passed_text(number, tokens[slot])
                    passed |= {slot: text} if text != texts[slot] else {}
        return {
            "text": texts,
            "answer": extracted(self.config, self.task, replies, one.text),
            "same": one.answers,
            "right": one.right,
            "state": states(self.forest.state[nodes], self.forest.finish[nodes]),
            "tokens": self.forest.token_len[nodes].tolist(),
            "voted": [one.voted.get(system.name, -1) for system in self.systems],
            "passed": passed,
        }


def _numbers(systems: Sequence[SystemResult], numbers: Mapping[str, int]) -> dict[int, int]:
    """The number of the prompt that every slot answers."""
    return {
        slot: numbers[turn]
        for system in systems
        for slots in system.passes
        for turn, slot in zip(system.turns, slots, strict=True)
    }


def _sign(one: Outputs, system: str) -> str:
    won = one.voted.get(system, -1)
    return "-" if won < 0 else str(one.right[won])


def is_right(one: Outputs, system: str) -> bool:
    """Whether a system answers a question correctly."""
    return _sign(one, system) == "1"


def flip_counts(outputs: Sequence[Outputs], before: str, after: str) -> dict[str, int]:
    """How many questions two systems answer right (1) or not (0): `01` is wrong, then right."""
    right = np.array(
        [[is_right(one, name) for name in (before, after)] for one in outputs], np.int64
    ).reshape(-1, 2)
    counts = np.bincount(2 * right[:, 0] + right[:, 1], minlength=4).tolist()
    return dict(zip(("00", "01", "10", "11"), counts, strict=True))
