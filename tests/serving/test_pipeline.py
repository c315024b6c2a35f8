"""Passes, votes and turns, against every question answered on its own in plain Python."""

from pathlib import Path

import numpy as np
import pytest

from malt_fast.engines import Completion, Policy, Request
from malt_fast.evaluation.judge import judge
from malt_fast.evaluation.scores import vote
from malt_fast.evaluation.shape import build_shape
from malt_fast.evaluation.systems import systems_of
from malt_fast.runs.run import Run
from malt_fast.sampling.expand import expand, node_seed
from malt_fast.serving.answer import Answer
from malt_fast.serving.pipeline import Pipeline
from malt_fast.tasks.task import Question
from malt_fast.utils.errors import MaltError
from tests.serving.scripted import CHAIN, ScriptedEngine, encode, make_run, say, scripted

QUESTIONS = [f"what is {i}?" for i in range(40)]


def alone(pipeline: Pipeline, question: str, votes: int, seed: int = 4) -> Answer:
    """A question's answer without shape, forest or engine."""
    prompts, params = pipeline.setup.prompts, pipeline.params
    turns, finals, asked, sampled = [], [], 0, 0
    for k in range(votes):
        segments: list[np.ndarray] = []
        turn: dict[str, str | None] = dict.fromkeys(CHAIN)
        for level, role in enumerate(CHAIN, 1):
            path = (k,) * level
            prompt = prompts.build(level, prompts.encode_question(question), segments)
            own = node_seed(f"{seed}/answer", question, path)
            policy = Policy("m", role)
            text = say(Request(0, question, path, policy, prompt, params[level - 1], own))
            asked += len(prompt)
            if text is None:
                break
            turn[role] = text
            segments.append(encode(text))
            sampled += len(encode(text))
        turns.append(turn)
        finals.append(turn["refiner"])
    answers = [t.partition("A:")[2] if t and "A:" in t else None for t in finals]
    cast = [a for a in answers if a is not None]
    winner = max(cast, key=lambda a: (cast.count(a), -cast.index(a))) if cast else None
    there = [i for i, text in enumerate(finals) if text is not None]
    best = answers.index(winner) if cast else (there or [None])[0]
    return Answer(
        question=question,
        text="" if best is None else finals[best],
        answer=winner,
        votes=cast.count(winner),
        turns=turns,
        finish_reason="stop",
        prompt_tokens=asked,
        completion_tokens=sampled,
        error="no pass was finished: lost" if best is None else "",
    )


@pytest.mark.parametrize("votes", [1, 3, 5])
def test_answers_are_those_of_questions_answered_alone(votes: int) -> None:
    pipeline = scripted(ScriptedEngine(), votes=votes)
    found = pipeline.answers(QUESTIONS)
    assert found == [alone(pipeline, question, votes) for question in QUESTIONS]
    assert len({answer.votes for answer in found}) > 1
    assert any(None in turn.values() for answer in found for turn in answer.turns)


def test_neither_order_nor_company_changes_an_answer() -> None:
    together = scripted(ScriptedEngine(order=1)).answers(QUESTIONS)
    single = scripted(ScriptedEngine(order=2))
    assert [single.answers([question])[0] for question in QUESTIONS] == together
    assert single.answers(QUESTIONS[::-1]) == together[::-1]


def test_greedy_passes_are_sampled_once() -> None:
    """Without temperature the passes of a question are equal, and so are equal questions."""
    engine = ScriptedEngine(lambda request: "A:1")
    pipeline = scripted(engine, votes=3)
    tickets = [pipeline.submit(text, temperature=0.0) for text in [*QUESTIONS[:5], QUESTIONS[0]]]
    found: dict[int, Answer] = {}
    while len(found) < len(tickets):
        found |= dict(pipeline.poll())
    assert [found[ticket].votes for ticket in tickets] == [3] * 6
    asked = [(r.question, r.policy) for r in engine.seen]
    assert len(asked) == len(set(asked)) == 5 * len(CHAIN)
    assert not pipeline.busy and not pipeline.equal and not pipeline.greedy


