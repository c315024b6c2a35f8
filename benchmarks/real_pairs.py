"""Pairs of real text for bench_training.py: refinements of GSM8K by four models of OpenAI.

The file is example_model_solutions.jsonl of openai/grade-school-math: every test question with four
solutions and whether each is right. A tree has three of them as drafts, for each the three others
as critiques, and below every critique all four as refinements: right ones are chosen, wrong ones
rejected.
"""

import json
from pathlib import Path

import numpy as np

from malt_fast.config.load import make_config
from malt_fast.forest.role_data import RoleData
from malt_fast.sampling.prepare import load_setup

MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def refinement_pairs(solutions: Path, base: str, pairs: int) -> RoleData:
    """The refiner's pairs of the first questions, at least `pairs` of them."""
    task = {"name": "gsm8k", "path": str(solutions)}
    config = make_config({"model": {"name_or_path": base}, "task": task})
    prompts = load_setup(config, questions=False).prompts
    asked, said, index, trees = [], [], list[tuple[int, int]](), list[int]()
    for tree, row in enumerate(map(json.loads, solutions.read_text().splitlines())):
        outputs = [prompts.encode_output(3, row[name]["solution"]) for name in MODELS]
        right = [bool(row[name]["is_correct"]) for name in MODELS]
        if len(set(right)) == 1:
            continue
        question = prompts.encode_question(row["question"])
        for draft in range(3):
            for critique in {*range(4)} - {draft}:
                first = len(said)
                prompt = prompts.build(3, question, [outputs[draft], outputs[critique]])
                good, bad = np.flatnonzero(right), np.flatnonzero(np.logical_not(right))
                index += [(first + g, first + b) for g in good for b in bad]
                asked += [prompt] * 4
                said += outputs
                trees += [tree] * 4
        if len(index) >= pairs:
            break
    return RoleData(asked, said, np.array(index), np.array(trees), np.arange(len(said)))
