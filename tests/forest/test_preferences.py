"""The training data of a role, against the same data read from the trees node by node."""

import contextlib
import random
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malt_fast._core.forest import (
    DONE,
    FAILED,
    RESERVED,
    Credit,
    Forest,
    credit,
    examples,
    pairs,
)
from malt_fast.config.load import make_config
from malt_fast.config.schema import Config, PreferencesConfig
from malt_fast.forest.datasets import has_datasets, write_datasets
from malt_fast.forest.preferences import path_keys, select_examples, select_pairs
from malt_fast.forest.role_data import role_data
from malt_fast.forest.yields import RoleYield, yield_rows, yield_table
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.task import Question
from malt_fast.tasks.wording import RolePrompt
from tests.core.forests import Node, grow, random_tree, trees
from tests.tiny import byte_tokenizer
from tests.volume import volume

CHAIN = ["a", "b", "c", "d"]
WORDING = {
    "a": RolePrompt(None, "{question}:"),
    "b": RolePrompt(None, "{question} {a}?"),
    "c": RolePrompt(None, "{question} {b}!"),  # does not see a: prompts of cousins can be equal
    "d": RolePrompt("Be d.", "{question} {a}{b}{c}"),
}
PROMPTS = Prompts(CHAIN, WORDING, byte_tokenizer(), chat=False)
QUESTIONS = [Question(str(i), text, "") for i, text in enumerate(("1+1", "two", "1+1"))]
Key = tuple[bytes, bytes]


def forest_of(
    seed: int,
    branching: list[int],
    *,
    n: int = 3,
    lost: float = 0.1,
    words: int = 4,
    order: int = 0,
) -> tuple[Forest, Credit, dict[int, Node]]:
    rng = random.Random(seed)
    questions = [random_tree(rng, (q,), branching, False, lost, words) for q in range(n)]
    forest, node_of = grow(questions, order)
    return forest, credit(forest), node_of


def find(node_of: dict[int, Node], path: tuple[int, ...]) -> Node:
    return next(node for node in node_of.values() if node.path == path)


def row(node_of: dict[int, Node], node: int) -> Key:
    """(prompt, completion) of a node as bytes, by walking its path."""
    path = node_of[node].path
    above = [find(node_of, path[:i]).tokens for i in range(2, len(path))]
    segments = [np.array(tokens, np.int32) for tokens in above]
    question = PROMPTS.encode_question(QUESTIONS[path[0]].text)
    prompt = PROMPTS.build(len(path) - 1, question, segments)
    return prompt.tobytes(), np.array(node_of[node].tokens, np.int32).tobytes()


@settings(max_examples=volume(40), deadline=None)
@given(trees(), st.integers(1, 4), st.booleans())
def test_rows_are_what_the_trees_hold(questions: list[Node], level: int, dedup: bool) -> None:
    forest, node_of = grow(questions)
    values, prefs = credit(forest), PreferencesConfig(dedup=dedup, sft_source="all")
    sft = role_data(
        forest, values, level, QUESTIONS, PROMPTS, Config(chain=CHAIN, preferences=prefs), "sft"
    )
    rows = [(p.tobytes(), c.tobytes()) for p, c in zip(sft.prompts, sft.completions, strict=True)]
    ids = examples(forest, values, level, "all", dedup).tolist()
    assert rows == [row(node_of, i) for i in ids if node_of[i].tokens]
    assert sft.pairs.shape == (0, 2)

    dpo = role_data(
        forest, values, level, QUESTIONS, PROMPTS, Config(chain=CHAIN, preferences=prefs), "dpo"
    )
    rows = [(p.tobytes(), c.tobytes()) for p, c in zip(dpo.prompts, dpo.completions, strict=True)]
    assert len(set(rows)) == len(rows)
    assert set(dpo.pairs.ravel().tolist()) == set(range(len(rows)))
    both = zip(*pairs(forest, values, level, dedup=dedup), strict=True)
    expected = [
        (row(node_of, c), row(node_of, r))
        for c, r in both
        if node_of[c].tokens and node_of[r].tokens
    ]
    assert [(rows[c], rows[r]) for c, r in dpo.pairs] == expected
    for c, r in dpo.pairs:
        assert dpo.prompts[c] is dpo.prompts[r]
        assert not np.array_equal(dpo.completions[c], dpo.completions[r])


