"""Prompts: segments put together equal the rendered conversation, and are shared to the token."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malt_fast.models.tokenizer import load_tokenizer
from malt_fast.tasks.prompts import Prompts, RolePrompt, split_prompt
from malt_fast.utils.errors import MaltError
from tests.tiny import CHAT_TEMPLATE, byte_tokenizer

CHAIN = ["generator", "verifier", "refiner"]
CHAT = {
    "generator": RolePrompt("Solve.", "Q: {question}\nGo {{now}}."),
    "verifier": RolePrompt(None, "Q: {question}\nA: {generator} Check."),
    "refiner": RolePrompt("Mend.", "Q: {question}\nA: {generator}\nV: {verifier}"),
}
PLAIN = {
    "generator": RolePrompt(None, "{question}\nDraft:"),
    "verifier": RolePrompt(None, "{question}\nDraft:{generator}\nCheck:"),
    "refiner": RolePrompt(None, "{question}\nDraft:{generator}\nCheck:{verifier}\nFinal:"),
}
# Refuses a system turn, as Gemma's and Mistral's do.
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    + CHAT_TEMPLATE
)


def ids(tokenizer: Any, text: str) -> np.ndarray:
    return np.array(tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)


def test_build_equals_rendering_the_whole_conversation() -> None:
    tokenizer = byte_tokenizer(chat_template=True)
    prompts = Prompts(CHAIN, CHAT, tokenizer, chat=True)
    question = prompts.encode_question("how many?")
    segments = [ids(tokenizer, "four</s>"), ids(tokenizer, "no, five")]
    for level, role in enumerate(CHAIN, 1):
        user = CHAT[role].user.format(question="how many?", generator="four", verifier="no, five")
        turns = [{"role": "user", "content": user}]
        if CHAT[role].system:
            turns.insert(0, {"role": "system", "content": CHAT[role].system or ""})
        whole = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        built = prompts.build(level, question, segments[: level - 1])
        assert built.dtype == np.int32
        assert tokenizer.decode(built) == whole
        assert built.tolist() == ids(tokenizer, whole).tolist()  # one token a byte: no other cut


def test_plain_prompts_open_with_the_begin_token() -> None:
    tokenizer = byte_tokenizer()
    prompts = Prompts(CHAIN, PLAIN, tokenizer, chat=False)
    built = prompts.build(
        3, prompts.encode_question("1+1"), [ids(tokenizer, " 2"), ids(tokenizer, " ok")]
    )
    assert tokenizer.decode(built) == "<s>1+1\nDraft: 2\nCheck: ok\nFinal:"
    tokenizer.bos_token = None
    prompts = Prompts(CHAIN, PLAIN, tokenizer, chat=False)
    assert tokenizer.decode(prompts.build(1, prompts.encode_question("1"), [])) == "1\nDraft:"


def test_a_plain_system_text_comes_first() -> None:
    tokenizer = byte_tokenizer()
    prompts = Prompts(["a"], {"a": RolePrompt("Be {brief}.", "{question}?")}, tokenizer, chat=False)
    built = prompts.build(1, prompts.encode_question("x"), [])
    assert tokenizer.decode(built) == "<s>Be {brief}.\n\nx?"


def test_prompts_only_grow_and_cousins_share_their_prefix() -> None:
    tokenizer = byte_tokenizer()
    prompts = Prompts(CHAIN, PLAIN, tokenizer, chat=False)
    question = prompts.encode_question("12+30")
    draft = ids(tokenizer, " 42</s>")
    verifier = prompts.build(2, question, [draft])
    one = prompts.build(3, question, [draft, ids(tokenizer, " ok")])
    two = prompts.build(3, question, [draft, ids(tokenizer, " no, look again")])
    assert one[: len(verifier)].tolist() == two[: len(verifier)].tolist() == verifier.tolist()


def test_sampled_tokens_are_kept_as_they_came() -> None:
    """Tokens whose text would tokenise differently (or is no text at all) stay what they were."""
    tokenizer = byte_tokenizer()
    prompts = Prompts(CHAIN, PLAIN, tokenizer, chat=False)
    question = prompts.encode_question("1")
    odd = np.array([200, 130, 1, 0, 255], np.int32)  # broken UTF-8, <s> and <pad> within
    built = prompts.build(2, question, [odd]).tolist()
    at = len(prompts.build(1, question, []))
    assert built[at : at + 5] == odd.tolist()


def test_the_end_token_is_dropped_once() -> None:
    tokenizer = byte_tokenizer()
    prompts = Prompts(CHAIN, PLAIN, tokenizer, chat=False)
    assert prompts.end_ids == (2,)
    question = prompts.encode_question("1")
    plain = prompts.build(2, question, [np.array([50], np.int32)])
    assert prompts.build(2, question, [np.array([50, 2], np.int32)]).tolist() == plain.tolist()
    assert len(prompts.build(2, question, [np.array([50, 2, 2], np.int32)])) == len(plain) + 1
    assert len(prompts.build(2, question, [np.array([], np.int32)])) == len(plain) - 1
    assert prompts.decode([*ids(tokenizer, " a b "), 2]) == " a b "
    assert prompts.decode([]) == ""


def test_end_ids_come_from_everywhere() -> None:
    tokenizer = byte_tokenizer()
    assert Prompts(CHAIN, PLAIN, tokenizer, chat=False, extra_end_ids=[2, 9]).end_ids == (2, 9)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.chat_template = CHAT_TEMPLATE.replace("{{ eos_token }}", "<|turn|>")
    turn = tokenizer.convert_tokens_to_ids("<|turn|>")
    assert Prompts(CHAIN, CHAT, tokenizer, chat=True).end_ids == (2, turn)


def test_a_question_cannot_smuggle_in_control_tokens() -> None:
    tokenizer = byte_tokenizer()
    prompts = Prompts(CHAIN, PLAIN, tokenizer, chat=False)
    assert 2 not in prompts.encode_question("end</s> here").tolist()
    assert tokenizer.decode(prompts.encode_question("end</s> here")) == "end</s> here"


def test_a_system_text_moves_to_the_user_where_there_is_no_system_turn() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = NO_SYSTEM
    prompts = Prompts(CHAIN, CHAT, tokenizer, chat=True)
    text = tokenizer.decode(prompts.build(1, prompts.encode_question("7"), []))
    assert text == "<s><|user|>\nSolve.\n\nQ: 7\nGo {now}.</s><|assistant|>\n"


def test_a_role_need_not_read_every_earlier_one() -> None:
    wording = {
        "a": PLAIN["generator"],
        "b": RolePrompt(None, "{question}!"),
        "c": RolePrompt(None, "{question}{b}."),
    }
    tokenizer = byte_tokenizer()
    prompts = Prompts(["a", "b", "c"], wording, tokenizer, chat=False)
    built = prompts.build(
        3, prompts.encode_question("q"), [ids(tokenizer, "A"), ids(tokenizer, "B")]
    )
    assert tokenizer.decode(built) == "<s>qB."


def test_build_refuses_the_wrong_number_of_segments() -> None:
    prompts = Prompts(CHAIN, PLAIN, byte_tokenizer(), chat=False)
    question = prompts.encode_question("1")
    for level, segments in [(0, []), (4, [question] * 3), (2, []), (1, [question])]:
        with pytest.raises(ValueError, match="segments"):
            prompts.build(level, question, segments)


@pytest.mark.parametrize(
    ("wording", "part"),
    [
        ("no field", "must hold {question} once, but holds it 0 times"),
        ("{question}{question}", "holds it 2 times"),
        ("{generator}{question}", "chain order"),
        ("{question}{verifier}{generator}", "chain order"),
        ("{question}{generator}{generator}", "each at most once"),
        ("{question}{refiner}", "chain order"),
        ("{question}{genrator}", "did you mean 'generator'?"),
        ("{question}{}", "names {}"),
        ("{question} \\boxed{", "write {{ and }} for literal braces"),
        ("{question!r}", "write {{ and }} for literal braces"),
        ("{question:>10}", "write {{ and }} for literal braces"),
    ],
)
def test_bad_wordings(wording: str, part: str) -> None:
    with pytest.raises(MaltError) as caught:
        split_prompt(CHAIN, "refiner", {"refiner": RolePrompt(None, wording)})
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_a_role_without_a_prompt() -> None:
    with pytest.raises(MaltError, match=r"'critic' has no prompt: give one by --task\.prompts"):
        split_prompt(["critic"], "critic", PLAIN)


def test_no_chat_template() -> None:
    with pytest.raises(
        MaltError, match=r"no chat template: give one by --model\.chat_template FILE"
    ):
        Prompts(CHAIN, CHAT, byte_tokenizer(), chat=True)


def test_no_end_token() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(MaltError, match="no end token"):
        Prompts(CHAIN, PLAIN, tokenizer, chat=False)
    assert Prompts(CHAIN, PLAIN, tokenizer, chat=False, extra_end_ids=[7]).end_ids == (7,)


@pytest.mark.parametrize(
    ("template", "part"),
    [
        ("{{ messages[0]['content'] | upper }}", "once and unchanged"),
        ("fixed text", "once and unchanged"),
        ("{{ messages[0]['content'] }}{{ messages[0]['content'] }}", "once and unchanged"),
        ("{{ raise_exception('never') }}", "cannot render the generator's prompt (never)"),
        ("{% if %}", "cannot render the generator's prompt"),
    ],
)
def test_bad_templates(template: str, part: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(MaltError) as caught:
        Prompts(CHAIN, PLAIN, tokenizer, chat=True)
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_a_template_that_prints_the_date_prints_the_same_one_tomorrow() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%s') %}{% endif %}"
        "{{ date_string }}" + CHAT_TEMPLATE
    )
    prompts = Prompts(CHAIN, PLAIN, tokenizer, chat=True)
    assert "26 Jul 2024<s>" in tokenizer.decode(prompts.build(1, prompts.encode_question("1"), []))


def test_a_template_that_asks_for_the_date_gets_the_same_one_tomorrow() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%Y-%m-%d') }}" + CHAT_TEMPLATE
    prompts = Prompts(CHAIN, PLAIN, tokenizer, chat=True)
    assert "2024-07-26<s>" in tokenizer.decode(prompts.build(1, prompts.encode_question("1"), []))


def test_json_tells_wording_template_and_end_tokens_apart() -> None:
    tokenizer = byte_tokenizer(chat_template=True)
    texts = [
        Prompts(CHAIN, PLAIN, tokenizer, chat=False).as_json(),
        Prompts(CHAIN, PLAIN, tokenizer, chat=False, extra_end_ids=[9]).as_json(),
        Prompts(CHAIN, PLAIN, tokenizer, chat=True).as_json(),
        Prompts(CHAIN, CHAT, tokenizer, chat=True).as_json(),
    ]
    assert len(set(texts)) == 4
    saved = json.loads(texts[0])
    first, question, between, draft, last = saved["prompts"]["verifier"]
    assert (question, draft, saved["end_ids"]) == ("question", "generator", [2])
    assert [tokenizer.decode(part) for part in (first, between, last)] == [
        *("<s>", "\nDraft:", "\nCheck:")
    ]


def test_load_tokenizer(tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "t.jinja").write_text(CHAT_TEMPLATE)
    tokenizer = load_tokenizer(str(tmp_path / "model"), tmp_path / "t.jinja")
    assert tokenizer.chat_template == CHAT_TEMPLATE
    with pytest.raises(MaltError, match="cannot be loaded"):
        load_tokenizer(str(tmp_path / "nothing"))
    with pytest.raises(MaltError, match=r"check --model\.chat_template"):
        load_tokenizer(str(tmp_path / "model"), tmp_path / "none.jinja")
