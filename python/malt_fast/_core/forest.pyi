"""
The forest, its credit, examples and pairs.
"""

from __future__ import annotations

import collections.abc
import typing

import numpy
import numpy.typing

__all__: list[str] = [
    "DONE",
    "FAILED",
    "FINISH_LENGTH",
    "FINISH_STOP",
    "NO_NODE",
    "PAGE",
    "RESERVED",
    "UNGRADED",
    "Credit",
    "Forest",
    "credit",
    "examples",
    "labelled",
    "map_files",
    "pairs",
]

class Forest:
    """
    Questions and the outputs sampled under them, as columns; a node is its append
    position.

    Costs 26 bytes per node and 4 bytes per token of its own. Columns are read-only
    views: their length is fixed when they are taken, and they stay valid while the
    forest grows. Calls on one forest take turns.
    """
    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def add_questions(self, n: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        Add n questions (level 0, DONE, no tokens); return the id of the first.
        """
    def add_trees(
        self, n: typing.SupportsInt | typing.SupportsIndex, parents: numpy.typing.ArrayLike
    ) -> int:
        """
        Append n whole trees of one shape, reserved; return the id of the first question.

        parents [S]: the parent of each node as an index into parents, -1 for the question.
        Parents come before their children, siblings are consecutive. Tree t is the 1 + S
        nodes from its question on.
        """
    def complete(
        self,
        ids: numpy.typing.ArrayLike,
        tokens: numpy.typing.ArrayLike,
        offsets: numpy.typing.ArrayLike,
        finish: numpy.typing.ArrayLike,
    ) -> None:
        """
        Give reserved nodes their outputs, in any order: RESERVED -> DONE.

        ids [m]; tokens [t], of which ids[i] gets tokens[offsets[i]:offsets[i + 1]]; offsets
        [m + 1] from 0 to t; finish [m]: FINISH_STOP or FINISH_LENGTH.
        """
    def fail(self, ids: numpy.typing.ArrayLike) -> None:
        """
        Give up on reserved nodes: RESERVED -> FAILED.
        """
    def lend(
        self,
        arena: numpy.typing.ArrayLike,
        ids: numpy.typing.ArrayLike,
        begin: numpy.typing.ArrayLike,
        length: numpy.typing.ArrayLike,
        finish: numpy.typing.ArrayLike,
    ) -> None:
        """
        Give reserved nodes outputs that lie in `arena` (int32), which is kept, not copied.

        ids[i] gets `arena[begin[i]:][:length[i]]` and finish[i]. The forest must have no
        tokens yet, and takes no others afterwards.
        """
    def reserve(
        self, parents: numpy.typing.ArrayLike, counts: numpy.typing.ArrayLike
    ) -> numpy.typing.NDArray[numpy.uint32]:
        """
        Reserve counts[i] >= 1 children under parents[i]; return the first id of each block.

        Blocks are laid out in the order of the arguments. A parent must be DONE, ungraded
        and without children.
        """
    def roots(self) -> numpy.typing.NDArray[numpy.uint32]:
        """
        [nodes]: the question each node belongs to.
        """
    def set_outcomes(self, ids: numpy.typing.ArrayLike, outcomes: numpy.typing.ArrayLike) -> None:
        """
        Grade leaves with 0 or 1; grading again replaces the outcome.
        """
    def tokens_of(
        self, id: typing.SupportsInt | typing.SupportsIndex
    ) -> numpy.typing.NDArray[numpy.int32]:
        """
        The node's own tokens, a view.
        """
    @property
    def finish(self) -> numpy.typing.NDArray[numpy.uint8]:
        """
        FINISH_STOP (sampled an end token) or FINISH_LENGTH.
        """
    @property
    def first_child(self) -> numpy.typing.NDArray[numpy.uint32]:
        """
        NO_NODE for a node without children.
        """
    @property
    def level(self) -> numpy.typing.NDArray[numpy.uint8]:
        """
        0 for a question, k for an output of the k-th role.
        """
    @property
    def n_children(self) -> numpy.typing.NDArray[numpy.uint16]: ...
    @property
    def nbytes(self) -> int:
        """
        Bytes used by nodes and by tokens of the forest's own.
        """
    @property
    def outcome(self) -> numpy.typing.NDArray[numpy.uint8]:
        """
        0, 1 or UNGRADED.
        """
    @property
    def parent(self) -> numpy.typing.NDArray[numpy.uint32]:
        """
        NO_NODE for a question.
        """
    @property
    def state(self) -> numpy.typing.NDArray[numpy.uint8]:
        """
        RESERVED (waits for its output), DONE or FAILED.
        """
    @property
    def token_begin(self) -> numpy.typing.NDArray[numpy.uint64]:
        """
        Index into tokens.
        """
    @property
    def token_len(self) -> numpy.typing.NDArray[numpy.uint32]: ...
    @property
    def tokens(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        The arena: all outputs in order of completion, or the lent one.
        """
    @property
    def tree_size(self) -> int:
        """
        Nodes of each tree, its question included; 0 unless add_trees made all of them alike.
        """

class Credit:
    """
    Value and label of every node, computed by credit().
    """
    @property
    def label(self) -> numpy.typing.NDArray[numpy.int8]:
        """
        [nodes]: 1 positive, 0 negative, -1 without a value.
        """
    @property
    def value(self) -> numpy.typing.NDArray[numpy.float64]:
        """
        [nodes]; NaN where a node has no value.
        """

def credit(
    forest: Forest,
    threshold: tuple[
        typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex
    ] = (1, 2),
    inclusive: bool = False,
    mean: typing.Literal["children", "leaves"] = "children",
    pooling: typing.Literal["global", "local"] = "global",
) -> Credit:
    """
    Propagate outcomes from the leaves to the questions (MALT, arXiv 2412.01928, section
    3.2).

    The value of a graded leaf is its outcome. The value of any other node is the mean
    over its children that have one; with mean="leaves" over its graded leaves; with
    pooling="local" over the labels of its children. A node is positive when its value >
    threshold = (numerator, denominator), or >= if inclusive. Values are exact
    fractions: ValueError if a denominator would exceed 2**63.
    """

def examples(
    forest: Forest,
    credit: Credit,
    level: typing.SupportsInt | typing.SupportsIndex,
    source: typing.Literal["paired", "all"] = "paired",
    dedup: bool = False,
) -> numpy.typing.NDArray[numpy.uint32]:
    """
    Ids of the positive nodes of a level, ascending.

    source="paired" keeps those with a negative sibling. dedup: outputs with the same
    tokens below the same prompt, of siblings or of cousins whose paths have the same
    tokens, count once, as the first of them, with the mean of their values.
    """

def labelled(
    forest: Forest,
    credit: Credit,
    level: typing.SupportsInt | typing.SupportsIndex,
    dedup: bool = False,
) -> tuple[numpy.typing.NDArray[numpy.uint32], numpy.typing.NDArray[numpy.int8]]:
    """
    (ids, labels) of the nodes of a level that have a value, by ascending id.

    Labels are 1 or 0. dedup as in examples().
    """

def map_files(
    paths: collections.abc.Sequence[str],
    sizes: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
) -> numpy.typing.NDArray[numpy.int32]:
    """
    Map sizes[i] bytes of each file as one read-only array, which takes no memory until
    it is read.

    Each file begins at a multiple of PAGE bytes, after the last page of the one before.
    Raises OSError.
    """

def pairs(
    forest: Forest,
    credit: Credit,
    level: typing.SupportsInt | typing.SupportsIndex,
    policy: typing.Literal["all", "one", "best_worst"] = "all",
    seed: typing.SupportsInt | typing.SupportsIndex = 0,
    max_per_question: typing.SupportsInt | typing.SupportsIndex = 0,
    min_margin: tuple[
        typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex
    ] = (0, 1),
    dedup: bool = False,
) -> tuple[numpy.typing.NDArray[numpy.uint32], numpy.typing.NDArray[numpy.uint32]]:
    """
    Pairs (chosen, rejected) of a positive and a negative sibling of a level, in node
    order; with dedup also of cousins whose prompts have the same tokens.

    policy: "all" pairs of a parent's children; "one" at random per parent;
    "best_worst", the highest chosen value and then the lowest rejected one, the first
    of equals. Siblings with the same tokens are never paired, nor those with
    value(chosen) - value(rejected) < min_margin = (numerator, denominator).
    max_per_question > 0 keeps a random subset. Random choices depend on the seed and
    the nodes' paths, not on their ids.
    """

DONE: int = 1
FAILED: int = 2
FINISH_LENGTH: int = 1
FINISH_STOP: int = 0
NO_NODE: int = 4294967295
PAGE: int = 65536
RESERVED: int = 0
UNGRADED: int = 255
