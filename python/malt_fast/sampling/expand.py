"""Tree expansion without barriers: as soon as an output is finished, its children are requested.

A new tree is begun only when the engine would otherwise run short, and requests of older trees go
first: so trees finish early, and no more of them are open than keep the engine busy. A slow output
delays only its own descendants.

A shape lists what is sampled under every question. Training uses the full tree of a branching,
evaluation one trie in which all systems share their common prefixes:

    shape    slot 0: draft        parent -1    path (0,)
             slot 1: critique     parent  0    path (0, 0)
             slot 2: critique     parent  0    path (0, 1)   ...

A slot may read more than its ancestors, as in a debate: the shape is then a directed acyclic graph,
and a slot is requested once everything it reads is there.

Slot s of tree t is node t * (1 + S) + 1 + s, in whatever order the engine answers. A node's seed is
a hash of the run's seed, its question and its path. Only open trees are held in memory; finished
outputs go to a forest or to the store.

A wave samples some nodes only, below outputs of the waves before (allocation.py).
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from malt_fast._core.forest import DONE, Forest
from malt_fast.engines import Completion, Engine, Policy, Request, SamplingParams
from malt_fast.models.plain_text import Tokens
from malt_fast.tasks.evaluation_prompts import EvaluationPrompts
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.task import Question
from malt_fast.utils.errors import MaltError

OnProgress = Callable[[int, int], None]  # (nodes settled, tokens sampled) since the last call


@dataclass(frozen=True, slots=True)
class Slot:
    """One node of a shape."""

    parent: int  # index of its parent in the shape; -1 is the question
    role: int  # number of its prompt: its level in the chain, 1-based
    policy: Policy  # who samples it
    path: tuple[int, ...]  # its seed depends on it: equal paths share random numbers
    reads: tuple[int, ...] | None = None  # earlier slots, its parent among them; None: ancestors


@dataclass(frozen=True, slots=True, eq=False)
class Siblings:
    """Slots of one parent that are requested together, with one prompt."""

    role: int
    reads: tuple[int, ...]  # slots whose outputs the prompt holds, in order
    waits: bool  # for other slots than the parent
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
    """64-bit hash of the run's seed, the question's id and the path in its tree."""
    text = "\0".join([str(seed), question, *map(str, path)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def slot_nodes(forest: Forest, shape: Sequence[Slot]) -> npt.NDArray[np.int64]:
    """int64[questions, S]: the node of every slot, -1 if it or an ancestor failed."""
    stride = 1 + len(shape)
    nodes = np.arange(len(forest), dtype=np.int64).reshape(-1, stride)[:, 1:]
    return np.where(forest.state.reshape(-1, stride)[:, 1:] == DONE, nodes, -1)


def reserve(trees: int, shape: Sequence[Slot]) -> Forest:
    """A forest of `trees` questions, each with all nodes of `shape`, nothing sampled yet."""
    forest = Forest()
    forest.add_trees(trees, np.array([slot.parent for slot in shape], np.int32))
    return forest


@dataclass(slots=True, eq=False)
class OpenTree:
    """A question with outputs still to come."""

    question: Tokens
    wanted: frozenset[int]  # slots to sample
    left: int  # of these, not settled
    outputs: list[Tokens | None]  # by slot; None: failed, or still to come
    failed: set[int] = field(default_factory=set)


@dataclass(frozen=True, eq=False)
class Wave:
    """Some nodes to sample, below outputs that a forest holds."""

    nodes: npt.NDArray[np.int64]  # ascending; what they read is known, or among them
    known: Forest

    @cached_property
    def wanted(self) -> dict[int, frozenset[int]]:
        """The slots to sample, by tree."""
        trees, slots = np.divmod(self.nodes, self.known.tree_size)
        found, begins = np.unique(trees, return_index=True)
        parts = np.split(slots - 1, begins)[1:]
        return {t: frozenset(part.tolist()) for t, part in zip(found.tolist(), parts, strict=True)}

    def outputs(self, tree: int, shape: Sequence[Slot]) -> list[Tokens | None]:
        """By slot of a tree, the outputs that are known, of those that wanted ones read."""
        first, wanted = tree * self.known.tree_size + 1, self.wanted[tree]
        outputs: list[Tokens | None] = [None] * len(shape)
        for slot in wanted:
            above = shape[slot].parent
            while above >= 0 and above not in wanted and outputs[above] is None:
                assert self.known.state[first + above] == DONE
                outputs[above] = self.known.tokens_of(first + above)
                above = shape[above].parent
        return outputs


@dataclass
class Expansion:
    """The state of one expansion: which trees are open, and what can be requested."""

    questions: Sequence[Question] | Mapping[int, Question]  # by tree
    shape: Sequence[Slot]
    prompts: Prompts | EvaluationPrompts
    params: Sequence[SamplingParams]  # by prompt number - 1
    seed: int | str
    wave: Wave | None = None  # None: all nodes
    open: dict[int, OpenTree] = field(default_factory=dict)

    @cached_property
    def every(self) -> frozenset[int]:
        return frozenset(range(len(self.shape)))

    @cached_property
    def readers(self) -> list[list[Siblings]]:
        """For each slot the groups that read its output; for the question (-1) those below it."""
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

    def begin(self, tree: int, question: Tokens | None = None) -> list[Request]:
        """Open a tree; its first requests. question: its tokens, if they are known."""
        wanted = self.every if self.wave is None else self.wave.wanted[tree]
        if not wanted:
            return []
        if question is None:
            question = self.prompts.encode_question(self.questions[tree].text)
        outputs: list[Tokens | None] = [None] * len(self.shape)
        if self.wave is not None:
            outputs = self.wave.outputs(tree, self.shape)
        self.open[tree] = OpenTree(question, wanted, len(wanted), outputs)
        known = [slot for slot, output in enumerate(outputs) if output is not None]
        below = dict.fromkeys(group for slot in known for group in self.ready(tree, slot))
        groups = [*self.readers[-1], *below]
        return [request for group in groups for request in self.requests(tree, group)]

    def ready(self, tree: int, slot: int) -> list[Siblings]:
        """The groups that can be requested now that `slot` is done."""
        outputs = self.open[tree].outputs
        return [
            group
            for group in self.readers[slot]
            if not group.waits or all(outputs[s] is not None for s in group.reads)
        ]

    def requests(self, tree: int, group: Siblings) -> Iterator[Request]:
        """One request per wanted slot of a group; they share their prompt."""
        known = self.open[tree]
        slots = [s for s in group.slots if s in known.wanted]
        if not slots:
            return
        segments = [tokens for s in group.reads if (tokens := known.outputs[s]) is not None]
        prompt = self.prompts.build(group.role, known.question, segments)
        question = self.questions[tree].id
        for s in slots:
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
        """Take finished outputs; returns the requests they allow, and all nodes that failed."""
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
        # Each group once, even if several outputs that it reads came together.
        ready = dict.fromkeys((tree, g) for tree, slot in places for g in self.ready(tree, slot))
        requests = [request for tree, group in ready for request in self.requests(tree, group)]
        for tree, _ in places:
            self._count(tree)
        for node in failed:
            self._count(self.place(node)[0])
        return requests, failed

    def _fail(self, tree: int, slot: int) -> list[int]:
        """Give up on a slot and all that depend on it; returns those that had not failed before."""
        known = self.open[tree]
        lost = sorted((self.lost(slot) & known.wanted) - known.failed)
        known.failed.update(lost)
        return [self.node(tree, s) for s in lost]

    def _count(self, tree: int) -> None:
        """One more slot is settled; a tree without open slots is closed."""
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
    prompts: Prompts | EvaluationPrompts,
    params: Sequence[SamplingParams],
    engine: Engine,
    seed: int | str,
    wave: Wave | None = None,
) -> Iterator[tuple[list[Completion], list[int]]]:
    """Sample `shape` under every question; yields (completions, failed nodes) as they come.

    wave: sample only these nodes.

    A completion's id is its node. Where the engine could not answer, the completion says why, and
    the node fails with everything below it. Raises MaltError if no request could be answered.
    """
    expansion = Expansion(questions, shape, prompts, params, seed, wave)
    trees = iter(range(len(questions)) if wave is None else wave.wanted)
    requests: list[Request] = []
    error, answers = "", 0
    while True:
        room = engine.wants - engine.pending
        while len(requests) < room and (tree := next(trees, None)) is not None:
            requests += expansion.begin(tree)
        engine.submit(requests)
        if not engine.pending:
            break
        completions = engine.poll()
        errors = [c.error for c in completions if c.finish_reason == "error"]
        error, answers = error or "".join(errors[:1]), answers + len(completions) - len(errors)
        requests, failed = expansion.settle(completions)
        yield completions, failed
    if error and not answers:
        raise MaltError(f"the engine answered no request: {error}")


def expand(
    questions: Sequence[Question],
    shape: Sequence[Slot],
    prompts: Prompts | EvaluationPrompts,
    params: Sequence[SamplingParams],
    engine: Engine,
    seed: int | str,
    on_progress: OnProgress | None = None,
) -> Forest:
    """Sample `shape` under every question, in memory; the roots are the questions in order.

    Raises MaltError as `grow` does, and if the engine cannot go on.
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
    """Number of outputs that were sampled."""
    return int(np.count_nonzero((forest.state == DONE) & (forest.level > 0)))