def test_equal_prompts_are_one_array_and_duplicates_count_in_sft() -> None:
    forest = Forest()
    forest.add_questions(1)
    forest.reserve([0], [3])
    forest.complete([1, 2, 3], [40, 40, 41], [0, 1, 2, 3], [0, 0, 0])
    forest.set_outcomes([1, 2, 3], [1, 1, 0])
    values = credit(forest)
    sft = role_data(forest, values, 1, QUESTIONS, PROMPTS, Config(), "sft")
    assert [c.tolist() for c in sft.completions] == [[40], [40]]
    assert sft.prompts[0] is sft.prompts[1]
    dpo = role_data(forest, values, 1, QUESTIONS, PROMPTS, Config(), "dpo")
    assert [c.tolist() for c in dpo.completions] == [[40], [41]]
    assert dpo.pairs.tolist() == [[0, 1], [0, 1]]
    once = Config(chain=CHAIN, preferences=PreferencesConfig(dedup=True))
    assert len(role_data(forest, values, 1, QUESTIONS, PROMPTS, once, "sft").completions) == 1
    dpo = role_data(forest, values, 1, QUESTIONS, PROMPTS, once, "dpo")
    assert dpo.pairs.tolist() == [[0, 1]]


@pytest.mark.parametrize("limit", [1, 5, 1000])
def test_limits_take_a_seeded_subset_that_knows_no_order(limit: int) -> None:
    prefs = PreferencesConfig(sft_source="all", max_examples=limit, max_pairs=limit)
    chosen = []
    for order in (0, 1, 2):
        forest, values, node_of = forest_of(5, [4, 4], n=3, lost=0, order=order)
        ids = select_examples(forest, values, 2, prefs, 7)
        both = select_pairs(forest, values, 2, prefs, 7)
        every = set(
            select_examples(forest, values, 2, PreferencesConfig(sft_source="all"), 7).tolist()
        )
        assert set(ids.tolist()) <= every
        assert len(ids) == min(limit, len(every))
        assert ids.tolist() == sorted(ids.tolist())
        paths = {node_of[i].path for i in ids.tolist()}
        chosen.append(
            (paths, {(node_of[c].path, node_of[r].path) for c, r in zip(*both, strict=True)})
        )
    assert chosen[0] == chosen[1] == chosen[2]
    if limit == 5:
        draws = {
            tuple(select_examples(forest, values, 2, prefs, seed).tolist()) for seed in range(9)
        }
        assert len(draws) > 5


def test_a_subset_of_many_is_even() -> None:
    """Over many seeds, every example is drawn about equally often."""
    forest, values, _ = forest_of(5, [4, 4], n=3, lost=0)
    prefs = PreferencesConfig(sft_source="all", max_examples=4)
    drawn: Counter[int] = Counter()
    for seed in range(600):
        drawn.update(select_examples(forest, values, 2, prefs, seed).tolist())
    every = select_examples(forest, values, 2, PreferencesConfig(sft_source="all"), 0)
    expected = 600 * 4 / len(every)
    assert all(abs(drawn[int(i)] - expected) < 5 * expected**0.5 for i in every)


def test_path_keys_are_distinct_and_follow_the_path() -> None:
    by_path = []
    for order in (0, 1):
        forest, _, node_of = forest_of(1, [5, 5, 5], n=3, lost=0, order=order)
        keys = path_keys(forest, 3)
        assert len(set(keys.tolist())) == len(forest)
        by_path.append({node_of[i].path: int(keys[i]) for i in range(len(forest))})
    assert by_path[0] == by_path[1]


def test_min_margin_is_the_written_decimal() -> None:
    """Values 1 and 0.9 differ by exactly 0.1, though not in binary floating point."""
    forest = Forest()
    forest.add_questions(1)
    forest.reserve([0], [2])
    forest.complete([1, 2], [40, 41], [0, 1, 2], [0, 0])
    forest.reserve([1, 2], [10, 10])
    forest.complete(range(3, 23), np.arange(20), range(21), [0] * 20)
    forest.set_outcomes(range(3, 23), [1] * 10 + [0] * 9 + [1])
    values = credit(forest)
    for margin, n in ((0.9, 1), (0.91, 0), (0.0, 1)):
        prefs = PreferencesConfig(min_margin=margin)
        assert len(select_pairs(forest, values, 1, prefs, 0)[0]) == n


