"""Random forests as plain Python objects, and how to build them in malt_fast._core."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from malt_fast._core.forest import DONE, FAILED, RESERVED, Forest

Path = tuple[int, ...]


@dataclass(eq=False)
class Node:
    path: Path  # question number, then child indices
    state: int = DONE
    tokens: list[int] = field(default_factory=list)
    finish: int = 0
    outcome: int | None = None
    children: list["Node"] = field(default_factory=list)

    def walk(self) -> Iterator["Node"]:
        yield self
        for child in self.children:
            yield from child.walk()


def random_tree(
    rng: random.Random, path: Path, branching: list[int], ragged: bool, lost: float, words: int
) -> Node:
    """A tree whose outputs fail with probability `lost` and are drawn from `words` short texts."""
    node = Node(path)
    if len(path) > 1:
        node.state = rng.choice([FAILED, RESERVED]) if rng.random() < lost else DONE
        if node.state != DONE:
            return node
        node.tokens = [rng.randrange(words)] * rng.randrange(3)
        node.finish = rng.randrange(2)
    if not branching:
        node.outcome = None if rng.random() < lost / 2 else rng.randrange(2)
        return node
    count = rng.randint(0, branching[0]) if ragged else branching[0]
    node.children = [
        random_tree(rng, (*path, i), branching[1:], ragged, lost, words) for i in range(count)
    ]
    return node


@st.composite
def trees(draw: st.DrawFn) -> list[Node]:
    """Up to three questions with one to four levels below them, up to eight children a node."""
    branching = draw(
        st.sampled_from([[8], [2, 8], [8, 2], [3, 3, 3], [4, 2, 6], [2, 2, 2, 2], [5, 4, 3]])
    )
    rng = random.Random(draw(st.integers(0, 2**32)))
    ragged, lost = draw(st.booleans()), draw(st.sampled_from([0.0, 0.1, 0.4]))
    words = draw(st.sampled_from([1, 3, 100]))
    return [
        random_tree(rng, (q,), branching, ragged, lost, words)
        for q in range(draw(st.integers(0, 3)))
    ]


def grow(questions: list[Node], seed: int = 0) -> tuple[Forest, dict[int, Node]]:
    """Builds the forest in random batches and orders; returns it with the node behind every id."""
    rng = random.Random(seed)
    forest, node_of = Forest(), dict(enumerate(questions))
    assert forest.add_questions(len(questions)) == 0
    parents = [i for i, q in node_of.items() if q.children]
    waiting: list[int] = []
    while parents or waiting:
        rng.shuffle(parents)
        cut = rng.randint(0, 4)
        batch, parents = parents[:cut], parents[cut:]
        counts = [len(node_of[p].children) for p in batch]
        for p, first in zip(batch, forest.reserve(batch, counts), strict=True):
            block = range(first, int(first) + len(node_of[p].children))
            node_of.update(zip(block, node_of[p].children, strict=True))
            waiting += [i for i in block if node_of[i].state != RESERVED]
        rng.shuffle(waiting)
        cut = rng.randint(0, 5)
        finished, waiting = waiting[:cut], waiting[cut:]
        complete(forest, [i for i in finished if node_of[i].state == DONE], node_of)
        forest.fail([i for i in finished if node_of[i].state == FAILED])
        parents += [i for i in finished if node_of[i].children]
    graded = {i: node.outcome for i, node in node_of.items() if node.outcome is not None}
    forest.set_outcomes(list(graded), list(graded.values()))
    return forest, node_of


def complete(forest: Forest, ids: list[int], node_of: dict[int, Node]) -> None:
    texts = [node_of[i].tokens for i in ids]
    offsets = np.cumsum([0] + [len(text) for text in texts])
    tokens = np.array([t for text in texts for t in text], np.int32)
    forest.complete(ids, tokens, offsets, [node_of[i].finish for i in ids])


def columns(forest: Forest) -> dict[str, np.ndarray]:
    """All arrays of a forest by name."""
    properties = [name for name, v in vars(type(forest)).items() if isinstance(v, property)]
    values = {name: getattr(forest, name) for name in properties}
    return {name: v for name, v in values.items() if isinstance(v, np.ndarray)}
