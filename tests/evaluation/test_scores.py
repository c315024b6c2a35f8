"""Votes and figures, against every system answering on its own in plain Python."""

import json
import random
from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from malt_fast.config.load import make_config
from malt_fast.config.schema import PACKAGE
from malt_fast.config.yaml_files import read_yaml
from malt_fast.evaluation.judge import Judged
from malt_fast.evaluation.paper import published
from malt_fast.evaluation.result import Published
from malt_fast.evaluation.scores import flips, summarise, turns, vote, voted_right
from malt_fast.evaluation.statistics import mcnemar, paired_bootstrap, wilson
from malt_fast.evaluation.systems import (
    Step,
    System,
    Training,
    paper_systems,
    steps_of,
    systems_of,
)
from malt_fast.evaluation.tables import describe
from tests.evaluation.fake import (
    CHAIN,
    EXTRA,
    FakeEngine,
    answer_alone,
    answer_in,
    as_json,
    config_of,
    design_of,
    questions_of,
    run_all,
    systems_to,
    voted,
)

# ---- votes ----


@pytest.mark.parametrize(
    ("answers", "winner"),
    [
        ([], -1),
        ([-1, -1], -1),
        ([-1, 5], 1),
        ([7, 5, 5], 1),
        ([7, 5], 0),
        ([-1, 5, 7, 7, 5], 1),
        ([1, -1, -1, -1], 0),
        ([3, 2, 2, 1, 1, 1], 3),
    ],
)
def test_vote(answers: list[int], winner: int) -> None:
    assert vote(answers) == winner


def test_random_ties_are_fair_seeded_and_only_among_the_tied() -> None:
    answers = [1, 2, 2, 3, 3, -1]
    drawn = [vote(answers, random.Random(seed)) for seed in range(400)]
    assert set(drawn) == {1, 3}
    assert 150 < drawn.count(1) < 250
    assert drawn == [vote(answers, random.Random(seed)) for seed in range(400)]
    assert vote([2, 1, 2], random.Random(0)) == 0


def test_random_ties_depend_on_the_question_not_on_its_place() -> None:
    questions = questions_of(40)
    answers = np.array([[1, 2]] * len(questions))
    right = np.array([[True, False]] * len(questions))
    used = np.array([[0], [1]])
    judged = Judged(answers, right, np.ones((40, 2), np.int64))
    forward = voted_right(judged, used, questions, 3)
    assert 5 < forward.sum() < 35
    assert (voted_right(judged, used, questions[::-1], 3)[::-1] == forward).all()
    assert voted_right(judged, used, questions).all()


# ---- figures ----


@pytest.mark.parametrize("suite", ["standard", "paper"])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_figures_are_those_of_systems_answering_alone(n: int, suite: str) -> None:
    chain = ["generator", "verifier", "refiner", "judge"][:n]
    questions, config = questions_of(30), config_of(chain, suite=suite, calls=6)
    result = run_all(config, questions, FakeEngine())
    right: dict[str, np.ndarray] = {}
    for system, found in zip(systems_to(config), result.systems, strict=True):
        said = [answer_alone(system, chain, question) for question in questions]
        hits = []
        for (answers, _, _), question in zip(said, questions, strict=True):
            cast = [a for a in answers if a is not None]
            winner = max(cast, key=lambda a: (cast.count(a), -cast.index(a))) if cast else None
            hits.append(winner == question.gold)
        right[system.name] = np.array(hits)
        assert found.model_dump(exclude={"subsets", "turns", "passes"}) == {
            "name": system.name,
            "accuracy": pytest.approx(np.mean(hits)),
            "ci95": wilson(sum(hits), 30),
            "n": 30,
            "calls_per_question": system.votes * len(system.steps),
            "tokens_per_question": pytest.approx(np.mean([tokens for _, tokens, _ in said])),
            "training_sampled": 0,
            "training_tokens": 0,
        }
        assert found.turns == [step.prompt for step in system.steps]
        assert np.shape(found.passes) == (system.votes, len(system.steps))
    malt = right["MALT+MV@3"]
    assert result.malt == "MALT+MV@3"
    assert [row.b for row in result.paired] == [name for name in right if name != "MALT+MV@3"]
    for row in result.paired:
        other = right[row.b]
        assert row.a == "MALT+MV@3"
        assert row.difference == pytest.approx(malt.mean() - other.mean())
        assert row.ci95 == paired_bootstrap(malt, other, resamples=300, seed=4)
        assert row.p_value == mcnemar(malt, other)
    assert result.relative_gain == pytest.approx(malt.mean() / right["SA"].mean() - 1)


