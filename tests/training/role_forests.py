"""Random training data of a role: ragged trees of any depth, some with single children."""

import numpy as np

from malt_fast.forest.role_data import RoleData

END = 2


def role_forest(
    seed: int,
    *,
    questions: int = 3,
    branching: tuple[int, ...] = (2, 3),
    tokens: int = 9,
    vocabulary: int = 60,
    pairs: bool = True,
) -> RoleData:
    """Data of the role at level len(branching): branching[-1] siblings under each prompt.

    Prompts are head, question, and an output of each role above with a fixed piece after it. Now
    and then a node has one child only. The first sibling is chosen over the others.
    """
    rng = np.random.default_rng(seed)

    def segment(most: int = tokens) -> np.ndarray:
        return rng.integers(3, vocabulary, rng.integers(1, most + 1)).astype(np.int32)

    head, pieces = segment(4), [segment(3) for _ in branching]
    prompts, completions, links, trees = [], [], [], []
    for tree in range(questions):
        level = [np.concatenate([head, segment(), pieces[0]])]
        for n, piece in zip(branching[:-1], pieces[1:], strict=True):
            level = [
                np.concatenate([prompt, segment(), piece])
                for prompt in level
                for _ in range(n if rng.random() < 0.8 else 1)
            ]
        for prompt in level:
            first = len(prompts)
            for k in range(branching[-1] if rng.random() < 0.8 else 1):
                links += [(first, first + k)] if k else []
                prompts.append(prompt)
                completions.append(np.append(segment(), END).astype(np.int32))
                trees.append(tree)
    return RoleData(
        prompts,
        completions,
        np.array(links if pairs else [], np.int64).reshape(-1, 2),
        np.array(trees, np.int64),
        np.arange(len(prompts)) + 100,
    )
