"""Whole runs of the program, on a model that is right by chance."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load

from malt_fast import method, train
from malt_fast.config import requirements
from malt_fast.config.load import make_config
from malt_fast.engines import Policy
from malt_fast.forest.file import read_forest
from malt_fast.runs import saved
from malt_fast.runs.run import Run
from malt_fast.sampling.prepare import load_setup
from malt_fast.store.store import open_store
from malt_fast.training.side_by_side import gpus_of
from malt_fast.utils import ray_cluster
from malt_fast.utils.errors import MaltError
from malt_fast.utils.ray_cluster import Cluster
from tests.small_run import FAST, content, load_forest, run
from tests.tiny import tiny_llama


def wording(folder: Path, chain: list[str]) -> Path:
    """Prompts for any chain, each naming all roles before it."""
    prompts = {
        role: {"user": "{question}" + "".join(f"\n{r}: {{{r}}}" for r in chain[:i])}
        for i, role in enumerate(chain)
    }
    file = folder / "prompts.yaml"
    file.write_text(yaml.safe_dump({"prompts": prompts}))
    return file


def results(folder: Path) -> dict[str, bytes]:
    """What two equal runs must share."""
    files = [folder / name for name in ("evaluation.json", "questions.jsonl")]
    files += sorted(folder.glob("round-*/data/*/*"))
    files += sorted(folder.glob("adapters/*/*/adapter_model.safetensors"))
    forests = [*folder.glob("round-*/*.arrows"), folder / "evaluation.arrows"]
    names = [str(forest.relative_to(folder)) for forest in forests]
    trees = {name: content(folder, name) for name in names}
    return trees | {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_a_run_with_a_grader_of_ones_own(model, tmp_path):
    """It reads the row, needs no answer column, and decides outcomes and the evaluation."""
    rows = [{"question": f"one or two? ({i})", "words": str(1 + i % 2)} for i in range(20)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    grader = ("--task.grader", "tests.questions:score", "--task.min_score", "1")
    folder = tmp_path / "run"
    assert run(data, model, folder, *grader) == 0
    forest = load_forest(folder)
    questions = [json.loads(line) for line in (folder / "questions.jsonl").open()]
    config = make_config(yaml.safe_load((folder / "config.yaml").read_text()))
    prompts, roots = load_setup(config).prompts, forest.roots()
    leaves = np.flatnonzero(forest.level == 3)
    trees = roots[leaves] // (len(forest) // len(questions))
    for leaf, tree in zip(leaves, trees, strict=True):
        words = rows[int(questions[tree]["id"].partition("-")[2])]["words"]
        said = prompts.decode(forest.tokens_of(int(leaf)))
        assert forest.outcome[leaf] == (words in said)
    result = json.loads((folder / "evaluation.json").read_text())
    verdicts = result["grading"]["refiner"]["verdicts"]
    assert verdicts["right"] and verdicts["wrong"] and sum(verdicts.values()) > 0
    assert result["systems"][0]["accuracy"] > 0


def test_a_run_makes_everything_and_twice_the_same(data, model, tmp_path):
    assert run(data, model, tmp_path / "a") == 0
    assert run(data, model, tmp_path / "b") == 0
    a, b = results(tmp_path / "a"), results(tmp_path / "b")
    assert a == b and len(a) == 4 + 5 + 6 + 3
    folder = tmp_path / "a"
    first = (folder / "questions.jsonl").read_text().splitlines()[0]
    assert first == '{"id": "train-0", "text": "one or two? (0)", "gold": "1"}'
    for role in ("generator", "verifier", "refiner"):
        assert (folder / "adapters" / role / "final" / "adapter_model.safetensors").is_file()
    result = json.loads((folder / "evaluation.json").read_text())
    assert {"name", "accuracy", "ci95", "n", "calls_per_question", "tokens_per_question"} <= set(
        result["systems"][0]
    )
    assert {"a", "b", "difference", "ci95", "p_value"} <= set(result["paired"][0])
    assert (folder / "metrics.jsonl").read_text().count("\n") > 5


def test_a_run_goes_on_where_it_stopped(data, model, finished_run, tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(method, "evaluate_run", stop)
        assert run(data, model, folder) == 130
    with monkeypatch.context() as patch:  # finished stages are not repeated
        patch.setattr("malt_fast.sampling.round_forest.sample", stop)
        patch.setattr("malt_fast.training.train_stage.train_stage", stop)
        assert run(data, model, folder) == 0
    assert results(folder) == results(finished_run)


@pytest.mark.parametrize(
    ("chain", "branching"),
    [(["solver", "checker"], "4,3"), (["plan", "draft", "review", "answer"], "2,2,2,2")],
)
def test_the_chain_of_roles_is_data(data, model, tmp_path, chain, branching):
    options = ["--chain", ",".join(chain), "--tree.branching", branching]
    options += ["--task.prompts", str(wording(tmp_path, chain))]
    assert run(data, model, tmp_path / "run", *options) == 0
    forest = load_forest(tmp_path / "run")
    assert forest.level.max() == len(chain)
    names = {
        s["name"] for s in json.loads((tmp_path / "run/evaluation.json").read_text())["systems"]
    }
    assert {f"MALT+MV@3 -{role}" for role in chain} <= names


@pytest.mark.parametrize(
    ("options", "made"),
    [
        (["--train.rounds", "2"], "round-1/refiner/dpo"),
        (["--train.regenerate", "sequential"], "round-0/forest-verifier.arrows"),
        (["--train.dpo_roles", "generator", "--train.reference", "base"], "round-0/generator/dpo"),
        (["--tree.mean", "leaves", "--preferences.sft_source", "all"], "round-0/verifier/dpo"),
        (["--preferences.dedup", "true", "--report_to", "tensorboard"], "tensorboard"),
        (["--tree.pooling", "local", "--preferences.policy", "best_worst"], "round-0/refiner/dpo"),
        (["--preferences.policy", "one", "--tree.inclusive", "true"], "round-0/refiner/dpo"),
    ],
)
def test_every_switch_of_the_method_runs_through(data, model, tmp_path, options, made):
    assert run(data, model, tmp_path / "run", *options) == 0
    assert (tmp_path / "run" / "evaluation.json").is_file()
    assert (tmp_path / "run" / made).exists()


def test_in_sequence_each_forest_is_grown_by_the_roles_trained_before_it(data, model, tmp_path):
    """A forest is fingerprinted by who grew it, so each is another one."""
    folder, roles = tmp_path / "run", ("generator", "verifier", "refiner")
    assert run(data, model, folder, "--train.regenerate", "sequential") == 0
    store = open_store(folder / "samples", writable=False)
    files = [read_forest(folder / f"round-0/forest-{role}.arrows", store) for role in roles]
    assert all((folder / "round-0" / role / "sft").is_dir() for role in roles[:2])
    assert len({file.fingerprint for file in files}) == 3


def test_a_role_may_have_its_own_base_model(data, model, tmp_path):
    other = tiny_llama(
        tmp_path / "other", chat_template=True, seed=1, likes={"1": 12.0, "</s>": 9.0}
    )
    options = ["--model.roles.verifier", str(other)]
    assert run(data, model, tmp_path / "run", *options) == 0
    adapter = tmp_path / "run/adapters/verifier/final/adapter_config.json"
    assert json.loads(adapter.read_text())["base_model_name_or_path"] == str(other)


def test_gsm8k_with_a_real_chat_template_goes_through_every_stage(shared_data, tmp_path):
    likes = {str(digit): 12.0 for digit in range(10)} | {"</s>": 9.0}
    model = tiny_llama(tmp_path / "model", chat_template=True, likes=likes)
    options = ["--task.name", "gsm8k", "--task.path", str(shared_data / "gsm8k" / "train.jsonl")]
    options += ["--model.name_or_path", str(model), "--run", str(tmp_path / "run"), *FAST]
    options += ["--task.limit", "60", "--task.test_limit", "10", "--tree.branching", "4,4,4"]
    assert train.main(options) == 0
    assert (tmp_path / "run/evaluation.json").is_file()
    assert (tmp_path / "run/adapters/refiner/final").is_dir()


def test_recorded_solutions_become_a_forest_with_the_recorded_outcomes(shared_data, tmp_path):
    rows = (shared_data / "gsm8k/example_model_solutions.jsonl").read_text().splitlines()
    questions, records, right = [], [], []
    for i, row in enumerate(map(json.loads, rows)):
        gold = row["ground_truth"].rpartition("A:")[2].strip()
        questions.append({"id": f"q{i}", "question": row["question"], "answer": gold})
        answers = [value for key, value in row.items() if key not in ("question", "ground_truth")]
        right += [answer["is_correct"] for answer in answers]
        records += [
            {"question": f"q{i}", "path": [j], "text": answer["solution"]}
            for j, answer in enumerate(answers)
        ]
    assert len(right) == 5276
    held_out = [{"id": "held-out", "question": "1 + 1?", "answer": "2"}]
    files = {"questions": questions, "records": records, "test": held_out}
    for name, values in files.items():
        text = "".join(json.dumps(value) + "\n" for value in values)
        (tmp_path / f"{name}.jsonl").write_text(text)

    from malt_fast.config.command import read_command
    from malt_fast.sampling.expand import shape_from_branching
    from malt_fast.sampling.grade import grade_leaves
    from malt_fast.sampling.prepare import load_setup
    from malt_fast.sampling.sample import sample
    from malt_fast.store.store import Samples, open_store

    model = tiny_llama(tmp_path / "model", chat_template=True)
    path = str(tmp_path / "questions.jsonl")
    options = [
        "--task.name",
        "jsonl",
        "--task.path",
        path,
        "--task.test_path",
        str(tmp_path / "test.jsonl"),
    ]
    options += ["--task.id_column", "id", "--task.grader", "number", "--chain", "generator"]
    options += ["--tree.branching", "4", "--model.name_or_path", str(model)]
    options += ["--engine.name", "replay", "--engine.path", str(tmp_path / "records.jsonl")]
    setup = load_setup(read_command(train.PROGRAM, options))
    shape = shape_from_branching([4], list(setup.base().values()))
    samples = Samples(open_store(tmp_path / "samples"))
    forest, _, _ = sample(setup, samples, setup.task.train, shape, "0")
    grade_leaves(setup, forest, setup.task.train)
    outcomes = forest.outcome[forest.level == 1].astype(bool)
    assert np.array_equal(outcomes, np.array(right))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--trian.rounds", "2"], "did you mean 'train'?"),
        (["--tree.threshold", "1.5"], "tree.threshold"),
        (["--tree.branching", "3,3"], "tree.branching"),
        (["--task.path", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--task.prompts", "nowhere.yaml"], "nowhere.yaml"),
        (["--model.name_or_path", "./no-model"], "no-model"),
        (["--model.device", "cuda:77"], "model.device"),
        (["--report_to", "paper"], "report_to"),
        (["--tree.branching", "1000,1000,1000"], "million"),
    ],
)
def test_mistakes_are_one_sentence_before_work_is_spent(
    data, model, tmp_path, capsys, options, sentence
):
    folder = tmp_path / "run"
    assert run(data, model, folder, *options) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1 and sentence in message
    assert not folder.exists()


def test_adapters_are_published_whole_or_not_at_all(tmp_path, monkeypatch):
    def publish(content):
        kinds = []
        for kind in ("sft", "dpo"):
            policies = {"refiner": Policy("m")}
            for role in ("generator", "verifier"):
                folder = tmp_path / "round-0" / role / kind
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "adapter_config.json").write_text(content)
                policies[role] = Policy("m", str(folder))
            kinds.append(policies)
        saved.publish(Run(tmp_path, make_config({})), *kinds)

    def killed(source, target):
        if "verifier/final" in str(target):
            raise KeyboardInterrupt
        copytree(source, target)

    copytree = shutil.copytree
    for before, text in [([], "one"), (["one"] * 4, "two")]:
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "copytree", killed)
            with pytest.raises(KeyboardInterrupt):
                publish(text)
        assert [f.read_text() for f in tmp_path.glob("adapters/*/*/*.json")] == before
        publish(text)
        assert [f.read_text() for f in tmp_path.glob("adapters/*/*/*.json")] == [text] * 4
    index = saved.published_adapters(tmp_path)
    assert index["verifier"] == saved.PublishedRole(
        "round-0/verifier/sft", "round-0/verifier/dpo", "dpo"
    )
    assert index.keys() == {"generator", "verifier"}
    file = tmp_path / "adapters" / "index.json"
    renamed = file.read_text().replace('"verifier"', '"verifies"')  # it would be its base model
    for damage in ("", "[]", '{"verifier": {"stage": "dpo"}}', "{}", renamed):
        file.write_text(damage)
        with pytest.raises(MaltError, match=r"index\.json is damaged: make it again by"):
            saved.published_adapters(tmp_path)


def test_a_question_longer_than_the_context_is_named(data, tmp_path, capsys):
    short = tiny_llama(tmp_path / "model", chat_template=True, max_position_embeddings=32)
    assert run(data, short, tmp_path / "run") == 2
    assert "reads 32" in capsys.readouterr().err


def test_a_model_without_a_chat_template_is_refused(data, tmp_path, capsys):
    plain = tiny_llama(tmp_path / "model")
    assert run(data, plain, tmp_path / "run") == 2
    assert "--model.chat_template" in capsys.readouterr().err


def test_a_forest_without_anything_to_learn_is_an_error_with_its_yield(data, tmp_path, capsys):
    wrong = tiny_llama(tmp_path / "model", chat_template=True, likes={"7": 12.0, "</s>": 12.0})
    assert run(data, wrong, tmp_path / "run", "--tree.branching", "2,1,1") == 2
    captured = capsys.readouterr()
    assert "no role has a single example" in captured.err and "generator" in captured.out


def test_a_role_without_pairs_is_skipped_with_a_warning(data, model, tmp_path, capsys):
    # One critique per draft: the verifier has no siblings, hence no pair and no paired positive.
    assert run(data, model, tmp_path / "run", "--tree.branching", "3,1,3") == 0
    out = capsys.readouterr().out
    assert "dpo verifier is skipped" in out.replace("\n", " ")
    assert not (tmp_path / "run/adapters/verifier").exists()


def test_roles_side_by_side_are_those_trained_in_turn(data, model, finished_run, tmp_path):
    pytest.importorskip("ray")
    assert run(data, model, tmp_path / "beside", "--train.side_by_side", "true") == 0
    a, b = results(finished_run), results(tmp_path / "beside")
    assert a.keys() == b.keys() and a["round-0/forest.arrows"] == b["round-0/forest.arrows"]
    for name in a:
        if name.endswith("safetensors"):
            ours, theirs = load(a[name]), load(b[name])
            for key in ours:  # other numbers of threads add up in another order
                torch.testing.assert_close(ours[key], theirs[key], rtol=1e-3, atol=1e-4)


def test_a_role_takes_no_more_than_a_machine_has():
    cluster = Cluster(cores=[16, 4], gpus=[4, 0])
    assert (cluster.share(3), gpus_of(make_config({}), cluster)) == (5, 1)
    assert Cluster([16] * 9, [4] * 9).share(3) == 16
    assert Cluster([6, 6], [0, 0]).share(3) == 3  # 4 would leave room for two
    small = Cluster([2], [0])
    assert (small.share(3), gpus_of(make_config({}), small)) == (1, 0)
    assert gpus_of(make_config({"model": {"device": "cpu"}}), cluster) == 0


def test_a_role_that_fails_beside_others_says_so(data, model, tmp_path, capsys):
    pytest.importorskip("ray")
    options = ["--train.side_by_side", "true", "--train.pack_tokens", "8"]
    assert run(data, model, tmp_path / "run", *options) == 2
    error = capsys.readouterr().err
    assert "more than train.pack_tokens = " in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--train.side_by_side", "true", "--train.regenerate", "sequential"],
            "excludes train.reg",
        ),
        (["--train.side_by_side", "true"], "pip install 'ray>="),
        (["--train.load_in_4bit", "true"], "pip install 'bitsandbytes>="),
    ],
)
def test_ways_of_training_that_cannot_be(data, model, tmp_path, capsys, monkeypatch, options, says):
    for module in (requirements, ray_cluster):
        monkeypatch.setattr(module, "find_spec", lambda package: None)
    assert run(data, model, tmp_path / "run", *options) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "run").exists()