def twin_yield(
    node_of: dict[int, Node], values: Credit, level: int, role: str
) -> dict[str, object]:
    nodes = {i: node for i, node in node_of.items() if len(node.path) == level + 1}
    blocks: dict[tuple[int, ...], list[int]] = {}
    for i, node in nodes.items():
        if node.state == DONE:
            blocks.setdefault(node.path[:-1], []).append(i)
    labels = [{int(values.label[i]) for i in block} for block in blocks.values()]
    same = sum(len(b) - len({tuple(nodes[i].tokens) for i in b}) for b in blocks.values())
    return {
        "role": role,
        "nodes": sum(node.state != RESERVED for node in nodes.values()),
        "failed": sum(node.state == FAILED for node in nodes.values()),
        "positives": sum(values.label[i] == 1 for i in nodes),
        "negatives": sum(values.label[i] == 0 for i in nodes),
        "mixed": sum({0, 1} <= block for block in labels) / max(len(blocks), 1),
        "identical": same / max(sum(map(len, blocks.values())), 1),
    }


@settings(max_examples=volume(30), deadline=None)
@given(trees())
def test_yield_counts_what_is_there(questions: list[Node]) -> None:
    forest, node_of = grow(questions)
    values = credit(forest)
    config = make_config({"chain": CHAIN, "tree": {"branching": [2, 2, 2, 2]}})
    rows = yield_rows(forest, values, config)
    assert [r.role for r in rows] == CHAIN
    for level, found in enumerate(rows, 1):
        expected = twin_yield(node_of, values, level, found.role)
        assert vars(found) == pytest.approx(
            expected | {"examples": found.examples, "pairs": found.pairs, "labelled": 0}
        )
        sft = role_data(forest, values, level, QUESTIONS, PROMPTS, config, "sft")
        dpo = role_data(forest, values, level, QUESTIONS, PROMPTS, config, "dpo")
        assert (found.examples, found.pairs) == (len(sft.completions), len(dpo.pairs))


def test_yield_table_names_every_role() -> None:
    rows = [
        RoleYield("judge", 1234, 5, 6, 7, 0.25, 0.5, 8, 9),
        RoleYield("x", 0, 0, 0, 0, 0, 0, 0, 0),
    ]
    table = yield_table(rows)
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == ["judge", "x"]
    assert [column[0] for column in cells[1:]] == [
        "1,234",
        "5",
        "6",
        "7",
        "25.0%",
        "50.0%",
        "8",
        "9",
    ]
    labelled = yield_table([*rows, RoleYield("kto", 0, 0, 0, 0, 0, 0, 0, 0, labelled=12)])
    assert [*labelled.columns[-1].cells] == ["0", "0", "12"]


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_datasets_are_trl_rows(tmp_path: Path, stage: Literal["sft", "dpo"]) -> None:
    forest, values, _ = forest_of(5, [4, 4], lost=0)
    prefs = PreferencesConfig()
    data = role_data(
        forest, values, 2, QUESTIONS, PROMPTS, Config(chain=CHAIN, preferences=prefs), stage
    )
    (path,) = write_datasets(data, PROMPTS, tmp_path / "data" / "b", stage)
    assert {file.name for file in path.parent.iterdir()} == {f"{stage}.parquet", "stage.txt"}
    rows = pq.read_table(path).to_pylist()
    if stage == "sft":
        index = [(i, i) for i in range(len(data.completions))]
        names = ("completion", "completion")
    else:
        index, names = [tuple(pair) for pair in data.pairs.tolist()], ("chosen", "rejected")
    assert rows
    assert len(rows) == len(index)
    for found, (first, second) in zip(rows, index, strict=True):
        assert set(found) == {"prompt", *names}
        assert found[names[0]] == PROMPTS.decode(data.completions[first])
        assert found[names[1]] == PROMPTS.decode(data.completions[second])
        # This tokenizer adds nothing by itself, so its text gives the prompt's tokens back.
        assert PROMPTS.tokenizer(found["prompt"])["input_ids"] == data.prompts[first].tolist()


