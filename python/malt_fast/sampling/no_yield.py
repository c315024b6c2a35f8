"""Why a forest holds nothing to learn from: what became of the last role's outputs."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from malt_fast import _core
from malt_fast._core.forest import DONE, FINISH_LENGTH, UNGRADED, Forest
from malt_fast.grading.custom import is_custom
from malt_fast.runs.metrics import read_lines
from malt_fast.runs.run import Run
from malt_fast.sampling.setup import Setup

# By fate, how a sentence says it; the most frequent one decides what is to be changed.
SAID = {
    "failed": "failed",
    "cut off": "were cut off before an answer",
    "unanswered": "end without an answer",
    "wrong": "are wrong",
    "right": "are right",
}


def fates(setup: Setup, forest: Forest) -> Counter[str]:
    """The last role's outputs by what became of them, the most frequent first."""
    leaves = np.flatnonzero(forest.level == len(setup.config.chain))
    done = leaves[(forest.state[leaves] == DONE) & (forest.outcome[leaves] != UNGRADED)]
    right, cut = forest.outcome[done] == 1, forest.finish[done] == FINISH_LENGTH
    trees = (forest.roots()[done] // forest.tree_size).tolist()
    asked = [setup.task.train[tree].text for tree in trees]
    silent = ~right & ~has_answer(setup, [forest.tokens_of(int(leaf)) for leaf in done], asked)
    counts: dict[str, int] = {
        "failed": len(leaves) - len(done),
        "cut off": int((silent & cut).sum()),
        "unanswered": int((silent & ~cut).sum()),
        "wrong": int((~right & ~silent).sum()),
        "right": int(right.sum()),
    }
    return Counter({fate: n for fate, n in counts.items() if n})


def has_answer(setup: Setup, outputs: Sequence[np.ndarray], questions: Sequence[str]) -> np.ndarray:
    """bool[n]: whether the grader finds an answer in a leaf; one of the user's takes all."""
    grader = setup.task.grader
    if is_custom(grader):
        return np.ones(len(outputs), np.bool_)
    texts = [setup.prompts.reply(len(setup.config.chain), tokens) for tokens in outputs]
    answers = _core.answers.extract_answers(grader, texts, setup.config.task.strict, questions)
    return np.array([answer is not None for answer in answers], np.bool_)


def nothing_to_learn(run: Run, setup: Setup, stages: Sequence[str], forest: Forest) -> str:
    """The sentence for a forest that yields no example and no pair. stages: that sampled and graded
    it."""
    counts = fates(setup, forest).most_common()
    role = setup.config.chain[-1]
    said = ", ".join(f"{n:,} {SAID[fate]}" for fate, n in counts)
    advice = {
        "failed": f"the first failure was: {first_failure(run, stages)}",
        "cut off": f"raise sampling.max_tokens, or sampling.roles.{role}.max_tokens",
        "unanswered": (
            f"see that the {role}'s prompt asks for the marker that the grader looks for "
            "(docs/grading.md)"
        ),
        "wrong": "use more or easier questions, or a higher sampling.temperature",
        "right": (
            "use harder questions or a higher sampling.temperature, or set "
            "preferences.sft_source to all"
        ),
    }
    return (
        f"no role has a single example or pair to learn from: of the {role}'s outputs {said}: "
        f"{advice[counts[0][0]]}"
    )


def first_failure(run: Run, stages: Sequence[str]) -> str:
    """The reason of the stages' first failed output, as it was logged."""
    lines, _ = read_lines(run.path("metrics.jsonl"))
    reasons = [line.get("first_failure") for line in lines if line["stage"] in stages]
    return str(next(filter(None, reversed(reasons)), "not logged in metrics.jsonl"))
