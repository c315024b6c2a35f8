"""What the training of a run took, counted from its files."""

from pathlib import Path

import numpy as np

from malt_fast._core.forest import Forest
from malt_fast.config.load import make_config
from malt_fast.evaluation.result import EvaluationResult
from malt_fast.evaluation.spent import Spent, tokens_spent, trained_tokens, with_spent
from malt_fast.evaluation.systems import systems_of
from malt_fast.forest.build import UNASKED, build_forest
from malt_fast.forest.file import save_forest
from malt_fast.store.segments import Sample
from malt_fast.store.store import open_store

CHAIN = ["generator", "verifier"]
CONFIG = make_config({"chain": CHAIN, "tree": {"branching": [2, 2]}, "train": {"rounds": 2}})


def sample(i: int, length: int) -> Sample:
    tokens = np.arange(length, dtype=np.int32)
    key = i.to_bytes(16, "little")
    return Sample(key, "q", (0,), 0, tokens, np.zeros(length, np.float32))


def test_an_output_that_two_forests_share_counts_once(tmp_path: Path) -> None:
    store = open_store(tmp_path / "samples")
    rows = np.array(store.append([sample(i, i + 1) for i in range(4)]))
    store.commit_all()
    parents = [-1, 0]
    for name, nodes in (("a", [-1, rows[0], rows[1]]), ("b", [-1, rows[1], UNASKED])):
        path = tmp_path / "round-0" / f"forest-{name}.arrows"
        path.parent.mkdir(exist_ok=True)
        forest: Forest | None = build_forest(parents, 1, np.array(nodes), store)
        assert forest is not None
        save_forest(path, forest, store, "s", "g", parents, np.array(nodes), "")
    spent = tokens_spent(tmp_path, CONFIG)
    assert spent.forests == {"round-0/forest-a": 3, "round-0/forest-b": 2}
    assert spent.sampled == 3


def test_stages_count_where_their_data_is_and_rounds_add_up(tmp_path: Path) -> None:
    notes = {
        ("round-0", "generator", "sft"): "hash\n9 tokens\n",
        ("round-1", "generator", "sft"): "hash\n7 tokens\n",
        ("round-0", "generator", "dpo"): "hash\n5 tokens\n",  # not a role with DPO
        ("round-0", "verifier", "dpo"): "hash\n4 tokens\n",
        ("round-1", "verifier", "dpo"): "hash",  # torn
        ("round-2", "verifier", "dpo"): "hash\n3 tokens\n",  # not a round of the run
    }
    for (index, role, stage), text in notes.items():
        note = tmp_path / index / role / f"{stage}.data.txt"
        data = tmp_path / index / "data" / role / ("kto" if stage == "dpo" else "sft")
        for path in (note, data):
            path.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(text)
        data.with_suffix(".parquet").write_bytes(b"")
    skipped = tmp_path / "round-0" / "verifier" / "sft.data.txt"
    skipped.write_text("hash\n100 tokens\n")
    assert trained_tokens(tmp_path, CONFIG) == {"sft/generator": 16, "dpo/verifier": 4}
    assert tokens_spent(tmp_path, CONFIG).sampled == 0


def test_systems_have_what_their_roles_took() -> None:
    systems = systems_of(CHAIN, 3)
    row = {"accuracy": 0.5, "ci95": (0.4, 0.6), "n": 2}
    row |= {"calls_per_question": 1, "tokens_per_question": 1}
    empty = {"relative_gain": None, "paired": [], "flips": {}, "flips_ci95": {}, "turns": {}}
    rows = [row | {"name": system.name} for system in systems]
    result = EvaluationResult.model_validate(
        {"task": "t", "seed": 0, "malt": "MALT+MV@3", "systems": rows, **empty}
    )
    trained = {"warm sft/generator": 1, "sft/generator": 10, "sft/verifier": 100}
    trained["dpo/verifier"] = 1000
    found = {
        one.name: (one.training_sampled, one.training_tokens)
        for one in with_spent(result, systems, Spent(7, {}, trained)).systems
    }
    assert found["SA"] == found["MA"] == (0, 1)
    assert found["STaR SA"] == (7, 11)
    assert found["STaR MA+MV@3"] == (7, 111)
    assert found["MALT"] == (7, 1111)
    assert found["MALT+MV@3 -verifier"] == (7, 11)
    assert found["MALT+MV@3 -generator"] == (7, 1101)
