"""What a role learned from, as rows for other trainers: the files of OUT/data/ROLE.

    sft.parquet  prompt, completion                    what the role's SFT learned from
    dpo.parquet  prompt, chosen, rejected, ref_*_logps its sibling pairs
    kto.parquet  prompt, completion, label             every output that has a label
    prm.parquet  prompt, completions, labels, values   the turns up to an output, as steps

These names are TRL's; what stands beside them (token ids, nodes, values, questions, rounds) it does
not look at. Prompts are text with its control tokens, not messages: a chat template rendered
elsewhere may give other tokens. Sampled tokens need not be those that a tokenizer makes of their
text either: `exact` says whether they are, and the ids stand beside in any case. Parquet, since it
has lists and types, is read in pieces, and `datasets` loads it without a script.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow.parquet import ParquetWriter

from malt_fast.forest.datasets import prompt_text
from malt_fast.forest.preferences import select_examples, select_pairs
from malt_fast.forest.role_data import prompted
from malt_fast.models.identity import content
from malt_fast.results.opened_run import Logps, Trees
from malt_fast.tasks.prompts import Prompts, Tokens
from malt_fast.utils.quiet import quiet

ROWS = 4096  # of a row group, whose texts are in memory at once

IDS = pa.list_(pa.int32())
WHENCE = {"exact": pa.bool_(), "question": pa.string(), "round": pa.int32()}
COMPLETION = {
    **{"prompt": pa.string(), "completion": pa.string()},
    **{"prompt_ids": IDS, "completion_ids": IDS, "node": pa.int64(), "value": pa.float64()},
}
PAIR = {
    **{"prompt": pa.string(), "chosen": pa.string(), "rejected": pa.string()},
    **{"prompt_ids": IDS, "chosen_ids": IDS, "rejected_ids": IDS},
    **{"chosen_node": pa.int64(), "rejected_node": pa.int64()},
    **{"chosen_value": pa.float64(), "rejected_value": pa.float64()},
}
STEPS = {
    **{"prompt": pa.string(), "completions": pa.list_(pa.string())},
    **{"labels": pa.list_(pa.bool_()), "values": pa.list_(pa.float64())},
    **{"nodes": pa.list_(pa.int64()), "question": pa.string(), "round": pa.int32()},
}
REFERENCES = {"ref_chosen_logps": pa.float32(), "ref_rejected_logps": pa.float32()}

Row = dict[str, Any]


class Size(NamedTuple):
    rows: int
    inexact: int  # of them, whose text does not give the tokens
    content: str  # hash of the file


def write_rows(
    folder: Path, trees: Sequence[Trees], references: Sequence[Logps | None]
) -> dict[str, Size]:
    """Write a role's files, of all its rounds; the size of each that has any rows.

    references: by round the log-probs [pairs, 2] of DPO's reference, sums over a completion's
    tokens; with one of them missing there are no such columns.
    """
    known = all(logps is not None for logps in references)
    pairs = zip(trees, references if known else [None] * len(trees), strict=True)
    files = {
        "sft": (COMPLETION | WHENCE, (rows for one in trees for rows in sft_rows(one))),
        "dpo": (
            PAIR | (REFERENCES if known else {}) | WHENCE,
            (rows for one, logps in pairs for rows in dpo_rows(one, logps)),
        ),
        "kto": (
            COMPLETION | {"label": pa.bool_()} | WHENCE,
            (rows for one in trees for rows in kto_rows(one)),
        ),
        "prm": (STEPS, (rows for one in trees for rows in prm_rows(one))),
    }
    with quiet():
        sizes = {
            kind: _write(folder / f"{kind}.parquet", pa.schema(list(columns.items())), rows)
            for kind, (columns, rows) in files.items()
        }
    return {kind: size for kind, size in sizes.items() if size.rows}


def _write(path: Path, schema: pa.Schema, groups: Iterable[list[Row]]) -> Size:
    """Write groups of rows. Without any there is no file."""
    count = inexact = 0
    with ParquetWriter(path, schema, compression="zstd") as writer:
        for rows in groups:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            count += len(rows)
            inexact += sum(not row.get("exact", True) for row in rows)
    size = Size(count, inexact, content(path))
    if not count:
        path.unlink()
    return size


# ---- rows, a group at a time ----


def sft_rows(trees: Trees) -> Iterator[list[Row]]:
    prefs, seed = trees.config.preferences, trees.config.seed
    nodes = select_examples(trees.forest, trees.credit, trees.level, prefs, seed)
    for some in _groups(nodes):
        yield _completions(trees, some)


def kto_rows(trees: Trees) -> Iterator[list[Row]]:
    for some in _groups(_labelled(trees)):
        labels = (trees.credit.label[some] == 1).tolist()
        rows = _completions(trees, some)
        yield [row | {"label": label} for row, label in zip(rows, labels, strict=True)]


def dpo_rows(trees: Trees, references: Logps | None) -> Iterator[list[Row]]:
    prefs, seed = trees.config.preferences, trees.config.seed
    nodes = np.stack(select_pairs(trees.forest, trees.credit, trees.level, prefs, seed), axis=1)
    for begin, some in zip(range(0, len(nodes), ROWS), _groups(nodes), strict=True):
        sides = _completions(trees, some.ravel())
        rows = [_pair(*two) for two in zip(sides[::2], sides[1::2], strict=True)]
        if references is not None:
            logps = references[begin : begin + ROWS].tolist()
            named = (dict(zip(REFERENCES, two, strict=True)) for two in logps)
            rows = [row | logp for row, logp in zip(rows, named, strict=True)]
        yield rows


def prm_rows(trees: Trees) -> Iterator[list[Row]]:
    """Steps are turns: the prompt is the question by itself, the last step the role's output."""
    for some in _groups(_labelled(trees)):
        owners = trees.tree_of(some).tolist()
        yield [_steps(trees, *one) for one in zip(some.tolist(), owners, strict=True)]


