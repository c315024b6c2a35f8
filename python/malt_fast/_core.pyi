"""The C++ core: the forest, its credit, examples and pairs.

Arrays go in as anything NumPy can turn into the right integers without loss (int32, uint32, lists,
...; the exact dtype is not copied) and come out as arrays. Columns are read-only views without a
copy: their length is frozen when they are taken, and they stay valid while the forest grows. Wrong
input raises ValueError and changes nothing. The GIL is released; one forest does one call at a
time.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__version__: str

NO_NODE: int  # parent of a question, first_child of a node without children
RESERVED: int  # state: waits for its output
DONE: int
FAILED: int
FINISH_STOP: int  # finish: sampled an end token
FINISH_LENGTH: int
UNGRADED: int  # outcome of a node that is not a graded leaf

class Forest:
    """Questions and the outputs sampled under them, as columns; a node is its append position.

    26 bytes a node, 4 a token, 4 more a token once log-probs are given.
    """

    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def add_questions(self, n: int) -> int:
        """Add n roots (level 0, DONE, no tokens); return the first one's id."""

    def add_trees(self, n: int, parents: ArrayLike) -> int:
        """Append n whole trees of one shape, reserved; return the first one's question.

        parents[S]: the parent of each node as an index into parents, -1 for the question; earlier
        than its children, siblings consecutive. Tree t is the 1 + S nodes from its question on.
        """

    def reserve(self, parents: ArrayLike, counts: ArrayLike) -> NDArray[np.uint32]:
        """Reserve counts[i] >= 1 children under parents[i]; return each block's first id.

        Blocks are laid out in the order of the arguments. A parent must be DONE, ungraded and
        childless.
        """

    def complete(
        self,
        ids: ArrayLike,
        tokens: ArrayLike,
        offsets: ArrayLike,
        finish: ArrayLike,
    ) -> None:
        """Give reserved nodes their output, in any order: RESERVED -> DONE.

        ids[m]; tokens[t], of which ids[i] gets tokens[offsets[i]:offsets[i + 1]]; offsets[m + 1]
        from 0 to t; finish[m].
        """

    def fail(self, ids: ArrayLike) -> None:
        """Give up on reserved nodes: RESERVED -> FAILED."""

    def set_outcomes(self, ids: ArrayLike, outcomes: ArrayLike) -> None:
        """Grade leaves with 0 or 1; grading again replaces the outcome."""

    def lend(
        self,
        arena: ArrayLike,
        ids: ArrayLike,
        begin: ArrayLike,
        length: ArrayLike,
        finish: ArrayLike,
    ) -> None:
        """Give reserved nodes outputs that lie in `arena`, int32, which is kept and not copied.

        ids[m] gets arena[begin:begin + length]; finish[m]. Only for a forest without tokens, which
        then takes no others.
        """

    def tokens_of(self, id: int) -> NDArray[np.int32]:
        """The node's own tokens, a view."""

    def roots(self) -> NDArray[np.uint32]:
        """The question each node belongs to."""

    @property
    def nbytes(self) -> int:
        """Bytes in use by nodes and tokens of its own."""

    @property
    def parent(self) -> NDArray[np.uint32]: ...
    @property
    def first_child(self) -> NDArray[np.uint32]: ...
    @property
    def n_children(self) -> NDArray[np.uint16]: ...
    @property
    def level(self) -> NDArray[np.uint8]: ...
    @property
    def state(self) -> NDArray[np.uint8]: ...
    @property
    def finish(self) -> NDArray[np.uint8]: ...
    @property
    def outcome(self) -> NDArray[np.uint8]: ...
    @property
    def token_begin(self) -> NDArray[np.uint64]: ...
    @property
    def token_len(self) -> NDArray[np.uint32]: ...
    @property
    def tokens(self) -> NDArray[np.int32]:
        """The arena: all outputs in order of completion."""

PAGE: int  # a file of `map_files` begins at a multiple

def map_files(paths: Sequence[str], sizes: Sequence[int]) -> NDArray[np.int32]:
    """sizes[i] bytes of every file as one array, read-only, that costs no memory until it is read.

    File i begins where the whole pages of those before it end. Raises OSError.
    """

