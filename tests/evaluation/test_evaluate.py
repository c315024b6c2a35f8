"""Systems, shape, votes and figures, against every system answering on its own in plain Python."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from malt_fast import evaluate
from malt_fast.config.load import dump, make_config
from malt_fast.config.schema import PACKAGE, Config
from malt_fast.config.yaml_files import read_yaml
from malt_fast.engines import (
    Completion,
    Policy,
    Request,
    SamplingParams,
)
from malt_fast.evaluation import design
from malt_fast.evaluation.design import EvaluationDesign
from malt_fast.evaluation.judge import Judged, judge
from malt_fast.evaluation.paper import paper_figures, published
from malt_fast.evaluation.result import EvaluationResult, Published, read_result
from malt_fast.evaluation.scores import flips, summarise, turns, vote, voted_right
from malt_fast.evaluation.shape import build_shape
from malt_fast.evaluation.statistics import mcnemar, paired_bootstrap, wilson
from malt_fast.evaluation.systems import (
    Step,
    System,
    Training,
    paper_systems,
    partial_chains,
    pools,
    steps_of,
    systems_of,
)
from malt_fast.evaluation.tables import describe
from malt_fast.runs.run import Run
from malt_fast.sampling import sample
from malt_fast.sampling.expand import Slot, expand, node_seed
from malt_fast.sampling.setup import Setup
from malt_fast.tasks.evaluation_prompts import EvaluationPrompts
from malt_fast.tasks.prompts import Prompts, RolePrompt
from malt_fast.tasks.task import Question, Task
from malt_fast.utils.errors import MaltError
from tests.adapters import write_index
from tests.small_run import load_forest
from tests.tiny import byte_tokenizer, tiny_llama

Policies = dict[Training, dict[str, Policy]]
CHAIN = ["generator", "verifier", "refiner"]
TOKENIZER = byte_tokenizer()
EXTRA = {
    "direct": RolePrompt(None, "{question}#{generator}# direct:"),
    "debater": RolePrompt(None, "{question}~{own}~{first}~{second}~ debater:"),
}


def say(request: Request) -> str | None:
    """What the fake engine answers: a hash of all that may matter; None is a failure."""
    key = (request.policy, request.prompt.tobytes(), request.seed, request.params.max_tokens)
    draw = hashlib.sha256(repr(key).encode()).digest()
    if draw[0] < 5:
        return None
    if draw[0] < 25:
        return "no idea"
    trained = request.policy.adapter is not None
    return f"{'x' * (draw[1] % 4)} A:{draw[2] % (2 if trained else 4)}"


class FakeEngine:
    """Answers by `say`, in an order that has nothing to do with the requests'."""

    wants = 50

    def __init__(self, order: int = 0) -> None:
        self.waiting: list[Request] = []
        self.seen: list[Request] = []
        self.rng = random.Random(order)

    def submit(self, requests: Sequence[Request]) -> None:
        self.waiting += requests
        self.seen += requests

    def poll(self) -> list[Completion]:
        self.rng.shuffle(self.waiting)
        cut = min(len(self.waiting), 7)
        done, self.waiting = self.waiting[:cut], self.waiting[cut:]
        return [self.answer(request) for request in done]

    def answer(self, request: Request) -> Completion:
        text = say(request)
        if text is None:
            return Completion.failed(request.id, "lost")
        tokens = encode(text)
        return Completion(request.id, tokens, np.zeros(len(tokens), np.float32), "stop")

    @property
    def pending(self) -> int:
        return len(self.waiting)

    def figures(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass


@cache
def encode(text: str) -> np.ndarray:
    return np.array([*TOKENIZER(text)["input_ids"], TOKENIZER.eos_token_id], np.int32)


def policies_of(chain: Sequence[str]) -> Policies:
    """Every role has all three kinds, but the first's final policy is its SFT one."""
    kinds: list[Training] = ["base", "sft", "final"]
    made: Policies = {
        kind: {role: Policy("m", None if kind == "base" else f"{role}/{kind}") for role in chain}
        for kind in kinds
    }
    made["final"][chain[0]] = made["sft"][chain[0]]
    return made


def wordings_of(chain: Sequence[str]) -> EvaluationPrompts:
    return make_wordings(tuple(chain))


def texts_of(chain: Sequence[str]) -> dict[str, RolePrompt]:
    return {
        role: RolePrompt(None, "{question}" + "".join(f"|{{{r}}}" for r in chain[:i]) + f" {role}:")
        for i, role in enumerate(chain)
    }


@cache
def make_wordings(chain: tuple[str, ...]) -> EvaluationPrompts:
    prompts = Prompts(chain, texts_of(chain), TOKENIZER, chat=False)
    return EvaluationPrompts(prompts, EXTRA, chat=False)


def questions_of(n: int) -> list[Question]:
    return [Question(f"q{i}", f"question {i}", str(i % 2)) for i in range(n)]


def config_of(chain: Sequence[str] = CHAIN, **evaluating: Any) -> Config:
    evaluating = {"bootstrap": 300, **evaluating}
    tree = {"branching": [2] * len(chain)}
    return make_config({"chain": list(chain), "evaluate": evaluating, "tree": tree, "seed": 4})


def run_all(config: Config, questions: list[Question], engine: FakeEngine) -> EvaluationResult:
    """The evaluation as the program does it, but for the model."""
    wordings = wordings_of(config.chain)
    paper = config.evaluate.suite == "paper"
    pooled = pools(config.chain, config.evaluate.calls) if paper else []
    design = design_of(config.chain, questions, systems_to(config), pooled)
    params = [SamplingParams()] * len(wordings.names)
    forest = expand(questions, design.shape, wordings, params, engine, "4/evaluate")
    judged = judge(forest, design.shape, questions, wordings.prompts.decode, "number")
    result = summarise(judged, design, config)
    return paper_figures(result, judged, design, config) if paper else result


def design_of(
    chain: Sequence[str],
    questions: list[Question],
    systems: Sequence[System],
    pooled: Sequence[System] = (),
) -> EvaluationDesign:
    numbers = wordings_of(chain).numbers
    shape, slots = build_shape([*systems, *pooled], numbers, policies_of(chain))
    used = iter(slots)
    own = {system.name: (system, next(used)) for system in systems}
    curves = {system.name: (system, next(used)) for system in pooled}
    return EvaluationDesign(questions, shape, own, curves)


def as_json(result: EvaluationResult) -> dict[str, Any]:
    return result.model_dump(mode="json", by_alias=True)


def systems_to(config: Config) -> list[System]:
    if config.evaluate.suite == "standard":
        return systems_of(config.chain, config.evaluate.votes)
    return paper_systems(config.chain, config.evaluate.votes, list(EXTRA))


# ---- which systems ----


def test_the_systems_of_the_paper_and_their_calls() -> None:
    names = [system.name for system in systems_of(CHAIN, 3)]
    assert names == [
        "SA",
        "SA+MV@3",
        "SA+MV@9",
        "MA",
        "MA+MV@3",
        "STaR SA",
        "STaR SA+MV@3",
        "STaR MA",
        "STaR MA+MV@3",
        "MALT",
        "MALT+MV@3",
        "MALT+MV@3 -generator",
        "MALT+MV@3 -verifier",
        "MALT+MV@3 -refiner",
    ]
    calls = {system.name: system.votes * len(system.steps) for system in systems_of(CHAIN, 3)}
    assert calls["SA+MV@9"] == calls["MA+MV@3"] == calls["MALT+MV@3 -verifier"] == 9


def test_systems_that_are_one_stand_once() -> None:
    alone = [system.name for system in systems_of(["solver"], 3)]
    assert alone == ["SA", "SA+MV@3", "STaR SA", "STaR SA+MV@3", "MALT", "MALT+MV@3"]
    single = systems_of(["a", "b"], 1)
    assert len({(system.steps, system.votes) for system in single}) == len(single)
    final = steps_of(["a", "b"], "final")
    assert [s.name for s in single if s.votes == 1 and s.steps == final] == ["MALT"]
    assert "SA+MV@2" in [s.name for s in single]


def test_the_paper_has_chains_of_some_roles_and_a_debate() -> None:
    more = paper_systems(CHAIN, 3, list(EXTRA))[len(systems_of(CHAIN, 3)) :]
    assert {system.name: system.votes * len(system.steps) for system in more} == {
        "MALT+MV@3 G": 3,
        "MALT+MV@3 G+V": 6,
        "MALT+MV@3 G+R": 6,
        "Debate 3x3": 9,
    }
    assert more[2].steps[1] == Step("direct", "refiner", "final")
    assert [step.prompt for step in more[3].steps] == ["generator", "debater", "debater"]
    assert paper_systems(CHAIN, 3, []) == paper_systems(CHAIN, 3, list(EXTRA))[:-2]
    assert present(CHAIN, list(EXTRA)) == ["G", "G+V", "G+R"]
    whole = {s.name for s in systems_of(CHAIN, 3) if s.present == "G+V+R"}
    assert whole == {"MALT", "MALT+MV@3"}
    untrained = {s.untrained: s.name for s in systems_of(CHAIN, 3) if s.untrained}
    assert untrained == {role: f"MALT+MV@3 -{role}" for role in CHAIN}


def present(chain: Sequence[str], extra: Sequence[str]) -> list[str | None]:
    return [system.present for system in partial_chains(chain, 3, extra)]


def test_the_paper_of_other_chains() -> None:
    assert present(["solver"], list(EXTRA)) == []
    assert present(["a1", "a2"], list(EXTRA)) == ["a1"]
    four = ["generator", "verifier", "refiner", "judge"]
    assert present(four, ["direct"]) == ["G", "G+V", "G+V+R", "G+J"]
    names = [system.name for system in paper_systems(["solver"], 3, list(EXTRA))]
    assert names[-1] == "Debate 3x3" and len(set(names)) == len(names)


def test_pools_take_as_many_passes_as_calls_allow() -> None:
    votes = {system.name: system.votes for system in pools(CHAIN, 27)}
    assert votes == {"SA": 27, "MA": 9, "MALT": 9}
    assert {s.name: s.votes for s in pools(CHAIN, 2)} == {"SA": 2, "MA": 1, "MALT": 1}
    assert [system.name for system in pools(["solver"], 5)] == ["SA", "MALT"]


# ---- one shape for all ----


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("votes", [1, 3])
def test_shape_is_a_trie_of_passes(n: int, votes: int) -> None:
    chain = ["a", "b", "c", "d"][:n]
    policies = policies_of(chain)
    systems = [*paper_systems(chain, votes, list(EXTRA)), *pools(chain, 6)]
    wordings = wordings_of(chain)
    shape, used = build_shape(systems, wordings.numbers, policies)
    for s, slot in enumerate(shape):
        assert slot.parent < s
        assert len(set(slot.path)) == 1
        assert len(slot.path) == (1 if slot.parent < 0 else len(shape[slot.parent].path) + 1)
    assert len(set(shape)) == len(shape)  # nothing is sampled twice
    parents = [slot.parent for slot in shape]
    assert parents == sorted(parents)  # siblings side by side
    for system, slots in zip(systems, used, strict=True):
        assert slots.shape == (system.votes, len(system.steps))
        for k, branch in enumerate(slots):
            for level, (s, step) in enumerate(zip(branch, system.steps, strict=True)):
                expected, number = (
                    policies[step.training][step.role],
                    wordings.numbers[step.prompt],
                )
                parent = -1 if level == 0 else branch[level - 1]
                reads = None
                if step.prompt == "debater":
                    reads = tuple(slots[(k + i) % 3, level - 1] for i in range(3))
                assert shape[s] == Slot(parent, number, expected, (k,) * (level + 1), reads)
    assert {s for slots in used for s in slots.ravel().tolist()} == set(range(len(shape)))


def test_the_default_shape_shares_what_can_be_shared() -> None:
    """Generators: 9 base passes, 3 of SFT (final is the same); then per pass what follows."""
    numbers = wordings_of(CHAIN).numbers
    shape, _ = build_shape(systems_of(CHAIN, 3), numbers, policies_of(CHAIN))
    by_level = [sum(slot.role == level for slot in shape) for level in (1, 2, 3)]
    # verifiers under base: base, final; under SFT: base, sft, final
    # refiners: under (base, base) base; (base, final) final; (sft, base) final; (sft, sft) sft;
    # (sft, final) base and final
    assert by_level == [9 + 3, 3 * 5, 3 * 6]


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


def answer_alone(
    system: System, chain: Sequence[str], question: Question
) -> tuple[list[str | None], int, list[list[str | None]]]:
    """A system's answers per pass, its tokens and every turn's text, without shape or forest."""
    policies, wordings = policies_of(chain), texts_of(chain) | EXTRA
    said: list[list[str | None]] = [[] for _ in range(system.votes)]
    for level, step in enumerate(system.steps, 1):
        before = [list(texts) for texts in said]
        for k, texts in enumerate(said):
            names, heard = list(chain[: level - 1]), before[k]
            if step.prompt == "direct":
                names = ["generator"]
            if step.prompt == "debater":
                names = ["own", "first", "second"]
                heard = [before[(k + i) % 3][-1] for i in range(3)]
            if None in heard:
                texts.append(None)
                continue
            parts = dict(zip(names, heard, strict=True)) | {"question": question.text}
            text = wordings[step.prompt].user.format(**parts)
            prompt = np.array([TOKENIZER.bos_token_id, *TOKENIZER(text)["input_ids"]], np.int32)
            policy, path = policies[step.training][step.role], (k,) * level
            seed = node_seed("4/evaluate", question.id, path)
            texts.append(say(Request(0, question.id, path, policy, prompt, SamplingParams(), seed)))
    tokens = sum(len(encode(text)) for texts in said for text in texts if text is not None)
    final = [texts[-1] for texts in said]
    answers = [text.partition("A:")[2] if text and "A:" in text else None for text in final]
    return answers, tokens, said


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
        assert found.model_dump(exclude={"subsets"}) == {
            "name": system.name,
            "accuracy": pytest.approx(np.mean(hits)),
            "ci95": wilson(sum(hits), 30),
            "n": 30,
            "calls_per_question": system.votes * len(system.steps),
            "tokens_per_question": pytest.approx(np.mean([tokens for _, tokens, _ in said])),
        }
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


def voted(answers: Sequence[str | None]) -> str | None:
    cast = [a for a in answers if a is not None]
    return max(cast, key=lambda a: (cast.count(a), -cast.index(a))) if cast else None


def answer_in(text: str | None) -> str | None:
    return text.partition("A:")[2] if text and "A:" in text else None


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


def test_a_result_is_read_as_it_was_written(run: Run) -> None:
    assert evaluate.main(["--run", str(run.folder), "--suite", "paper"]) == 0
    path = run.folder / "evaluation.json"
    result = read_result(path)
    assert as_json(result) | {"xxh3": None} == json.loads(path.read_text()) | {"xxh3": None}
    assert result.system("SA") is result.systems[0] and "pass" in as_json(result)["curves"]["SA"]
    with pytest.raises(ValueError, match="malt"):
        EvaluationResult.model_validate({k: v for k, v in as_json(result).items() if k != "malt"})


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


# ---- the program ----


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A finished run: a jsonl task, a tiny model, empty adapters; the fake engine samples."""
    model = tiny_llama(tmp_path / "model")
    rows = [json.dumps({"question": q.text, "answer": q.gold}) for q in questions_of(20)]
    (tmp_path / "test.jsonl").write_text("\n".join(rows))
    wording = {role: {"user": f"{{question}} {role}:"} for role in CHAIN}
    (tmp_path / "prompts.yaml").write_text(json.dumps({"chat": False, "prompts": wording}))
    config = make_config(
        {
            "run": tmp_path / "run",
            "task": {
                "name": "jsonl",
                "path": str(tmp_path / "test.jsonl"),
                "test_path": str(tmp_path / "test.jsonl"),
                "grader": "number",
                "prompts": str(tmp_path / "prompts.yaml"),
            },
            "model": {"name_or_path": str(model)},
            "evaluate": {"bootstrap": 300},
        }
    )
    for role, kind in [("generator", "sft"), ("generator", "final"), ("verifier", "sft")]:
        adapter = tmp_path / "run" / "adapters" / role / kind
        adapter.mkdir(parents=True)
        (adapter / "adapter_config.json").write_text("{}")
        (adapter / "adapter_model.safetensors").write_text(f"{role} {kind}")
    write_index(tmp_path / "run", {"generator": "dpo", "verifier": "sft"})
    (tmp_path / "run" / "config.yaml").write_text(dump(config))

    monkeypatch.setattr(sample, "open_engine", lambda *_: FakeEngine())
    return Run(tmp_path / "run", config, Console(quiet=True))


def test_saved_adapters_stand_for_their_role(run: Run) -> None:
    base = {role: Policy("m") for role in CHAIN}
    sft, final = evaluate.saved_policies(run.folder, base)
    adapters = run.folder / "adapters"
    assert sft == {
        "generator": Policy("m", str(adapters / "generator" / "sft")),
        "verifier": Policy("m", str(adapters / "verifier" / "sft")),
        "refiner": Policy("m"),
    }
    assert final == sft | {"generator": Policy("m", str(adapters / "generator" / "final"))}
    with pytest.raises(MaltError, match=r"malt_fast\.train"):
        evaluate.saved_policies(run.folder / "adapters", base)


def test_main_evaluates_a_finished_run_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["--run", str(run.folder)]) == 0
    shown = capsys.readouterr().out
    path = run.folder / "evaluation.json"
    result = json.loads(path.read_text())
    assert set(result) == {*EvaluationResult.model_fields, "xxh3"} and result["suite"] == "standard"
    assert sum(result["grading"]["refiner"]["verdicts"].values()) > 0
    assert "refiner, graded: " in shown
    assert result["task"] == "jsonl"
    assert result["systems"][0]["n"] == 20
    assert "MALT+MV@3" in shown
    assert "wrong to right" in shown
    shape, _ = build_shape(
        systems_of(CHAIN, 3),
        wordings_of(CHAIN).numbers,
        {"base": policies(run)[0], "sft": policies(run)[1], "final": policies(run)[2]},
    )
    assert len(load_forest(run.folder, "evaluation.arrows")) == 20 * (1 + len(shape))

    first = path.read_bytes()
    assert evaluate.main(["--run", str(run.folder)]) == 0
    assert path.read_bytes() == first
    assert (
        evaluate.main(["--run", str(run.folder), "--evaluate.votes", "2", "--evaluate.limit", "7"])
        == 0
    )
    again = json.loads(path.read_text())
    assert again["systems"][2]["name"] == "SA+MV@6"
    assert again["systems"][0]["n"] == 7
    changed = {
        key for key in again["settings"] if again["settings"][key] != result["settings"][key]
    }
    assert changed == {"evaluate.votes", "evaluate.limit"}
    assert again["settings"]["evaluate.votes"] == 2 and again["settings"]["seed"] == 0
    assert {"engine.batch_size", "task.test_path", "task.test_limit"} <= set(again["settings"])
    assert not [file for file in run.folder.iterdir() if file.name.startswith(".")]


def test_main_makes_tables_and_curves_of_the_paper(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--run", str(run.folder), "--suite", "paper", "--evaluate.calls", "6"]
    assert evaluate.main(words) == 0
    shown = capsys.readouterr().out
    assert "MALT+MV@3 G+V" in shown and "SA -> MALT+MV@3" in shown
    result = json.loads((run.folder / "evaluation.json").read_text())
    assert result["settings"]["evaluate.suite"] == "paper"
    assert result["published"] is None and result["systems"][0]["subsets"] is None
    names = {"main", "ablations", "turns", "flips", "curves"}
    files = {f"{name}.{kind}" for name in names for kind in ("csv", "tex", "md")}
    assert {file.name for file in (run.folder / "tables").iterdir()} == files
    main = (run.folder / "tables" / "main.csv").read_text().splitlines()
    assert len(main) == 1 + len(result["systems"])
    curves = (run.folder / "tables" / "curves.csv").read_text().splitlines()
    assert len(curves) == 1 + 6 + 2 + 2
    first = (run.folder / "curves.svg").read_bytes()
    assert b"SA, pass@k" in first and evaluate.main(words) == 0
    assert (run.folder / "curves.svg").read_bytes() == first
    assert not [file for file in run.folder.rglob(".*")]


def test_trained_roles_are_not_asked_with_other_prompts(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(["--run", str(run.folder)]) == 0
    file = run.folder.parent / "prompts.yaml"
    file.write_text(file.read_text().replace("refiner:", "refine!"))
    assert evaluate.main(["--run", str(run.folder)]) == 2
    assert "prompts.json" in capsys.readouterr().err


def policies(run: Run) -> list[dict[str, Policy]]:
    base = {role: Policy(run.config.base_model(role)) for role in CHAIN}
    return [base, *evaluate.saved_policies(run.folder, base)]


def test_a_finished_evaluation_is_not_repeated(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task("jsonl", [], questions_of(5), {}, False, "number")
    setup = Setup(run.config, task, wordings_of(CHAIN).prompts)
    result = evaluate.evaluate_run(run, setup, *policies(run))

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("sampled again")

    monkeypatch.setattr(design, "sample", never)
    assert evaluate.evaluate_run(run, setup, *policies(run)) == result
    with pytest.raises(AssertionError):
        evaluate.evaluate_run(run, setup, *policies(run), again=True)
    empty = Setup(run.config, Task("jsonl", [], [], {}, False, "number"), setup.prompts)
    with pytest.raises(MaltError, match="test_path"):
        evaluate.evaluate_run(run, empty, *policies(run), again=True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--evaluate.votes", "3"], "no run was named"),
        (["--run", "nowhere"], "nowhere holds no run"),
        (["--run", "RUN", "--evaluate.vote", "3"], "did you mean"),
        (["--run", "RUN", "--evaluate.votes", "0"], "evaluate.votes"),
        (["--run", "RUN", "--suite", "papers"], "evaluate.suite = 'papers' is not possible"),
        (["--run", "RUN", "--suite"], "--suite needs a value"),
        (["--run", "RUN", "--suite="], "evaluate.suite = None is not possible"),
        (["--run", "RUN", "--lora.r", "8", "--seed", "9"], "seed, lora.r were fixed by training"),
    ],
)
def test_mistakes_are_one_sentence(
    run: Run, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run.folder.rglob("*"))
    assert evaluate.main([str(run.folder) if word == "RUN" else word for word in words]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
    assert sentence in shown
    assert sorted(run.folder.rglob("*")) == before
