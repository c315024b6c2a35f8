"""The Python API against the programs: equal trees, rows, adapters and figures; and mistakes."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest

import malt_fast.api as mf
from malt_fast._core.forest import UNGRADED
from tests.small_run import FAST, load_forest

SUM = {"question": "1+1", "answer": "2"}
WORDING = {"generator": "{question}"}


@pytest.fixture(scope="module")
def made(data, model, finished_run):
    """A finished run of a program, and the settings that it had."""
    settings = {key[2:]: value for key, value in zip(FAST[::2], FAST[1::2], strict=True)}
    settings |= {"task.path": str(data), "task.grader": "number"}
    return finished_run, settings | {"model.name_or_path": str(model)}


@pytest.fixture(scope="module")
def setup(made):
    return mf.prepare("jsonl", made[1])


@pytest.fixture(scope="module")
def graded(setup):
    forest = mf.expand(setup)
    assert (forest.nodes.outcome == UNGRADED).all() and "ungraded" in repr(forest)
    told = forest.grade()
    assert told["outputs"] == len(setup.task.train) * 12
    return forest


@pytest.fixture(scope="module")
def trained(graded, tmp_path_factory):
    out, values = tmp_path_factory.mktemp("out"), mf.credit(graded)
    rows = [mf.preferences(graded, values, role) for role in graded.setup.config.chain]
    trainers = [mf.RoleTrainer(data, out / data.role) for data in rows]
    return [trainer.train() for trainer in trainers], trainers


def test_trees_are_those_of_the_program(made, graded):
    theirs = load_forest(made[0])
    assert np.array_equal(theirs.outcome, graded.nodes.outcome)
    for node in range(len(theirs)):
        assert np.array_equal(theirs.tokens_of(node), graded.nodes.tokens_of(node))


def test_rows_are_those_of_the_program(made, trained, tmp_path):
    for trainer in trained[1]:
        for stage in ("sft", "dpo"):
            file = made[0] / "round-0" / "data" / trainer.data.role / f"{stage}.parquet"
            if file.is_file():
                theirs = datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache"))
                assert theirs.to_list() == trainer.data.to_dataset(stage).to_list()


def test_adapters_are_those_of_the_program(made, trained):
    name = "adapter_model.safetensors"
    for role in trained[0]:
        theirs = made[0] / "adapters" / role.role
        for stage, policy in (("sft", role.sft), ("final", role.final)):
            assert (theirs / stage / name).read_bytes() == Path(policy.adapter, name).read_bytes()
    assert all(trainer.logs["sft"][-1]["step"] == 2 for trainer in trained[1])


def test_figures_are_those_of_the_program(made, setup, trained):
    theirs = json.loads((made[0] / "evaluation.json").read_text())
    ours = mf.evaluate(setup, trained[0])
    about = {"settings", "made_from", "sampled_from", "outputs"}  # which a run's file alone has
    figures = ours.model_dump(mode="json", by_alias=True, exclude=about)
    for system in theirs["systems"]:  # without a run nobody knows what training took
        assert system.pop("training_tokens") == 0 or system["name"] not in ("SA", "MA")
        del system["training_sampled"]
    for system in figures["systems"]:
        del system["training_tokens"], system["training_sampled"]
    assert {key: theirs[key] for key in figures} == figures
    assert ours.accuracy["SA"] == theirs["systems"][0]["accuracy"]
    assert "MALT+MV@3" in str(ours) and "held-out questions" in repr(ours)


def test_what_was_trained_is_not_trained_again(graded, trained, monkeypatch):
    monkeypatch.setattr("malt_fast.training.train_stage.train_stage", None)
    for one, trainer in zip(*trained, strict=True):
        assert mf.RoleTrainer(trainer.data, trainer.out).train() == one


def test_trained_roles_answer(setup, graded, trained):
    again = mf.expand(setup, trained[0])
    drafts = [n for n in np.flatnonzero(again.nodes.level == 1)]
    assert len(again.nodes) == len(graded.nodes) and len(drafts) == 3 * len(setup.task.train)
    with mf.answering(setup, trained[0]) as pipeline:
        answer = pipeline.answer("one or two?")
    assert len(answer.turns) == 3 and list(answer.turns[0]) == setup.config.chain


def test_samples_are_kept(setup, graded, tmp_path, monkeypatch):
    first = mf.expand(setup, samples=tmp_path)
    monkeypatch.setattr("malt_fast.sampling.sample.open_engine", None)
    second = mf.expand(setup, samples=tmp_path)
    for forest in (first, second):
        assert [forest.text(n) for n in range(len(forest.nodes))] == [
            graded.text(n) for n in range(len(graded.nodes))
        ]


def test_a_forest_is_a_table(graded):
    values = mf.credit(graded)
    table = graded.to_pandas(values)
    assert list(table.columns) == [
        *("node", "question", "role", "parent", "text", "tokens", "outcome", "value", "label")
    ]
    leaves = table[table.role == "refiner"]
    assert (leaves.value == leaves.outcome).all() and (leaves.label == leaves.outcome).all()
    for _, group in leaves.groupby("parent"):
        above = table.loc[int(group.parent.iloc[0])]
        assert above.value == pytest.approx(group.outcome.mean())
        assert above.question == group.question.iloc[0]
    roots = table[table.role == "question"]
    assert list(roots.text) == [q.text for q in graded.setup.task.train]
    assert roots.parent.isna().all() and "value" not in graded.to_table().column_names
    shown = graded.show(1, values).splitlines()
    assert len(shown) == graded.nodes.tree_size and shown[0].endswith(
        graded.setup.task.train[1].text
    )


def test_threshold(graded):
    strict, lenient = mf.credit(graded, threshold=0.9), mf.credit(graded, threshold=0.1)
    inner = graded.nodes.level == 1
    assert (strict.label[inner] == 1).sum() < (lenient.label[inner] == 1).sum()
    assert np.array_equal(strict.value, lenient.value, equal_nan=True)


def test_a_grader_of_ones_own(graded):
    rows = [{**SUM, "id": q.id, "question": q.text} for q in graded.setup.task.train]
    for grader, right in ((always, 1.0), ("tests.programs.test_api:never", 0.0)):
        task = mf.make_task("own", rows, [], graded.setup.task.prompts, grader)
        own = dataclasses.replace(graded.setup, task=task)
        forest = dataclasses.replace(mf.expand(own), setup=own)
        forest.grade()
        assert forest.nodes.outcome[forest._leaves()].mean() == right


def always(completion: str, row: dict) -> float:
    return float(row["answer"] == "2")


def never(completion: str, row: dict) -> float:
    return 0.0


def test_a_chain_of_one(made):
    task = mf.make_task("own", [SUM], [SUM | {"id": "other"}], WORDING, "number")
    model = {"model.name_or_path": made[1]["model.name_or_path"], "sampling.max_tokens": 2}
    own = mf.prepare(task, {**model, "chain": ["generator"], "tree.branching": [4]})
    forest = mf.expand(own)
    assert len(forest.nodes) == 5 and len(forest) == 1
    assert mf.evaluate(own).task == "own"


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda s: mf.prepare("gsm9k"), "gsm8k"),
        (lambda s: mf.prepare("arithmetic", {"tree.brnching": 3}), "did you mean"),
        (lambda s: mf.prepare("arithmetic", {"sampling.top_p": 2}), "at most 1"),
        (lambda s: mf.make_task("t", [{"answer": "2"}], [], WORDING, "number"), "no question"),
        (lambda s: mf.make_task("t", [{"question": "2"}], [], WORDING, "number"), "no answer"),
        (lambda s: mf.make_task("t", [SUM], [], WORDING, "numbr"), "did you mean 'number'"),
        (lambda s: mf.make_task("t", [SUM], [], WORDING, lambda c, r: 1.0), "by `def`"),
        (lambda s: mf.make_task("t", [SUM], [], WORDING, "no.module:f"), "cannot be loaded"),
        (lambda s: mf.make_task("t", [{**SUM, "id": 1}] * 2, [], WORDING, "number"), "same id"),
        (lambda s: mf.make_task("t", [{**SUM, "id": 1}], [{**SUM, "id": 1}], WORDING, "number"),
         "both"),
        (lambda s: mf.prepare(mf.make_task("t", [SUM], [], WORDING, "number"),
                              {"model.name_or_path": "bundled"}), "has no chat template"),
        (lambda s: mf.prepare(mf.make_task("t", [SUM], [], WORDING, "number", chat=False),
                              {"model.name_or_path": "bundled"}), "'verifier' has no prompt"),
        (lambda s: mf.evaluate(s, [mf.Trained("judge", None, None)]), "no role 'judge'"),
    ],
)  # fmt: skip
def test_mistakes(call, told, setup):
    with pytest.raises(mf.MaltError, match=told):
        call(setup)


def test_an_unknown_role(graded):
    with pytest.raises(mf.MaltError, match="did you mean 'verifier'"):
        mf.preferences(graded, mf.credit(graded), "verifer")


def test_imports_are_cheap():
    code = "import sys, malt_fast; print(*sys.modules); import malt_fast.api; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    package, api = (set(line.split()) for line in done.stdout.splitlines())
    assert not {"numpy", "torch", "pydantic", "rich"} & package
    assert not {"torch", "transformers", "datasets", "peft"} & api
    assert set(mf.__all__) <= set(dir(mf))