def test_a_seed_gives_an_answer_and_another_another() -> None:
    pipeline = scripted(ScriptedEngine())
    own = pipeline.answers(QUESTIONS)
    assert pipeline.answers(QUESTIONS, seed=4) == own
    other = pipeline.answers(QUESTIONS, seed=5)
    assert other != own
    assert other == [alone(pipeline, question, 3, seed=5) for question in QUESTIONS]


def test_space_around_a_question_changes_nothing() -> None:
    pipeline = scripted(ScriptedEngine())
    assert pipeline.answer("\n what is 1? ") == pipeline.answer("what is 1?")


def test_a_question_that_fails_is_an_error_of_its_own() -> None:
    def script(request: Request) -> str | None:
        return None if request.question == "bad" and len(request.path) == 2 else "A:7"

    pipeline = scripted(ScriptedEngine(script))
    good, bad, last = pipeline.answers(["good", "bad", "last"])
    assert (good.answer, good.votes, last.answer) == ("7", 3, "7")
    assert (bad.error, bad.text, bad.answer) == ("no pass was finished: lost", "", None)
    assert bad.turns == [{"generator": "A:7", "verifier": None, "refiner": None}] * 3
    with pytest.raises(MaltError, match="no pass was finished: lost"):
        pipeline.answer("bad")


def test_outputs_without_an_answer_do_not_vote() -> None:
    def script(request: Request) -> str:
        return "A:5" if request.path == (2, 2, 2) else f"pass {'abc'[request.path[0]]}"

    answer = scripted(ScriptedEngine(script)).answer("?")
    assert (answer.text, answer.answer, answer.votes) == ("A:5", "5", 1)
    nobody = scripted(ScriptedEngine(lambda r: f"pass {'abc'[r.path[0]]}")).answer("?")
    assert (nobody.text, nobody.answer, nobody.votes) == ("pass a", None, 0)
    assert "none of the outputs has an answer" in str(nobody)


def test_random_ties_are_seeded_by_the_question() -> None:
    pipeline = scripted(ScriptedEngine(lambda r: f"A:{r.path[0]}"), tie_break="random")
    drawn = [answer.answer for answer in pipeline.answers(QUESTIONS)]
    assert set(drawn) == {"0", "1", "2"}
    assert [pipeline.answer(question).answer for question in QUESTIONS] == drawn


def test_a_question_has_settings_of_its_own() -> None:
    engine = ScriptedEngine(lambda r: "A:1234567")
    pipeline = scripted(engine)
    pipeline.submit("a", temperature=0.9, max_tokens=4)
    pipeline.submit("b", max_tokens=10**9)
    found = {}
    while len(found) < 2:
        found |= dict(pipeline.poll())
    assert (found[1].text, found[1].finish_reason) == ("A:12", "length")
    assert (found[2].text, found[2].finish_reason) == ("A:1234567", "stop")
    own = [params.max_tokens for params in pipeline.params]
    for request in engine.seen:
        asked, level = request.question == "a", len(request.path)
        assert request.params.temperature == (0.9 if asked else pipeline.params[0].temperature)
        assert request.params.max_tokens == (4 if asked and level == 3 else own[level - 1])


def test_questions_come_at_any_time_and_nothing_of_them_stays() -> None:
    engine = ScriptedEngine()
    pipeline = scripted(engine)
    found: dict[int, Answer] = {}
    for i in range(300):
        assert pipeline.submit(f"what is {i % 40}?") == i + 1
        found |= dict(pipeline.poll())
    while pipeline.pending:
        found |= dict(pipeline.poll())
    expected = scripted(ScriptedEngine()).answers(QUESTIONS)
    assert [found[i + 1] for i in range(300)] == [expected[i % 40] for i in range(300)]
    assert not (pipeline.asked or pipeline.waiting or pipeline.requests or pipeline.done)
    assert not pipeline.busy and not engine.pending
    assert not pipeline.questions and not pipeline.growth.open
    assert len({request.id for request in engine.seen}) == len(engine.seen)


