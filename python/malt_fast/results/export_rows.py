"""What a role learned from, as rows for other trainers: the files of OUT/data/ROLE.

    sft.parquet  prompt, completion                    what the role's SFT learned from
    dpo.parquet  prompt, chosen, rejected, ref_*_logps its sibling pairs
    kto.parquet  prompt, completion, label             every output that has a label
    prm.parquet  prompt, completions, labels, values   the turns up to an output, as steps

These are TRL's column names; TRL ignores the other columns (token ids, nodes, values, questions,
rounds). Prompts are text with its control tokens, not messages, because another chat template may
produce other tokens. Tokenizing the text of an output need not give back the tokens that were
sampled: `exact` says whether it does, and the sampled ids are always included. Parquet has lists
and types, can be read in pieces, and loads into `datasets` without a script.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow.parquet import ParquetWriter

from malt_fast.forest.datasets import prompt_text
from malt_fast.forest.role_data import prompted
from malt_fast.models.identity import content
from malt_fast.models.plain_text import IDS_ONLY, Tokens
from malt_fast.results.opened_run import Array, Logps, RoleForest
from malt_fast.tasks.prompts import Prompts
from malt_fast.utils.quiet import quiet

ROWS = 4096  # per row group, the texts that are in memory at once

IDS = pa.list_(pa.int32())
ORIGIN = {"exact": pa.bool_(), "question": pa.string(), "round": pa.int32()}
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
    inexact: int  # rows whose text does not give back the sampled tokens
    content: str  # hash of the file


def write_rows(
    folder: Path, sources: Sequence[RoleForest], references: Sequence[Logps] | None
) -> dict[str, Size]:
    """Write a role's files, over all its rounds; the size of each that has rows.

    sources: the role's forests, one per round; references: for each of them [pairs, 2] log-probs
    under DPO's reference, summed over a completion's tokens. Without them there are no ref columns.
    """
    known = references is not None
    logps: Sequence[Logps | None] = references or [None] * len(sources)
    files = {
        "sft": (COMPLETION | ORIGIN, (rows for one in sources for rows in sft_rows(one))),
        "dpo": (
            PAIR | (REFERENCES if known else {}) | ORIGIN,
            (rows for two in zip(sources, logps, strict=True) for rows in dpo_rows(*two)),
        ),
        "kto": (
            COMPLETION | {"label": pa.bool_()} | ORIGIN,
            (rows for one in sources for rows in kto_rows(one)),
        ),
        "prm": (STEPS, (rows for one in sources for rows in prm_rows(one))),
    }
    with quiet():
        sizes = {
            kind: _write(folder / f"{kind}.parquet", pa.schema(list(columns.items())), rows)
            for kind, (columns, rows) in files.items()
        }
    return {kind: size for kind, size in sizes.items() if size.rows}


def _write(path: Path, schema: pa.Schema, groups: Iterable[list[Row]]) -> Size:
    """Write groups of rows; without any row no file is left."""
    count = inexact = 0
    with ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        for rows in groups:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            count += len(rows)
            inexact += sum(not row.get("exact", True) for row in rows)
    size = Size(count, inexact, content(path))
    if not count:
        path.unlink()
    return size


# ---- rows, one group at a time ----


def sft_rows(source: RoleForest) -> Iterator[list[Row]]:
    for nodes in _groups(source.examples):
        yield _completions(source, nodes)


def kto_rows(source: RoleForest) -> Iterator[list[Row]]:
    for nodes in _groups(_labelled(source)):
        labels = (source.credit.label[nodes] == 1).tolist()
        rows = _completions(source, nodes)
        yield [row | {"label": label} for row, label in zip(rows, labels, strict=True)]


def dpo_rows(source: RoleForest, references: Logps | None) -> Iterator[list[Row]]:
    for number, pairs in enumerate(_groups(source.pairs)):
        sides = _completions(source, pairs.ravel())
        rows = [_pair(*two) for two in zip(sides[::2], sides[1::2], strict=True)]
        if references is not None:
            logps = references[number * ROWS : (number + 1) * ROWS].tolist()
            named = (dict(zip(REFERENCES, two, strict=True)) for two in logps)
            rows = [row | logp for row, logp in zip(rows, named, strict=True)]
        yield rows


def prm_rows(source: RoleForest) -> Iterator[list[Row]]:
    """A step is a turn: the prompt is the bare question, the last step the role's output."""
    for nodes in _groups(_labelled(source)):
        trees, texts = source.tree_of(nodes).tolist(), dict[int, str]()  # by node
        yield [_steps(source, *one, texts) for one in zip(nodes.tolist(), trees, strict=True)]