@pytest.mark.parametrize(("name", "training"), [("MA", "base"), ("MALT", "final")])
def test_flips_and_turns_follow_the_first_pass(name: str, training: Training) -> None:
    questions = questions_of(60)
    result = run_all(config_of(), questions, FakeEngine())
    count = dict.fromkeys(
        ("right_to_right", "right_to_wrong", "wrong_to_right", "wrong_to_wrong"), 0
    )
    answered, correct = [0] * 3, [0] * 3
    for question in questions:
        _, _, texts = answer_alone(System(name, steps_of(CHAIN, training)), CHAIN, question)
        answers = [t.partition("A:")[2] if t and "A:" in t else None for t in texts[0]]
        words = ["right" if a == question.gold else "wrong" for a in answers]
        count[f"{words[0]}_to_{words[2]}"] += 1
        for i, answer in enumerate(answers):
            answered[i] += answer is not None
            correct[i] += words[i] == "right"
    assert result.flips[name] == pytest.approx({key: value / 60 for key, value in count.items()})
    after = result.turns[name]
    assert [turn.role for turn in after] == CHAIN
    assert [turn.answered for turn in after] == pytest.approx([a / 60 for a in answered])
    assert [turn.accuracy for turn in after] == pytest.approx([c / 60 for c in correct])


def test_flips_and_turns_of_one_known_case() -> None:
    right = np.array([[True, True], [True, False], [False, True], [False, True]])
    answers = np.array([[1, 1], [1, -1], [-1, 1], [2, 1]])
    judged, used = Judged(answers, right, np.ones((4, 2), np.int64)), np.array([[0, 1]])
    shares, intervals = flips(right[:, 0], right[:, 1])
    assert shares == {
        "wrong_to_right": 0.5,
        "right_to_right": 0.25,
        "wrong_to_wrong": 0.0,
        "right_to_wrong": 0.25,
    }
    assert intervals["wrong_to_right"] == wilson(2, 4) and set(intervals) == set(shares)
    found = turns(judged, used, questions_of(4), config_of(["a", "b"]))
    assert [turn.model_dump() for turn in found] == [
        {"role": "a", "answered": 0.75, "accuracy": 0.5, "ci95": wilson(2, 4)},
        {"role": "b", "answered": 0.75, "accuracy": 0.75, "ci95": wilson(3, 4)},
    ]


# ---- the paper's figures ----


def test_the_papers_figures_are_those_of_systems_answering_alone() -> None:
    questions, config = questions_of(110), config_of(suite="paper", calls=7)
    result = run_all(config, questions, FakeEngine())
    base, final = steps_of(CHAIN, "base"), steps_of(CHAIN, "final")
    golds = [question.gold for question in questions]

    def said(steps: tuple[Step, ...], votes: int) -> list[list[list[str | None]]]:
        """[question][pass][turn]: answers."""
        texts = [answer_alone(System("", steps, votes), CHAIN, q)[2] for q in questions]
        return [[[answer_in(t) for t in one] for one in passes] for passes in texts]

    for name, steps, votes in [("SA", base[:1], 7), ("MA", base, 2), ("MALT", final, 2)]:
        curve, last = result.curves[name], [[p[-1] for p in q] for q in said(steps, votes)]
        assert curve.votes == list(range(1, votes + 1))
        assert curve.calls == [k * len(steps) for k in curve.votes]
        for k in curve.votes:
            majority, any_right = 0.0, 0.0
            for answers, gold in zip(last, golds, strict=True):
                subsets = list(combinations(answers, k))
                any_right += sum(gold in subset for subset in subsets) / len(subsets)
                for subset in subsets:
                    counts = Counter(a for a in subset if a is not None)
                    best = [a for a in counts if counts[a] == max(counts.values())]
                    majority += (gold in best) / max(1, len(best)) / len(subsets)
            assert curve.majority[k - 1] == pytest.approx(majority / 110)
            assert curve.pass_at_k[k - 1] == pytest.approx(any_right / 110)
            for shares, intervals in (
                (curve.majority, curve.majority_ci95),
                (curve.pass_at_k, curve.pass_ci95),
            ):
                low, high = intervals[k - 1]
                assert low <= shares[k - 1] <= high and high - low < 0.25

    malt, alone = said(final, 3), said(base[:1], 1)
    after = [voted([p[-1] for p in q]) == gold for q, gold in zip(malt, golds, strict=True)]
    before = [q[0][0] == gold for q, gold in zip(alone, golds, strict=True)]
    shares = result.flips["SA -> MALT+MV@3"]
    mended = sum(b < a for b, a in zip(before, after, strict=True))
    assert shares["wrong_to_right"] == pytest.approx(mended / 110)
    assert result.flips_ci95["SA -> MALT+MV@3"]["wrong_to_right"] == wilson(mended, 110)
    for level, turn in enumerate(result.turns["MALT+MV@3"]):
        hits = [voted([p[level] for p in q]) == g for q, g in zip(malt, golds, strict=True)]
        assert turn.accuracy == pytest.approx(np.mean(hits))
        assert turn.answered == np.mean([any(p[level] for p in q) for q in malt])

    subsets = result.systems[0].subsets
    assert subsets is not None
    drawn = [np.random.default_rng([4, i]).choice(110, 100, replace=False) for i in range(4)]
    means = [np.mean(np.array(before)[indices]) for indices in drawn]
    assert subsets.model_dump() == pytest.approx(
        {
            "mean": np.mean(means),
            "population_std": np.std(means),
            "sample_std": np.std(means, ddof=1),
        }
    )
    assert result.ablations.model_dump() == {
        "untrained": {role: f"MALT+MV@3 -{role}" for role in CHAIN},
        "present": {
            "G": "MALT+MV@3 G",
            "G+V": "MALT+MV@3 G+V",
            "G+R": "MALT+MV@3 G+R",
            "G+V+R": "MALT+MV@3",
        },
    }
    assert json.loads(json.dumps(as_json(result), allow_nan=False)) is not None