def test_thousands_of_questions_may_be_open_at_once() -> None:
    engine = ScriptedEngine(lambda r: f"A:{len(r.question)}")
    engine.wants = 10**9
    pipeline = scripted(engine)
    questions = ["x" * (1 + i % 150) for i in range(1500)]
    answers = pipeline.answers(questions)
    assert [answer.answer for answer in answers] == [str(len(q)) for q in questions]


def test_no_more_questions_are_begun_than_the_engine_wants() -> None:
    engine = ScriptedEngine()
    engine.wants = 7
    pipeline = scripted(engine)
    for question in QUESTIONS:
        pipeline.submit(question)
    while pipeline.pending:
        pipeline.poll()
        begun = len(pipeline.asked) - len(pipeline.waiting)
        assert begun <= 7
    order = list(dict.fromkeys(request.question for request in engine.seen))
    assert order == QUESTIONS


def test_a_dropped_question_asks_nothing_more() -> None:
    engine = ScriptedEngine(lambda r: "A:1")
    engine.wants = 3  # one question
    pipeline = scripted(engine)
    first, second, third = (pipeline.submit(question) for question in "abc")
    pipeline.poll()
    before = [request for request in engine.seen if request.question == "a"]
    pipeline.drop(first)
    pipeline.drop(second)
    pipeline.drop(first)
    found = {}
    while pipeline.busy:
        found |= dict(pipeline.poll())
    assert set(found) == {third} and not pipeline.asked
    assert [request for request in engine.seen if request.question == "a"] == before
    assert "b" not in {request.question for request in engine.seen}


def test_answers_beside_a_question_taken_before() -> None:
    pipeline = scripted(ScriptedEngine(lambda r: "A:1"))
    ticket = pipeline.submit("first")
    assert pipeline.answer("second").answer == "1"
    found = {}
    while pipeline.pending:
        found |= dict(pipeline.poll())
    assert found[ticket].question == "first"


def test_an_interrupt_leaves_the_pipeline_usable() -> None:
    engine = ScriptedEngine()
    pipeline = scripted(engine)
    poll, calls = engine.poll, []

    def interrupted() -> list[Completion]:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return poll()

    engine.poll = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        pipeline.answers(QUESTIONS)
    assert not pipeline.asked and not pipeline.waiting
    assert pipeline.answers(QUESTIONS) == scripted(ScriptedEngine()).answers(QUESTIONS)


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("x" * 201, "201 tokens, and 200 fit"),
        ("\ud800", "half a Unicode character"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is(question: str, sentence: str) -> None:
    engine = ScriptedEngine()
    pipeline = scripted(engine)
    with pytest.raises(MaltError, match=sentence):
        pipeline.answers(["fine", question])
    assert not engine.seen and not pipeline.asked and not pipeline.waiting
    assert pipeline.answer("x" * 200)


def test_an_engine_that_gives_up_is_told() -> None:
    engine = ScriptedEngine()

    def broken() -> list[Completion]:
        raise MaltError("out of power: plug it in")

    engine.poll = broken  # type: ignore[method-assign]
    with pytest.raises(MaltError, match="plug it in"):
        scripted(engine).answer("?")


def test_turns_are_shown() -> None:
    shown = str(scripted(ScriptedEngine(lambda r: f"A:{len(r.path)}")).answer("how many?"))
    assert shown.startswith("how many?\n\n--- generator, pass 1 ---\nA:1\n")
    assert shown.endswith("--- refiner, pass 3 ---\nA:3\n\n=== 3 of 3 votes: 3")


# ---- a real run ----


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("pipeline"))