@pytest.mark.parametrize("loss_type", ["kto", "sigmoid+kto"])
def test_labelled_outputs_are_rows_of_their_own(tmp_path: Path, loss_type: str) -> None:
    forest, values, node_of = forest_of(5, [4, 4], lost=0.1)
    config = make_config(
        {
            "chain": CHAIN,
            "tree": {"branching": [4, 4, 1, 1]},
            "train": {"dpo": {"loss_type": loss_type}},
        }
    )
    data = role_data(forest, values, 2, QUESTIONS, PROMPTS, config, "dpo")
    plain = role_data(forest, values, 2, QUESTIONS, PROMPTS, Config(chain=CHAIN), "dpo")
    assert len(data.pairs) == (0 if loss_type == "kto" else len(plain.pairs)) < data.rows("dpo")
    expected = [
        (*row(node_of, i), int(values.label[i]))
        for i, node in node_of.items()
        if len(node.path) == 3 and node.tokens and values.label[i] >= 0
    ]
    rows = [(data.prompts[i], data.completions[i], label) for i, label in data.labelled]
    assert [(p.tobytes(), c.tobytes(), label) for p, c, label in rows] == expected
    both = [(data.completions[c].tolist(), data.completions[r].tolist()) for c, r in data.pairs]
    assert not both or both == [
        (plain.completions[c].tolist(), plain.completions[r].tolist()) for c, r in plain.pairs
    ]
    yields = yield_rows(forest, values, config)[1]
    assert yields.labelled == len(rows)

    (tmp_path / "dpo.parquet").touch()  # of other settings
    paths = write_datasets(data, PROMPTS, tmp_path, "dpo")
    assert [path.stem for path in paths] == (["kto"] if loss_type == "kto" else ["dpo", "kto"])
    assert {file.stem for file in tmp_path.glob("*.parquet")} == {path.stem for path in paths}
    found = pq.read_table(paths[-1]).to_pylist()
    assert [(row["completion"], row["label"]) for row in found] == [
        (PROMPTS.decode(c), label == 1) for _, c, label in rows
    ]
    assert set(found[0]) == {"prompt", "completion", "label"}


def test_flipped_bits_in_datasets_are_noticed(tmp_path: Path) -> None:
    """By the seal, and in pages by everybody who verifies their checksums."""
    forest, values, _ = forest_of(5, [4, 4], lost=0)
    data = {
        stage: role_data(forest, values, 2, QUESTIONS, PROMPTS, Config(), stage)
        for stage in ("sft", "dpo")
    }
    for stage, own in data.items():
        (path,) = write_datasets(own, PROMPTS, tmp_path, stage)
    whole, true = path.read_bytes(), pq.read_table(path)
    assert has_datasets(tmp_path, ["sft"]) and has_datasets(tmp_path, ["dpo"])
    pages = pq.read_metadata(path).serialized_size
    for at in range(4, len(whole) - pages - 8, 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        assert not has_datasets(tmp_path, ["dpo"])
        with contextlib.suppress(OSError, pa.ArrowException):
            assert pq.read_table(path, page_checksum_verification=True) == true
    write_datasets(data["sft"], PROMPTS, tmp_path, "sft")  # seals no damage of the other
    assert has_datasets(tmp_path, ["sft"]) and not has_datasets(tmp_path, ["dpo"])
    write_datasets(data["dpo"], PROMPTS, tmp_path, "dpo")
    assert has_datasets(tmp_path, ["sft"]) and pq.read_table(path) == true


def test_a_begin_token_that_the_tokenizer_adds_is_not_in_the_text(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    prompts = Prompts(CHAIN, WORDING, tokenizer, chat=False)
    forest, values, _ = forest_of(5, [4, 4], lost=0)
    config = Config(chain=CHAIN, preferences=PreferencesConfig(sft_source="all"))
    data = role_data(forest, values, 1, QUESTIONS, prompts, config, "sft")
    assert data.prompts[0][0] == tokenizer.bos_token_id
    rows = pq.read_table(write_datasets(data, prompts, tmp_path, "sft")[0]).to_pylist()
    assert rows
    for found, prompt in zip(rows, data.prompts, strict=True):
        assert tokenizer(found["prompt"])["input_ids"] == prompt.tolist()
