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

Each question's tree is reserved whole, so slot s of tree t is node t * (1 + S) + 1 + s whatever
order the engine answers in. A node's seed is a hash of the run's seed, its question and its path.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from malt_fast.engines import Completion, Engine, Policy, Request, SamplingParams
from malt_fast.errors import MaltError
from malt_fast.forest import DONE, FINISH_LENGTH, FINISH_STOP, RESERVED, Forest
from malt_fast.roles import Prompts, Tokens
from malt_fast.tasks import Question
from malt_fast.wordings import Wordings

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


@dataclass
class Expansion:
    """The state of one expansion: what is asked, and the forest as far as it has grown."""

    questions: list[Question]
    shape: Sequence[Slot]
    prompts: Prompts | Wordings
    params: Sequence[SamplingParams]  # one a role
    seed: int | str
    forest: Forest  # from `reserve`
    open: dict[int, Tokens] = field(default_factory=dict)  # question tokens of trees not finished
    left: list[int] = field(init=False)  # slots of each tree that are not settled

    def __post_init__(self) -> None:
        waiting = self.forest.state == RESERVED
        self.left = waiting.reshape(-1, 1 + len(self.shape))[:, 1:].sum(1).tolist()

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

    def add(self, question: Question) -> int:
        """Reserve one more tree, at any time; its number."""
        add_trees(self.forest, 1, self.shape)
        self.questions.append(question)
        self.left.append(len(self.shape))
        return len(self.questions) - 1

    def place(self, node: int) -> tuple[int, int]:
        """(tree, slot) of a node."""
        tree, slot = divmod(node, 1 + len(self.shape))
        return tree, slot - 1

    def node(self, tree: int, slot: int) -> int:
        return tree * (1 + len(self.shape)) + 1 + slot

    def begin(self, tree: int) -> list[Request]:
        """Requests of a tree for all that can be asked now: everything below finished outputs."""
        self.open[tree] = self.prompts.encode_question(self.questions[tree].text)
        state = self.forest.state[self.node(tree, 0) :][: len(self.shape)].tolist()
        done = [-1, *(s for s in range(len(state)) if state[s] == DONE)]
        ready = dict.fromkeys(group for s in done for group in self.ready(tree, s))
        return [r for group in ready for r in self.requests(tree, group, state)]

    def ready(self, tree: int, slot: int) -> list[Siblings]:
        """What can be asked for now that `slot` is done."""
        readers = self.readers[slot]
        if not any(group.waits for group in readers):
            return readers
        state = self.forest.state[self.node(tree, 0) :]
        return [g for g in readers if not g.waits or all(state[s] == DONE for s in g.reads)]

    def requests(
        self, tree: int, group: Siblings, state: Sequence[int] | None = None
    ) -> Iterator[Request]:
        """One request for each of `group` (by `state`, if reserved); they share their prompt."""
        slots = group.slots if state is None else [s for s in group.slots if state[s] == RESERVED]
        if not slots:
            return
        segments = [self.forest.tokens_of(self.node(tree, s)) for s in group.reads]
        prompt = self.prompts.build(group.role, self.open[tree], segments)
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

    def settle(self, completions: Sequence[Completion]) -> list[Request]:
        """Put finished outputs into the forest; what can be asked for now."""
        good = [c for c in completions if c.finish_reason != "error"]
        if good:
            complete(self.forest, good)
        self._fail([self.place(c.id) for c in completions if c.finish_reason == "error"])
        # Once each, though several outputs that it reads may have come together.
        places = [self.place(c.id) for c in good]
        ready = dict.fromkeys((tree, g) for tree, slot in places for g in self.ready(tree, slot))
        requests = [request for tree, group in ready for request in self.requests(tree, group)]
        self._count(tree for tree, _ in places)
        return requests

    def _fail(self, places: Sequence[tuple[int, int]]) -> None:
        """Give up on slots and all that needs them, of which another failure may have been told."""
        nodes = dict.fromkeys(self.node(tree, s) for tree, slot in places for s in self.lost(slot))
        waiting = [node for node in nodes if self.forest.state[node] == RESERVED]
        if waiting:
            self.forest.fail(np.array(waiting, np.uint32))
            self._count(self.place(node)[0] for node in waiting)

    def _count(self, trees: Iterable[int]) -> None:
        """A slot of each of `trees` is settled; what is finished needs its question no more."""
        for tree in trees:
            self.left[tree] -= 1
            if not self.left[tree]:
                del self.open[tree]


def complete(forest: Forest, completions: Sequence[Completion]) -> None:
    """Write finished completions into their nodes in one call."""
    forest.complete(
        np.array([c.id for c in completions], np.uint32),
        np.concatenate([c.tokens for c in completions]),
        np.cumsum([0, *(len(c.tokens) for c in completions)], dtype=np.int64),
        np.array(
            [FINISH_STOP if c.finish_reason == "stop" else FINISH_LENGTH for c in completions],
            np.uint8,
        ),
        np.concatenate([c.logprobs for c in completions]),
    )


def expand(
    questions: Sequence[Question],
    shape: Sequence[Slot],
    prompts: Prompts | Wordings,
    params: Sequence[SamplingParams],
    engine: Engine,
    seed: int | str,
    on_progress: OnProgress | None = None,
    forest: Forest | None = None,
) -> Forest:
    """Sample `shape` under every question; roots are the questions in order.

    forest: from `reserve`, or one that an earlier expansion left unfinished: it is grown in place,
    so that nothing is lost when the engine raises. A request that the engine could not answer fails
    its node and everything below it. Raises MaltError when none could be answered.
    """
    forest = reserve(len(questions), shape) if forest is None else forest
    growth = Expansion(list(questions), shape, prompts, params, seed, forest)
    trees = (tree for tree, left in enumerate(growth.left) if left)
    errors: list[str] = []
    requests: list[Request] = []
    while True:
        room = engine.wants - engine.pending
        while len(requests) < room and (tree := next(trees, None)) is not None:
            requests += growth.begin(tree)
        engine.submit(requests)
        if not engine.pending:
            break
        completions = engine.poll()
        errors += [c.error for c in completions if c.finish_reason == "error"]
        requests = growth.settle(completions)
        if completions and on_progress is not None:
            on_progress(len(completions), sum(len(c.tokens) for c in completions))
    if errors and not answered(forest):
        raise MaltError(f"the engine answered no request: {errors[0]}")
    return forest


def answered(forest: Forest) -> int:
    """How many outputs were sampled."""
    return int(np.count_nonzero((forest.state == DONE) & (forest.level > 0)))
