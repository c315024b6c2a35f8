"""Signs that a run goes wrong: told once, when chance hardly explains them, and not otherwise."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malt_fast._core.forest import Forest
from malt_fast.engines import Completion, Policy
from malt_fast.sampling import monitor, signs
from malt_fast.sampling.expand import shape_from_branching
from malt_fast.sampling.monitor import TreeMonitor
from malt_fast.sampling.sampled_trees import SampledTrees
from malt_fast.sampling.signs import BLOCKS, ENOUGH, Signs, empty, truncated, unanswered, unmixed
from malt_fast.tasks.task import Question
from malt_fast.training.alarms import collapsing, unbalanced
from tests.small_run import run


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_a_share_is_told_once_most_of_enough_are_so(part: int, whole: int) -> None:
    part = min(part, whole)
    most = whole >= ENOUGH and part > whole / 2
    assert bool(truncated("refiner", part, whole)) == most == bool(unanswered(part, whole))
    assert bool(empty("refiner", part, whole)) == most
    assert bool(unmixed("refiner", part, whole, 0.2)) == (whole >= BLOCKS and part == 0)


def test_enough_blocks_are_those_that_would_show_one_in_twenty() -> None:
    assert 0.95**BLOCKS < 0.01 < 0.95 ** (BLOCKS - 1)
    assert "easier" in unmixed("r", 0, 100, 0.1) and "harder" in unmixed("r", 0, 100, 0.9)


@given(st.floats(-300, -0.01), st.floats(0, 300), st.floats(-5, 5), st.floats(0.01, 2))
def test_a_collapse_is_a_fall_with_a_growing_margin(
    before: float, fall: float, margin: float, beta: float
) -> None:
    now = {"logps/chosen": before - fall, "rewards/margins": margin, "rewards/chosen": -beta * fall}
    told = collapsing("verifier", now, beta)
    if margin <= 0 or fall < 9.999:
        assert not told
    elif fall > 10.001 and fall > -before / 2 + 0.001:
        assert "verifier lose probability" in told
    assert not collapsing("verifier", {"loss": 0.5}, beta)


@given(
    st.integers(0, 500), st.integers(0, 500), st.floats(0.1, 5), st.floats(0.1, 5), st.booleans()
)
def test_the_advice_on_unbalanced_labels_balances_them(
    positive: int, negative: int, desirable: float, undesirable: float, even: bool
) -> None:
    weights = {"desirable": desirable, "undesirable": undesirable}
    told = unbalanced("verifier", positive, negative, (desirable, undesirable))
    if not positive or not negative:
        assert ("harder" if positive else "easier") in told
        return
    share = positive * desirable / (negative * undesirable)
    assert bool(told) == (not 1 <= share <= 4 / 3)
    if told:
        *_, option, value = told.split()
        kind = option.removeprefix("--train.dpo.roles.verifier.").removesuffix("_weight")
        weights[kind] = float(value)
        again = (weights["desirable"], weights["undesirable"])
        assert not unbalanced("verifier", positive, negative, again)


def test_the_advice_for_labels_alone_names_no_setting_of_pairs() -> None:
    line = {"logps/chosen": -60.0, "rewards/chosen": -10.0, "rewards/margins": 0.2}
    assert "rpo_alpha" in collapsing("verifier", line, 0.2)
    told = collapsing("verifier", line, 0.2, on_pairs=False)
    assert "train.dpo.beta, or" in told and "rpo_alpha" not in told


def test_other_outputs_are_no_collapse() -> None:
    """A later line may tell of longer outputs, which are less likely, and gained nothing less."""
    line = {"logps/chosen": -60.0, "rewards/chosen": 0.1, "rewards/margins": 0.2}
    assert not collapsing("verifier", line, beta=0.2)


class Words:
    def decode(self, tokens: Any) -> str:
        return " ".join(map(str, np.asarray(tokens).tolist()))

    def reply(self, level: int, tokens: Any) -> str:
        return self.decode(tokens)


def leaves_right(forest: Forest) -> dict[str, int]:
    return {"right": int((forest.outcome == 1).sum()), "tokens": int(forest.token_len.sum())}


def watching(questions: int, warned: list[str]) -> TreeMonitor:
    asked = [Question(f"q{i}", "?", "7", {}) for i in range(questions)]
    shape = shape_from_branching([2, 2], [Policy("m")] * 2)
    words: Any = Words()
    trees = SampledTrees(asked, shape, ["a", "b"], words, "number")
    return TreeMonitor(trees, lambda _, kind: warned.append(kind), leaves_right)


def completion(node: int, value: int, finish: Any = "stop") -> Completion:
    return Completion(node, np.array([value], np.int32), np.zeros(1, np.float32), finish)


@given(st.integers(0, 2**32), st.floats(0, 1), st.floats(0, 1))
def test_counts_are_those_of_plain_counting(seed: int, right: float, cut: float) -> None:
    rng, told, n = np.random.default_rng(seed), list[str](), 60
    watch = watching(n, told)
    nodes = [t * 7 + 1 + i for t in range(n) for i in range(6)]
    values = {v: 7 if rng.random() < right else 8 for v in nodes}
    finish = {v: "length" if rng.random() < cut else "stop" for v in nodes}
    order = rng.permutation(nodes).tolist()
    while order:
        some, order = order[:13], order[13:]
        watch.see([completion(v, values[v], finish[v]) for v in some])
    watch.see([Completion.failed(3, "gone")])
    pairs = [
        (values[t * 7 + 3 + 2 * d], values[t * 7 + 4 + 2 * d]) for t in range(n) for d in (0, 1)
    ]
    assert (watch.signs.blocks, watch.signs.mixed) == (2 * n, sum(a != b for a, b in pairs))
    assert watch.signs.right == sum(7 in p for p in pairs) + sum(p == (7, 7) for p in pairs)
    assert watch.signs.outputs == {1: 2 * n, 2: 4 * n}
    assert watch.signs.cut[2] == sum(finish[v] == "length" for v in nodes if v % 7 >= 3)
    assert len(told) == len(set(told))
    assert ("unmixed" in told) <= (
        right in (0.0, 1.0) or watch.signs.mixed == 0 or watch.signs.blocks > BLOCKS
    )
    if watch.signs.mixed > BLOCKS:
        assert "unmixed" not in told


def test_only_some_leaves_are_graded_and_trees_counted(monkeypatch) -> None:
    monkeypatch.setattr(signs, "GRADED", 50)
    monkeypatch.setattr(monitor, "COUNTED", 30)  # every third
    watch = watching(100, [])
    for t in range(100):
        watch.see([completion(t * 7 + 1 + i, 7) for i in range(6)])
        watch.end(t)
    assert watch.signs.leaves == 50 and watch.signs.outputs[2] == 400
    assert watch.yields.counted == 34 and watch.yields.counts == {"right": 136, "tokens": 204}
    assert not watch.yields.growing and not watch.yields.grown
    assert watch.summary(100) == "so far about 400 right, 600 tokens · 0 % of groups mixed"


@given(st.integers(0, 2**32), st.floats(0, 1))
def test_what_trees_yield_is_added_up_as_they_end(seed: int, right: float) -> None:
    """Whatever the order; a tree with an output that failed is left out."""
    rng, n = np.random.default_rng(seed), 20
    watch = watching(n, [])
    nodes = [t * 7 + 1 + i for t in range(n) for i in range(6)]
    values = {v: 7 if rng.random() < right else 8 for v in nodes}
    failed = {v for v in nodes if v % 7 >= 3 and rng.random() < 0.05}
    left = dict.fromkeys(range(n), 6)
    for v in rng.permutation(nodes).tolist():
        watch.see([Completion.failed(v, "gone") if v in failed else completion(v, values[v])])
        left[v // 7] -= 1
        if not left[v // 7]:
            watch.end(v // 7)
    whole = [t for t in range(n) if not any(v // 7 == t for v in failed)]
    good = sum(values[t * 7 + i] == 7 for t in whole for i in (3, 4, 5, 6))
    assert (watch.yields.counted, watch.yields.growing) == (len(whole), {})
    assert watch.yields.counts == ({"right": good, "tokens": 6 * len(whole)} if whole else {})
    if whole:
        assert watch.summary(len(whole)).startswith(
            f"so far {good:,} right, {6 * len(whole):,} tok"
        )


def text_of(value: int) -> str:
    return {0: "", 1: "long " * 50 + "end\nof it"}.get(value, "the answer is 7")


def watching_texts(told: list[tuple[str, str]], **options: Any) -> Signs:
    """Outputs of two roles, whose only token stands for a text."""
    asked = [Question(f"q{i}", "?", "7", {}) for i in range(200)]
    shape = shape_from_branching([1, 1], [Policy("m")] * 2)
    words: Any = Words()
    words.decode = lambda tokens: text_of(int(tokens[0]))
    trees = SampledTrees(asked, shape, ["a", "b"], words, "number")
    return Signs(trees, lambda *warning: told.append(warning), **options)


def test_a_warning_shows_the_ends_of_three_outputs() -> None:
    told: list[tuple[str, str]] = []
    seen = watching_texts(told)
    for tree in range(ENOUGH - 1):
        seen.see([completion(3 * tree + 1, 0), completion(3 * tree + 2, 1, "length")])
    assert not told
    seen.see([completion(3 * ENOUGH + 1, 0), completion(3 * ENOUGH + 2, 1, "length")])
    texts = {kind: text.splitlines() for text, kind in told}
    assert texts.keys() == {"empty a", "truncated b", "unanswered"}
    assert len(texts["empty a"]) == 1 and "100 of the first 100 outputs of the a" in told[0][0]
    for kind in ("truncated b", "unanswered"):
        first, *ends = texts[kind]
        assert "sampling.max_tokens" in first and len(ends) == 3
        assert all(e.startswith("  ...") and e.endswith("long end\\nof it") for e in ends)


def test_an_evaluation_names_its_own_settings_and_compares_no_siblings() -> None:
    told: list[tuple[str, str]] = []
    seen = watching_texts(told, section="evaluate.sampling", siblings=False)
    for tree in range(ENOUGH):
        seen.see([completion(3 * tree + 1, 2, "length"), completion(3 * tree + 2, 2)])
    assert [kind for _, kind in told] == ["truncated a"]
    assert "raise evaluate.sampling.max_tokens, or evaluate.sampling.roles.a." in told[0][0]
    assert not seen.outcomes


# ---- whole runs ----


def warned(folder: Path) -> list[str]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["kind"] for line in lines if line["stage"] == "warning"]


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ([], set()),
        (["--sampling.temperature", "0"], {"unmixed"}),
        (["--train.sft.learning_rate", "1e-50"], {"ineffective"}),
        (["--train.dpo.beta", "0.5"], {"collapsing"}),
    ],
)
def test_what_a_run_warns_of(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch, options: list[str], kinds: set[str]
) -> None:
    monkeypatch.setattr("malt_fast.method.evaluate_run", lambda *_: None)
    monkeypatch.setattr(signs, "BLOCKS", 30)
    if kinds == {"collapsing"}:
        always = lambda role, line, *_: "x" if "rewards/margins" in line else ""  # noqa: E731
        monkeypatch.setattr("malt_fast.training.alarms.collapsing", always)
    more = ["--train.dpo.max_steps", "20", "--preferences.sft_source", "all"]
    run(*made, tmp_path / "run", *more, *options)
    # Outputs are of a token each; some roles have nothing to learn.
    usual = {"truncated verifier", "truncated refiner", ""}
    told = warned(tmp_path / "run")
    assert set(told) - usual == kinds
    assert told.count("collapsing") == 2 * ("collapsing" in kinds)  # two roles get DPO


def test_outputs_that_are_cut_off_or_say_nothing(made, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("malt_fast.method.evaluate_run", lambda *_: None)
    monkeypatch.setattr(signs, "ENOUGH", 20)
    rows = [{"question": f"a or b? {i}", "answer": "A"} for i in range(20)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(tmp_path / "q.jsonl", made[1], tmp_path / "run", "--task.grader", "choice")
    kinds = warned(tmp_path / "run")
    assert {"truncated generator", "truncated refiner", "unanswered"} <= set(kinds)
    assert len(kinds) == len(set(kinds))


def test_a_recent_leaf_is_shown_with_its_verdict() -> None:
    policy = Policy("m")
    shape = shape_from_branching([1, 1], [policy, policy])
    asked = [Question("a", "?", "7"), Question("b", "?", "8")]
    prompts: Any = Words()
    trees = SampledTrees(asked, shape, ["generator", "refiner"], prompts, "number")
    one = TreeMonitor(trees, lambda *_: None, lambda _: {})
    assert one.sample() == ""
    outputs = [
        Completion(node, np.array(tokens, np.int32), np.zeros(len(tokens), np.float32), "stop")
        for node, tokens in ((1, [7]), (2, [7]), (5, [9]), (4, [8]))
    ]
    one.see(outputs[:2])
    assert one.sample() == "refiner, right, gold 7: 7"
    one.see(outputs[2:3])
    assert one.sample() == "refiner, wrong, gold 8: 9"
    one.see(outputs[3:])  # a draft
    assert one.sample() == "refiner, wrong, gold 8: 9"
    own = TreeMonitor(replace(trees, grader="a.b:c"), lambda *_: None, lambda _: {})
    own.see([replace(outputs[1], tokens=np.arange(100, dtype=np.int32))])
    assert own.sample().startswith("refiner: ...") and own.sample().endswith("98 99")