def _groups(nodes: Array) -> Iterator[Array]:
    return (nodes[i : i + ROWS] for i in range(0, len(nodes), ROWS))


def _labelled(source: RoleForest) -> Array:
    """Outputs of the role that have a label and at least one token, ascending."""
    forest = source.forest
    labelled = (source.credit.label >= 0) & (forest.token_len > 0)
    return np.flatnonzero(labelled & (forest.level == source.level))


def _completions(source: RoleForest, nodes: Array) -> list[Row]:
    """COMPLETION and ORIGIN of each node."""
    trees = source.tree_of(nodes)
    prompts = (source.questions, source.prompts)
    ids = prompted(source.forest, source.level, *prompts, nodes, trees)
    values = source.credit.value[nodes].tolist()
    columns = (ids, as_texts(source.prompts, ids), nodes.tolist(), values, trees.tolist())
    return [
        {
            **{"prompt": text.prompt, "completion": text.completion, "exact": text.exact},
            **{"prompt_ids": prompt, "completion_ids": completion},
            **{"node": node, "value": value, "round": source.round},
            "question": source.questions[tree].id,
        }
        for (prompt, completion), text, node, value, tree in zip(*columns, strict=True)
    ]


def _pair(chosen: Row, rejected: Row) -> Row:
    row: Row = {name: chosen[name] for name in ("prompt", "prompt_ids", "question", "round")}
    for side, one in (("chosen", chosen), ("rejected", rejected)):
        row |= {side: one["completion"], f"{side}_ids": one["completion_ids"]}
        row |= {f"{side}_{name}": one[name] for name in ("node", "value")}
    return row | {"exact": chosen["exact"] and rejected["exact"]}


def _steps(source: RoleForest, node: int, tree: int, texts: dict[int, str]) -> Row:
    forest, credit = source.forest, source.credit
    path = [node]
    while forest.level[path[-1]] > 1:
        path.append(int(forest.parent[path[-1]]))
    path.reverse()
    for step in path:
        if step not in texts:  # siblings share their ancestors
            texts[step] = source.prompts.decode(forest.tokens_of(step))
    question = source.questions[tree]
    return {
        "prompt": question.text,
        "completions": [texts[step] for step in path],
        "labels": (credit.label[path] == 1).tolist(),
        "values": credit.value[path].tolist(),
        **{"nodes": path, "question": question.id, "round": source.round},
    }


# ---- tokens as text ----


class Text(NamedTuple):
    prompt: str
    completion: str
    exact: bool  # TRL gets the sampled tokens from it


def as_texts(prompts: Prompts, rows: Sequence[tuple[Tokens, Tokens]]) -> list[Text]:
    """Prompts and completions as text; rows with the same prompt share one array.

    `exact`: tokenizing the prompt gives back its tokens, and tokenizing prompt, completion and end
    token, as TRL does, gives back all of them. This fails for an output that was cut off or ended
    by another token, for bytes that are no character, and where the text splits into other tokens.
    """
    tokenizer = prompts.tokenizer
    own = {id(prompt): prompt for prompt, _ in rows}
    texts = {key: prompt_text(tokenizer, prompt) for key, prompt in own.items()}
    again = dict(zip(own, _tokenize(tokenizer, list(texts.values())), strict=True))
    said = [prompts.decode(completion) for _, completion in rows]
    end = tokenizer.eos_token or ""
    asked = [texts[id(prompt)] for prompt, _ in rows]
    whole = [a + s + ("" if s.endswith(end) else end) for a, s in zip(asked, said, strict=True)]
    exact = [
        again[id(prompt)] == prompt.tolist() and ids == [*prompt.tolist(), *completion.tolist()]
        for (prompt, completion), ids in zip(rows, _tokenize(tokenizer, whole), strict=True)
    ]
    return [Text(*three) for three in zip(asked, said, exact, strict=True)]


def _tokenize(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(texts, **IDS_ONLY)["input_ids"] if texts else []
    return ids