def test_the_papers_numbers_go_by_model_and_task() -> None:
    def of(model: str, **more: Any) -> Published | None:
        task = {"name": "gsm8k", "path": "x"}
        return published(make_config({"model": {"name_or_path": model, **more}, "task": task}))

    llama = of("meta-llama/Llama-3.1-8B-Instruct")
    assert llama and llama.systems["MALT+MV@3"] == [90.5, 2.06]
    assert of("/models/Llama-3.1-8B-Instruct") == llama
    assert of("meta-llama/Llama-3.1-8B") is None
    assert of("meta-llama/Llama-3.1-8B-Instruct", roles={"refiner": "other"}) is None
    qwen = of("Qwen/Qwen2.5-1.5B")
    assert qwen and qwen.systems["MALT+MV@3"] == [74.5, 2.65]


def test_every_published_row_is_one_of_ours_and_every_number_is_possible() -> None:
    known = read_yaml(PACKAGE / "evaluation" / "paper.yaml")
    names = {system.name for system in paper_systems(CHAIN, 3, list(EXTRA))}
    for task in (table for tables in known.values() for table in tables.values()):
        assert set(task["systems"]) <= names
        for mean, *std in task["systems"].values():
            assert 4 * mean == int(4 * mean)  # of four subsets of 100
            assert all(0 < s < 6 for s in std)
        if "flips" in task:
            assert sum(task["flips"].values()) == 100
            assert task["turns"]["refiner"] == task["systems"]["MALT+MV@3"][0]
            after = task["flips"]["wrong_to_right"] + task["flips"]["right_to_right"]
            assert after == task["systems"]["MALT+MV@3"][0]


def test_the_order_of_answers_changes_nothing_and_nothing_is_asked_twice() -> None:
    questions, engines = questions_of(30), [FakeEngine(order) for order in (0, 1)]
    first, second = (run_all(config_of(), questions, engine) for engine in engines)
    assert first == second
    asked = [(r.question, r.path, r.policy, r.prompt.tobytes()) for r in engines[0].seen]
    assert len({r.id for r in engines[0].seen}) == len(asked)
    # pass k of a role has one seed, whoever answers: common random numbers
    seeds = {(r.question, r.path): r.seed for r in engines[0].seen}
    assert all(seeds[r.question, r.path] == r.seed for r in engines[0].seen)


def test_a_base_that_is_never_right_has_no_relative_gain() -> None:
    judged = Judged(
        np.ones((1, 99), np.int64), np.zeros((1, 99), np.bool_), np.ones((1, 99), np.int64)
    )
    design = design_of(CHAIN, questions_of(1), systems_of(CHAIN, 3))
    result = summarise(judged, design, config_of())
    assert result.relative_gain is None
    assert json.loads(json.dumps(as_json(result), allow_nan=False)) is not None
    assert describe(result)