def test_a_run_answers_as_its_evaluation_would(run: Path) -> None:
    asked = [Question(text, text, "1") for text in ("one or two?", "two or one?", "שתיים?")]
    with Pipeline.load(run) as pipeline:
        answers = pipeline.answers(question.text for question in asked)
        setup, engine = pipeline.setup, pipeline.engine
        base = setup.base()
        where = str(run.resolve() / "adapters")
        name = base["generator"].base
        final = {
            "generator": Policy(name, f"{where}/generator/sft"),
            "verifier": Policy(name),
            "refiner": Policy(name, f"{where}/refiner/final"),
        }
        sft = final | {"refiner": Policy(name, f"{where}/refiner/sft")}
        systems = systems_of(CHAIN, 3)
        kinds = {"base": base, "sft": sft, "final": final}
        shape, used = build_shape(systems, setup.evaluation_prompts.numbers, kinds)
        params = setup.params(evaluating=True)
        forest = expand(asked, shape, setup.prompts, params, engine, "3/answer")
    judged = judge(forest, shape, asked, setup.evaluation_prompts.reply, "number")
    slots = next(u for s, u in zip(systems, used, strict=True) if s.name == "MALT+MV@3")
    for t, answer in enumerate(answers):
        nodes = t * (1 + len(shape)) + 1 + slots
        said = [[setup.prompts.decode(forest.tokens_of(int(n))) for n in row] for row in nodes]
        assert [list(turn.values()) for turn in answer.turns] == said
        assert answer.text == said[vote(judged.answers[t, slots[:, -1]].tolist())][-1]
        assert answer.completion_tokens == judged.tokens[t, slots].sum()


def test_settings_go_over_those_of_the_run_and_its_data_may_be_gone(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (tmp_path / "questions.jsonl").unlink()
    settings = {"evaluate.votes": 2, "sampling.max_tokens": 1, "serve.max_question": 20}
    with Pipeline.load(str(run), settings) as pipeline:
        answer = pipeline.answer("one or two?")
        assert len(answer.turns) == 2
        assert answer.completion_tokens <= 6
        with pytest.raises(MaltError, match="21 tokens, and 20 fit"):
            pipeline.answer("x" * 21)
    context = 2048
    with Pipeline.load(run) as pipeline:
        longest = "x" * pipeline.room
        assert len(longest) < context
        with pytest.raises(MaltError, match="fit"):
            pipeline.answer(longest + "x")
        assert pipeline.answers([longest])[0].turns[0]["generator"] is not None


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"lora.r": 8}, r"lora\.r was fixed by training"),
        ({"sampling.temperature": 0.5}, r"sampling\.temperature was fixed by training"),
        ({"engine.name": "replay", "engine.path": "x.jsonl"}, "recorded questions only"),
        ({"evaluate.vote": 3}, "did you mean"),
        ({"engine.name": "vllm", "engine.replicas": 0}, r"engine\.replicas"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    run: Path, settings: dict[str, object], sentence: str
) -> None:
    with pytest.raises(MaltError, match=sentence):
        Pipeline.load(run, settings)


def test_what_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MaltError, match="holds no run"):
        Pipeline.load(tmp_path / "nowhere")
    run = make_run(tmp_path)
    with pytest.raises(MaltError, match="fixed by training"):
        Pipeline.load(run, {"task.grader": "exact"})
    prompts = tmp_path / "prompts.yaml"
    with Pipeline.load(run) as pipeline:
        setup = pipeline.setup
        Run(run, setup.config).note("prompts.json", setup.prompts.as_json().encode())
    prompts.write_text(prompts.read_text().replace("R:", "Refine:"))
    with pytest.raises(MaltError, match=r"prompts\.json"):
        Pipeline.load(run)
    (run / "adapters").rename(tmp_path / "elsewhere")
    with pytest.raises(MaltError, match=r"malt_fast\.train"):
        Pipeline.load(run)
