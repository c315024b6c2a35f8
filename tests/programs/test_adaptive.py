"""Whole runs with adaptive trees and with budgets, on a model that is right by chance."""

import json
import shutil

import numpy as np
import pytest

from malt_fast import evaluate, export, report
from malt_fast._core.forest import DONE, RESERVED
from malt_fast.planning.plan_file import read_plan
from malt_fast.sampling import expand
from tests.programs.test_train import results
from tests.small_run import load_forest, run

TREES = 18  # two of the twenty questions are held out
ADAPTIVE = ("--tree.allocation", "adaptive", "--tree.max_outputs", "200")


def stages(folder, name):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["stage"] == name]


@pytest.fixture(scope="module")
def adaptive_run(data, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adaptive") / "run"
    assert run(data, model, folder, *ADAPTIVE) == 0
    return folder


def test_a_run_keeps_its_budget_and_makes_everything(adaptive_run, capsys):
    forest = load_forest(adaptive_run)
    sampled = (forest.state != RESERVED) & (forest.level > 0)
    assert TREES * 3 < np.count_nonzero(sampled) <= 200
    assert (forest.state[sampled] == DONE).all()
    (line,) = stages(adaptive_run, "sample round 0")
    assert line["outputs"] == np.count_nonzero(sampled)
    assert line["waves"] > 2
    (rows,) = stages(adaptive_run, "yield")
    assert sum(row["nodes"] for row in rows["roles"]) == line["outputs"]
    assert (adaptive_run / "adapters" / "refiner" / "final").is_dir()
    for program in (report, export):
        assert program.main(["--run", str(adaptive_run)]) == 0
    assert evaluate.main(["--run", str(adaptive_run), "--evaluate.votes", "1"]) == 0


def test_a_run_that_is_stopped_between_waves_ends_the_same(
    data, model, adaptive_run, tmp_path, monkeypatch
):
    folder, left = tmp_path / "run", [3]

    def stop(self, *args):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return begin(self, *args)

    begin = expand.Wave.wanted.func
    monkeypatch.setattr(expand.Wave, "wanted", property(stop))
    assert run(data, model, folder, *ADAPTIVE) == 130
    monkeypatch.undo()
    assert run(data, model, folder, *ADAPTIVE) == 0
    copy = tmp_path / "copy"
    shutil.copytree(adaptive_run, copy)
    assert run(data, model, copy, *ADAPTIVE, "--overwrite") == 0
    assert results(folder) == results(copy)


def test_a_larger_budget_keeps_what_was_sampled(data, model, adaptive_run, tmp_path):
    folder = tmp_path / "more"
    more = (*ADAPTIVE[:3], "230", "--reuse", str(adaptive_run))
    assert run(data, model, folder, *more) == 0
    few, many = (load_forest(one).state != RESERVED for one in (adaptive_run, folder))
    assert (many | ~few).all()
    (line,) = stages(folder, "sample round 0")
    assert line["reused"] == np.count_nonzero(few) - TREES


def test_full_trees_within_a_budget_are_whole(data, model, tmp_path):
    assert run(data, model, tmp_path / "run", "--tree.max_outputs", "150") == 0
    forest = load_forest(tmp_path / "run")
    sampled = (forest.state != RESERVED).reshape(TREES, -1)[:, 1:]
    assert sampled.all(1).sum() == sampled.any(1).sum() == 150 // 21


def test_a_later_round_asks_less_where_nothing_is_left_to_learn(data, model, tmp_path):
    folder = tmp_path / "run"
    assert run(data, model, folder, *ADAPTIVE, "--train.rounds", "2") == 0
    first, second = (load_forest(folder, f"round-{i}/forest.arrows") for i in (0, 1))
    outcome = first.outcome.reshape(TREES, -1)
    right = (outcome == 1).sum(1) / np.maximum(1, (outcome < 2).sum(1))
    settled = (right == 0) | (right == 1)
    counts = (second.state != RESERVED).reshape(TREES, -1).sum(1) - 1
    assert settled.any()
    assert counts[settled].mean() < counts[~settled].mean()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--tree.max_outputs", "17"), "less than one output for each of the 18 questions"),
        (("--tree.max_outputs", "379"), "more than the 378 outputs of full trees"),
        (("--tree.max_tokens", "5"), "less than one output for each of the 18 questions"),
        (("--tree.branching", "1,1,1"), "leaves nothing to choose"),
        (("--tree.branching", "3,3"), "has 2 numbers for a chain of 3"),
    ],
)
def test_budgets_that_make_no_sense_are_one_sentence(data, model, tmp_path, capsys, options, says):
    given = ("--tree.allocation", "adaptive", *options)
    assert run(data, model, tmp_path / "run", *given) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_chain_of_one_role_and_a_grader_with_scores(data, model, tmp_path):
    chain = ("--chain", "generator", "--tree.branching", "6", "--tree.allocation", "adaptive")
    assert run(data, model, tmp_path / "one", *chain) == 0
    assert np.count_nonzero(load_forest(tmp_path / "one").state != RESERVED) <= TREES * (1 + 3)
    scored = (*ADAPTIVE, "--task.grader", "tests.questions:score", "--task.min_score", "1")
    rows = [{"question": f"one or two? ({i})", "words": str(1 + i % 2)} for i in range(20)]
    own = tmp_path / "rows.jsonl"
    own.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(own, model, tmp_path / "scored", *scored) == 0


def test_the_plan_of_all_questions_is_what_comes(data, model, tmp_path):
    folder, two = tmp_path / "run", ("--train.rounds", "2")
    assert run(data, model, folder, *ADAPTIVE, *two, "--plan", "18") == 0
    _, rows = read_plan(folder)
    assert run(data, model, folder, *ADAPTIVE, *two) == 0
    first, *_ = stages(folder, "sample round 0")
    planned = [
        row.plan for row in rows if row.stage == "round 0 forest" and row.quantity == "outputs"
    ]
    assert sum(planned) == first["outputs"] == first["reused"]
    outcome = load_forest(folder).outcome.reshape(TREES, -1)
    settled = ((outcome == 1).any(1) != (outcome == 0).any(1)).sum()
    (asked_less,) = (row.plan for row in rows if row.quantity.startswith("questions all right"))
    assert asked_less == settled > 0