def _groups(nodes: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    return (nodes[i : i + ROWS] for i in range(0, len(nodes), ROWS))


def _labelled(trees: Trees) -> npt.NDArray[np.intp]:
    """Outputs of the role that have a label and a token, ascending."""
    forest = trees.forest
    labelled = (trees.credit.label >= 0) & (forest.token_len > 0)
    return np.flatnonzero(labelled & (forest.level == trees.level))


def _completions(trees: Trees, nodes: npt.NDArray[Any]) -> list[Row]:
    """COMPLETION and WHENCE of each node."""
    owners = trees.tree_of(nodes)
    ids = prompted(trees.forest, trees.level, trees.segments, trees.prompts, nodes, owners)
    values = trees.credit.value[nodes].tolist()
    return [
        {
            **{"prompt": text.prompt, "completion": text.completion, "exact": text.exact},
            **{"prompt_ids": prompt, "completion_ids": completion},
            **{"node": node, "value": value, "round": trees.round},
            "question": trees.questions[owner]["id"],
        }
        for (prompt, completion), text, node, value, owner in zip(
            ids, as_texts(trees.prompts, ids), nodes.tolist(), values, owners.tolist(), strict=True
        )
    ]


def _pair(chosen: Row, rejected: Row) -> Row:
    sides = {"chosen": chosen, "rejected": rejected}
    row: Row = {name: chosen[name] for name in ("prompt", "prompt_ids", "question", "round")}
    for side, one in sides.items():
        row[side] = one["completion"]
        row |= {f"{side}_ids": one["completion_ids"]}
        row |= {f"{side}_{name}": one[name] for name in ("node", "value")}
    return row | {"exact": chosen["exact"] and rejected["exact"]}


def _steps(trees: Trees, node: int, owner: int) -> Row:
    forest, credit = trees.forest, trees.credit
    path = [node]
    while forest.level[path[-1]] > 1:
        path.append(int(forest.parent[path[-1]]))
    path.reverse()
    question = trees.questions[owner]
    return {
        "prompt": question["text"],
        "completions": [trees.prompts.decode(forest.tokens_of(step)) for step in path],
        "labels": (credit.label[path] == 1).tolist(),
        "values": credit.value[path].tolist(),
        **{"nodes": path, "question": question["id"], "round": trees.round},
    }


# ---- tokens as text ----


class Text(NamedTuple):
    prompt: str
    completion: str
    exact: bool  # TRL makes the very tokens of it


def as_texts(prompts: Prompts, rows: Sequence[tuple[Tokens, Tokens]]) -> list[Text]:
    """Prompts and completions as text; equal prompts are one array.

    `exact`: the tokenizer gives back the prompt, and all of it from both and the end token, which
    is what TRL asks it for. Not so for an output that was cut off or ended by another token, for
    bytes that are no character, and where text splits otherwise than it was sampled.
    """
    tokenizer = prompts.tokenizer
    own = {id(prompt): prompt for prompt, _ in rows}
    texts = {key: prompt_text(tokenizer, prompt) for key, prompt in own.items()}
    again = dict(zip(own, _tokenised(tokenizer, list(texts.values())), strict=True))
    said = [prompts.decode(completion) for _, completion in rows]
    end = tokenizer.eos_token or ""
    asked = [texts[id(prompt)] for prompt, _ in rows]
    whole = [a + s + ("" if s.endswith(end) else end) for a, s in zip(asked, said, strict=True)]
    tokens = _tokenised(tokenizer, whole)
    exact = [
        again[id(prompt)] == prompt.tolist() and ids == [*prompt.tolist(), *completion.tolist()]
        for (prompt, completion), ids in zip(rows, tokens, strict=True)
    ]
    return [Text(*three) for three in zip(asked, said, exact, strict=True)]


def _tokenised(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(texts)["input_ids"] if texts else []
    return ids
