"""Tree expansion without barriers: as soon as an output is finished, its children are requested.

A new tree is begun only when the engine would otherwise run short, and requests of older trees go
first: so started trees finish early, and however many questions there are, no more trees are open
than requests keep the engine busy. A straggler holds up what stands below it and nothing else.

A shape says what is sampled under every question. Training uses the full tree of a branching,
evaluation one trie in which all systems share what they have in common:

    shape    slot 0: draft        parent -1    path (0,)
             slot 1: critique     parent  0    path (0, 0)
             slot 2: critique     parent  0    path (0, 1)   ...

A slot may read more than its ancestors, as in a debate: the shape is then a directed acyclic graph,
and a slot is asked for once all that it reads is there.

Slot s of tree t is node t * (1 + S) + 1 + s, whatever order the engine answers in. A node's seed is
a hash of the run's seed, its question and its path. Only open trees are held in memory: what is
settled is handed on, to a forest or to the store.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from malt_fast.engines import (
    Completion,
    Engine,
    Policy,
    Request,
    SamplingParams,
)
from malt_fast.forest.forest import (
    DONE,
    Forest,
)
from malt_fast.tasks.evaluation_prompts import Wordings
from malt_fast.tasks.prompts import Prompts, Tokens
from malt_fast.tasks.task import Question
from malt_fast.utils.errors import MaltError

OnProgress = Callable[[int, int], None]  # (nodes settled, tokens sampled) since the last call


@dataclass(frozen=True, slots=True)
class Slot:
    """One node of a shape."""

    parent: int  # index of its parent in the shape; -1 is the question
    role: int  # number of its wording: its level in the chain, 1-based
    policy: Policy  # who samples it
    path: tuple[int, ...]  # what its seed is made from; equal paths share random numbers
    reads: tuple[int, ...] | None = None  # earlier slots, its parent among them; None: ancestors


@dataclass(frozen=True, slots=True, eq=False)
class Siblings:
    """Slots of one parent that are asked for together, with one prompt."""

    role: int
    reads: tuple[int, ...]  # slots whose outputs the prompt holds, in order
    waits: bool  # for more than the parent
    slots: list[int] = field(default_factory=list)


def shape_from_branching(branching: Sequence[int], policies: Sequence[Policy]) -> list[Slot]:
    """The full tree: `branching[k]` children under every node of level k, level by level."""
    slots: list[Slot] = []
    parents: list[tuple[int, tuple[int, ...]]] = [(-1, ())]
    for role, (n, policy) in enumerate(zip(branching, policies, strict=True), 1):
        level = [Slot(p, role, policy, (*path, i)) for p, path in parents for i in range(n)]
        parents = [(len(slots) + i, slot.path) for i, slot in enumerate(level)]
        slots += level
    return slots


def node_seed(seed: int | str, question: str, path: Sequence[int]) -> int:
    """64 bits that depend on nothing but the run, the question and the place in its tree."""
    text = "\0".join([str(seed), question, *map(str, path)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def slot_nodes(forest: Forest, shape: Sequence[Slot]) -> npt.NDArray[np.int64]:
    """int64[questions, S]: node id of every slot, -1 where it or an ancestor failed."""
    stride = 1 + len(shape)
    nodes = np.arange(len(forest), dtype=np.int64).reshape(-1, stride)[:, 1:]
    return np.where(forest.state.reshape(-1, stride)[:, 1:] == DONE, nodes, -1)


def reserve(trees: int, shape: Sequence[Slot]) -> Forest:
    """A forest of `trees` questions, each with all nodes of `shape`, nothing sampled yet."""
    forest = Forest()
    add_trees(forest, trees, shape)
    return forest


def add_trees(forest: Forest, trees: int, shape: Sequence[Slot]) -> None:
    forest.add_trees(trees, np.array([slot.parent for slot in shape], np.int32))


@dataclass(slots=True, eq=False)
class OpenTree:
    """A question with outputs still to come; of each slot what is known."""

    question: Tokens
    left: int  # slots that are not settled
    outputs: list[Tokens | None]  # None where there is none, or none yet
    failed: set[int] = field(default_factory=set)


@dataclass
class Expansion:
    """The state of one expansion: the trees that are open, and what may be asked for."""

    questions: Sequence[Question] | Mapping[int, Question]  # by number of the tree
    shape: Sequence[Slot]
    prompts: Prompts | Wordings
    params: Sequence[SamplingParams]  # one a role
    seed: int | str
    open: dict[int, OpenTree] = field(default_factory=dict)

    @cached_property
    def readers(self) -> list[list[Siblings]]:
        """What each slot's output may be the last missing piece of; the question's at index -1."""
        found: dict[object, Siblings] = {}
        readers: list[list[Siblings]] = [[] for _ in range(len(self.shape) + 1)]
        for s, slot in enumerate(self.shape):
            key = (slot.parent, slot.role, slot.reads)
            if key not in found:
                reads = slot.reads or self._ancestors(slot.parent)
                found[key] = Siblings(slot.role, reads, waits=bool(slot.reads))
                for last in slot.reads or [slot.parent]:
                    readers[last].append(found[key])
            found[key].slots.append(s)
        return readers

    def _ancestors(self, slot: int) -> tuple[int, ...]:
        """`slot` and those above it, from the top."""
        path: list[int] = []
        while slot >= 0:
            path.append(slot)
            slot = self.shape[slot].parent
        return tuple(path[::-1])

    def place(self, node: int) -> tuple[int, int]:
        """(tree, slot) of a node."""
        tree, slot = divmod(node, 1 + len(self.shape))
        return tree, slot - 1

    def node(self, tree: int, slot: int) -> int:
        return tree * (1 + len(self.shape)) + 1 + slot

    def begin(self, tree: int) -> list[Request]:
        """Requests of a tree for all that can be asked at once."""
        slots = len(self.shape)
        if not slots:
            return []
        question = self.prompts.encode_question(self.questions[tree].text)
        self.open[tree] = OpenTree(question, slots, [None] * slots)
        return [request for group in self.readers[-1] for request in self.requests(tree, group)]

    def ready(self, tree: int, slot: int) -> list[Siblings]:
        """What can be asked for now that `slot` is done."""
        outputs = self.open[tree].outputs
        return [
            group
            for group in self.readers[slot]
            if not group.waits or all(outputs[s] is not None for s in group.reads)
        ]

    def requests(self, tree: int, group: Siblings) -> Iterator[Request]:
        """One request for each of `group`; they share their prompt."""
        known = self.open[tree]
        segments = [tokens for s in group.reads if (tokens := known.outputs[s]) is not None]
        prompt = self.prompts.build(group.role, known.question, segments)
        question = self.questions[tree].id
        for s in group.slots:
            slot = self.shape[s]
            yield Request(
                id=self.node(tree, s),
                question=question,
                path=slot.path,
                policy=slot.policy,
                prompt=prompt,
                params=self.params[group.role - 1],
                seed=node_seed(self.seed, question, slot.path),
                priority=tree,
            )

    def lost(self, slot: int) -> set[int]:
        """`slot` and every slot that reads it, or reads one that does."""
        lost, new = {slot}, [slot]
        while new:
            readers = self.readers[new.pop()]
            below = {s for group in readers for s in group.slots} - lost
            lost |= below
            new += below
        return lost

    def settle(self, completions: Sequence[Completion]) -> tuple[list[Request], list[int]]:
        """Take finished outputs; what can be asked for now, and nodes that will never be."""
        good = [c for c in completions if c.finish_reason != "error"]
        places = [self.place(c.id) for c in good]
        for (tree, slot), completion in zip(places, good, strict=True):
            self.open[tree].outputs[slot] = completion.tokens
        failed = [
            node
            for c in completions
            if c.finish_reason == "error"
            for node in self._fail(*self.place(c.id))
        ]
        # Once each, though several outputs that it reads may have come together.
        ready = dict.fromkeys((tree, g) for tree, slot in places for g in self.ready(tree, slot))
        requests = [request for tree, group in ready for request in self.requests(tree, group)]
        for tree, _ in places:
            self._count(tree)
        for node in failed:
            self._count(self.place(node)[0])
        return requests, failed

    def _fail(self, tree: int, slot: int) -> list[int]:
        """Give up on a slot and all that needs it, of which another failure may have been told."""
        known = self.open[tree]
        lost = sorted(self.lost(slot) - known.failed)
        known.failed.update(lost)
        return [self.node(tree, s) for s in lost]

    def _count(self, tree: int) -> None:
        """One more slot is settled; what is finished needs its question no more."""
        self.open[tree].left -= 1
        if not self.open[tree].left:
            del self.open[tree]


def complete(forest: Forest, completions: Sequence[Completion]) -> None:
    """Write finished completions into their nodes in one call."""
    good = [c for c in completions if c.finish_reason != "error"]
    if good:
        forest.complete(
            np.array([c.id for c in good], np.uint32),
            np.concatenate([c.tokens for c in good]),
            np.cumsum([0, *(len(c.tokens) for c in good)], dtype=np.int64),
            np.array([c.finish for c in good], np.uint8),
        )


def grow(
    questions: Sequence[Question],
    shape: Sequence[Slot],
    prompts: Prompts | Wordings,
    params: Sequence[SamplingParams],
    engine: Engine,
    seed: int | str,
) -> Iterator[tuple[list[Completion], list[int]]]:
    """Sample `shape` under every question; yields what is settled as it comes.

    That is, completions whose id is their node, failed ones among them, and all nodes that failed:
    a request that the engine could not answer takes everything below it along. Raises MaltError
    when none could be answered.
    """
    growth = Expansion(questions, shape, prompts, params, seed)
    trees = iter(range(len(questions)))
    requests: list[Request] = []
    error, answers = "", 0
    while True:
        room = engine.wants - engine.pending
        while len(requests) < room and (tree := next(trees, None)) is not None:
            requests += growth.begin(tree)
        engine.submit(requests)
        if not engine.pending:
            break
        completions = engine.poll()
        errors = [c.error for c in completions if c.finish_reason == "error"]
        error, answers = error or "".join(errors[:1]), answers + len(completions) - len(errors)
        requests, failed = growth.settle(completions)
        yield completions, failed
    if error and not answers:
        raise MaltError(f"the engine answered no request: {error}")


def expand(
    questions: Sequence[Question],
    shape: Sequence[Slot],
    prompts: Prompts | Wordings,
    params: Sequence[SamplingParams],
    engine: Engine,
    seed: int | str,
    on_progress: OnProgress | None = None,
) -> Forest:
    """Sample `shape` under every question, in memory; roots are the questions in order.

    Raises MaltError as `grow` does, and when the engine cannot go on.
    """
    forest = reserve(len(questions), shape)
    for completions, failed in grow(questions, shape, prompts, params, engine, seed):
        complete(forest, completions)
        if failed:
            forest.fail(np.array(failed, np.uint32))
        if completions and on_progress is not None:
            on_progress(len(completions), sum(len(c.tokens) for c in completions))
    return forest


def answered(forest: Forest) -> int:
    """How many outputs were sampled."""
    return int(np.count_nonzero((forest.state == DONE) & (forest.level > 0)))