class Credit:
    """Value and label of every node, computed by credit()."""

    @property
    def value(self) -> NDArray[np.float64]:
        """NaN: no value."""

    @property
    def label(self) -> NDArray[np.int8]:
        """1 positive, 0 negative, -1 no value."""

def credit(
    forest: Forest,
    threshold: tuple[int, int] = (1, 2),
    inclusive: bool = False,
    mean: Literal["children", "leaves"] = "children",
    pooling: Literal["global", "local"] = "global",
) -> Credit:
    """Outcomes propagated from the leaves to the questions (MALT, arXiv 2412.01928, section 3.2).

    The value of a graded leaf is its outcome, of another node the mean over its children that have
    a value (mean="leaves": over its graded leaves; pooling="local": of its children's labels).
    Positive: value > threshold = (numerator, denominator), or >= if inclusive. Exact: ValueError
    if a value's denominator would pass 2**63.
    """

def examples(
    forest: Forest,
    credit: Credit,
    level: int,
    source: Literal["paired", "all"] = "paired",
    dedup: bool = False,
) -> NDArray[np.uint32]:
    """Ids of the positive nodes of a level, ascending; "paired": those with a negative sibling.

    dedup: siblings with the same tokens count once, as the first, with the mean of their values.
    """

def pairs(
    forest: Forest,
    credit: Credit,
    level: int,
    policy: Literal["all", "one", "best_worst"] = "all",
    seed: int = 0,
    max_per_question: int = 0,
    min_margin: tuple[int, int] = (0, 1),
    dedup: bool = False,
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """(chosen, rejected): a positive and a negative sibling of a level each, in node order.

    policy: "all" pairs of a block; "one" at random; "best_worst" = highest chosen, then lowest
    rejected value, the first of equals. Never two siblings with the same tokens, nor with
    value(chosen) - value(rejected) < min_margin = (numerator, denominator). max_per_question > 0
    keeps a random subset. What is random depends on seed and on the nodes' paths, not on their ids.
    """

# ---- CPU kernels; malt_fast.kernels is the way to call them ----

def simd_levels() -> list[str]:
    """The instruction sets this machine runs, best first: "avx512", "avx2", "portable"."""

def fold_rows(
    tile: NDArray[np.float32] | NDArray[np.uint16],
    type: Literal["float32", "bfloat16", "float16"],
    first: int,
    *,
    bias: NDArray[np.float32] | None,
    temperature: NDArray[np.float32] | None,
    softcap: float,
    start: NDArray[np.int64],
    token: NDArray[np.int64],
    offset: NDArray[np.float32],
    total: NDArray[np.float32],
    weighted: NDArray[np.float32] | None,
    target_logit: NDArray[np.float32],
    residual: NDArray[np.float32] | None,
    weights: bool,
    simd: str = "",
) -> None:
    """Take a tile [rows, n] of raw logits into a running softmax, in place.

    See csrc/kernels/logprob.hpp. Halves are given as their bits, uint16. Arrays are worked on where
    they lie: another dtype or a gap in one raises ValueError. simd: one of simd_levels(), default
    the best. Releases the GIL.
    """

def gradient_rows(
    tile: NDArray[np.float32] | NDArray[np.uint16],
    out: NDArray[np.float32] | NDArray[np.uint16],
    type: Literal["float32", "bfloat16", "float16"],
    first: int,
    *,
    bias: NDArray[np.float32] | None,
    temperature: NDArray[np.float32] | None,
    softcap: float,
    start: NDArray[np.int64],
    token: NDArray[np.int64],
    log_total: NDArray[np.float32],
    grad_target: NDArray[np.float32],
    grad_row: NDArray[np.float32],
    simd: str = "",
) -> None:
    """Turn a tile of raw logits into d(sum g logp)/d raw; `out` may be the tile, else as above."""

def dpo_losses(
    logp: ArrayLike,
    ref_logp: ArrayLike,
    pairs: ArrayLike,
    lengths: ArrayLike | None,
    *,
    loss_type: Literal["sigmoid", "hinge", "ipo"],
    beta: float,
    label_smoothing: float,
    nll: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Losses [P], rewards [2, P] and slopes [2, P] of pairs, flat [2 P] (csrc/kernels/dpo.hpp)."""

def dpo_gradient(
    grad: ArrayLike, slopes: ArrayLike, pairs: ArrayLike, completions: int
) -> NDArray[np.float32]:
    """d loss / d logp [completions]: slopes times the upstream grad [P], added up in order."""

# ---- packs ----

class Packs:
    """P packs of prefix trees, as columns; rows and ends count from the start of their pack.

    Pack p has the inputs begin[p]:begin[p + 1] of token, position and end, the targets
    target_begin[p]:target_begin[p + 1] of row, target and owner, the sequences
    member_begin[p]:member_begin[p + 1] of member and the pairs link_begin[p]:link_begin[p + 1].
    """

    def __len__(self) -> int: ...
    @property
    def begin(self) -> NDArray[np.int64]: ...
    @property
    def token(self) -> NDArray[np.int32]: ...
    @property
    def position(self) -> NDArray[np.int32]:
        """Counted from the root of the token's tree."""

    @property
    def end(self) -> NDArray[np.int32]:
        """Where the subtree of the token's segment ends: q sees k when k <= q < end[k]."""

    @property
    def target_begin(self) -> NDArray[np.int64]: ...
    @property
    def row(self) -> NDArray[np.int32]:
        """The input that predicts `target`, a token of sequence `owner`."""

    @property
    def target(self) -> NDArray[np.int32]: ...
    @property
    def owner(self) -> NDArray[np.int32]: ...
    @property
    def member_begin(self) -> NDArray[np.int64]: ...
    @property
    def member(self) -> NDArray[np.int32]:
        """Sequences of each pack, ascending."""

    @property
    def link_begin(self) -> NDArray[np.int64]: ...
    @property
    def link(self) -> NDArray[np.int32]:
        """Pairs of each pack, ascending."""

def lay_out(
    tokens: ArrayLike,
    prompt_begin: ArrayLike,
    prompt_len: ArrayLike,
    completion_begin: ArrayLike,
    completion_len: ArrayLike,
    pairs: ArrayLike,
    capacity: int,
) -> Packs:
    """Lay sequences out as prefix trees, in packs of at most `capacity` tokens.

    Sequence i is `tokens[prompt_begin[i]:][:prompt_len[i]]` and likewise a completion; equal
    prompts are best the same slice. pairs: flat, two sequences each, which then share a pack. The
    last token of a sequence is no input; every token of a completion is a target. A sequence is in
    one pack, or in several if its pairs do not fit one. ValueError for what does not fit at all.
    """

def block_map(
    end: ArrayLike, block: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """(count [n], index [n, n], full_count [n], full_index [n, n]) for n = ceil(N / block).

    Block i of queries sees the count[i] blocks of keys index[i, :count[i]] in part, and
    full_index[i, :full_count[i]] whole, ascending: FlexAttention's layout.
    """

def best_fit_decreasing(sizes: ArrayLike, capacity: int) -> NDArray[np.int32]:
    """The bin of each item, 0..capacity in size: in decreasing size, each into the fullest bin."""

# ---- attention over packs, CPU; malt_fast.tree_attention is the way to call it ----

def tree_attention(
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    end: ArrayLike,
    scale: float,
    softcap: float,
    out: NDArray[np.float32],
    log_sum: NDArray[np.float32],
    simd: str = "",
) -> None:
    """Fill out [H, N, D] and log_sum [H, N] from q [H, N, D], k and v [G, N, D] (H % G == 0).

    Rows of D lie side by side, other strides are free. softcap 0: none. See
    csrc/packing/tree_attention.hpp.
    """

def tree_attention_gradient(
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    end: ArrayLike,
    scale: float,
    softcap: float,
    out: NDArray[np.float32],
    log_sum: NDArray[np.float32],
    grad: NDArray[np.float32],
    dq: NDArray[np.float32],
    dk: NDArray[np.float32],
    dv: NDArray[np.float32],
    simd: str = "",
) -> None:
    """Fill dq, dk and dv for the upstream `grad` of `out`; shapes as in tree_attention."""

def compare_answers(grader: str, golds: Sequence[str], answers: Sequence[str]) -> NDArray[np.uint8]:
    """uint8[n]: 0 different, 1 equal, 2 cannot tell; each answer against its gold."""

def extract_answers(grader: str, completions: Sequence[str]) -> list[str | None]:
    """The answer that each completion gives, None where it gives none."""

def can_read(grader: str, gold: str) -> bool:
    """Is a gold answer one that others can be compared with?"""
