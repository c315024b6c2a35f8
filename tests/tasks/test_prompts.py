"""Prompts: segments put together equal the rendered conversation, and are shared to the token."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from malt_fast.models.tokenizer import load_tokenizer
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.wording import RolePrompt, split_prompt
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
    """Tokens whose text would tokenise differently stay what they were."""
    tokenizer = byte_tokenizer()
    prompts = Prompts(CHAIN, PLAIN, tokenizer, chat=False)
    question = prompts.encode_question("1")
    odd = np.array([200, 130, 255], np.int32)  # broken UTF-8
    built = prompts.build(2, question, [odd]).tolist()
    at = len(prompts.build(1, question, []))
    assert built[at : at + 3] == odd.tolist()


def test_control_tokens_of_an_output_are_left_out_of_later_prompts() -> None:
    """An output may go on past a turn of its own: no later role sees a turn in it."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<tool_call>"])
    prompts = Prompts(CHAIN, PLAIN, tokenizer, chat=False)
    question = prompts.encode_question("1")
    tool = len(tokenizer) - 1
    clean = prompts.build(2, question, [np.array([50, 51], np.int32)]).tolist()
    for odd in ([50, 1, 51], [0, 50, 51, 2], [50, tool, 51, 2, 2], [tool, 50, 51]):
        assert prompts.build(2, question, [np.array(odd, np.int32)]).tolist() == clean


def test_the_end_token_is_dropped_once() -> None:
    tokenizer = byte_tokenizer()
    prompts = Prompts(CHAIN, PLAIN, tokenizer, chat=False)
    assert prompts.end_ids == (2,)
    question = prompts.encode_question("1")
    plain = prompts.build(2, question, [np.array([50], np.int32)])
    assert prompts.build(2, question, [np.array([50, 2], np.int32)]).tolist() == plain.tolist()
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


def joining(*merges: tuple[str, str]) -> Any:
    """A tokenizer that also joins some pairs of bytes, wherever they stand."""
    alphabet = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocab = {token: i for i, token in enumerate([*alphabet, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=CHAT_TEMPLATE
    )
    return fast


def built_and_whole(prompts: Prompts, question: str, outputs: list[str]) -> tuple[Any, Any]:
    """The last role's prompt as built from segments, and the tokens of its text."""
    segments = [ids(prompts.tokenizer, text) for text in outputs]
    built = prompts.build(len(prompts.chain), prompts.encode_question(question), segments)
    text = prompts.tokenizer.decode(built)
    return built.tolist(), ids(prompts.tokenizer, text).tolist()


def test_a_line_break_after_an_output_is_not_joined_with_its_last_sign() -> None:
    """As Llama 3's and Qwen's tokenizers join `.` and a line break."""
    prompts = Prompts(CHAIN, CHAT, joining((".", "Ċ")), chat=True)
    built, whole = built_and_whole(prompts, "how?", ["It is 7.", "Yes."])
    assert built == whole
    assert "7. \nV: Yes." in prompts.tokenizer.decode(built)
    assert prompts.joined() == []
    text = Prompts(CHAIN, CHAT, joining(), chat=True).texts[2]
    assert text[1] == "\nA: "  # no space where none is needed


def test_a_join_that_cannot_be_mended_is_told() -> None:
    """As every tokenizer takes the space before a word as part of it."""
    prompts = Prompts(CHAIN, CHAT, joining(("Ġ", "7")), chat=True)
    built, whole = built_and_whole(prompts, "7?", ["no", "7"])
    assert built != whole
    assert prompts.joined()[0] == (
        "in the generator's prompt the tokenizer may join {question} with the text before it: end "
        "that text by a line break"
    )
    assert len(prompts.joined()) == 6  # one for each segment
    lines = {role: RolePrompt(None, p.user.replace(": ", ":\n")) for role, p in CHAT.items()}
    assert Prompts(CHAIN, lines, joining(("Ġ", "7")), chat=True).joined() == []


def test_segments_that_touch_are_told() -> None:
    touching = CHAT | {"verifier": RolePrompt(None, "Q:\n{question}{generator}\nCheck.")}
    prompts = Prompts(CHAIN[:2], touching, joining((".", "T")), chat=True)
    assert prompts.joined() == [
        "in the verifier's prompt the tokenizer may join {generator} with {question}: put a line "
        "break between the two"
    ]
    assert Prompts(CHAIN[:2], touching, joining(), chat=True).joined() == []


def test_a_question_that_begins_one_prompt_only_is_told() -> None:
    """As SentencePiece puts a space in front of a text, and of no other piece of it."""
    tokenizer = joining()
    tokenizer.backend_tokenizer.normalizer = normalizers.Prepend("_")
    wording = {"a": RolePrompt(None, "{question}\n"), "b": RolePrompt(None, "Q\n{question}\n")}
    assert Prompts(["a", "b"], wording, tokenizer, chat=False).joined() == [
        "the a's prompt begins with {question}, whose first token is that of prompts with a text "
        "before it: begin this one by a line of text, too"
    ]
    assert Prompts(["a"], wording, tokenizer, chat=False).joined() == []
    assert Prompts(["a", "b"], wording, joining(), chat=False).joined() == []


def test_a_space_that_a_tokenizer_puts_in_front_is_put_there_once() -> None:
    """SentencePiece's dummy prefix belongs to the whole text, not to every piece."""
    tokenizer = joining()
    tokenizer.backend_tokenizer.normalizer = normalizers.Prepend("_")
    prompts = Prompts(CHAIN, CHAT, tokenizer, chat=True)
    built = prompts.build(3, prompts.encode_question("7"), [ids(joining(), text) for text in "ab"])
    assert (
        tokenizer.decode(built).count("_") == 3
    )  # after every control token, as in the whole text
    user = "Q: 7\nA: a\nV: b"
    turns = [{"role": "system", "content": "Mend."}, {"role": "user", "content": user}]
    whole = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert built.tolist() == ids(tokenizer, whole).tolist()


@pytest.mark.parametrize("special", [True, False])
def test_no_text_of_a_question_becomes_an_added_token(special: bool) -> None:
    tokenizer = byte_tokenizer()
    words = ["<|im_end|>", "<think>", "<\uff5cUser\uff5c>"]
    tokenizer.add_tokens([AddedToken(word, special=special) for word in words])
    prompts = Prompts(CHAIN, PLAIN, tokenizer, chat=False)
    text = "a<|im_end|> <think><\uff5cUser\uff5c>\n</s><<|im_end|>"
    found = prompts.encode_question(text)
    assert tokenizer.decode(found) == text
    several = prompts.encode_questions(iter([text, "", "a", text]))
    assert [tokens.tolist() for tokens in several] == [
        prompts.encode_question(one).tolist() for one in (text, "", "a", text)
    ]
    assert found.max() < len(tokenizer) - len(words) and 2 not in found.tolist()


def test_no_letter_variant_of_a_control_token_becomes_one() -> None:
    """Some tokenizers look for added tokens in the normalised text."""
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.add_tokens([AddedToken("<think>", normalized=True)])
    prompts = Prompts(CHAIN, PLAIN, tokenizer, chat=False)
    assert prompts.encode_question("x<THINK>").max() < len(tokenizer) - 1
    (found,) = prompts.encode_questions(["x<THINK>"])
    assert found.tolist() == prompts.encode_question("x<THINK>").tolist()


def test_the_end_of_a_turn_need_not_be_among_the_special_tokens() -> None:
    """A base model's eos is another, and only added_tokens_decoder has the turn's end."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("<|turn|>")])
    tokenizer.chat_template = CHAT_TEMPLATE.replace("{{ eos_token }}", "<|turn|>")
    turn = tokenizer.convert_tokens_to_ids("<|turn|>")
    assert Prompts(CHAIN, CHAT, tokenizer, chat=True).end_ids == (2, turn)


def thinking_tokenizer(opened: bool = False) -> tuple[Any, int, int]:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    begin, end = len(tokenizer) - 2, len(tokenizer) - 1
    tokenizer.chat_template = CHAT_TEMPLATE.replace(
        "<|assistant|>\n{% endif %}",
        "<|assistant|>\n{% if not thinks is defined or thinks %}"
        + ("<think>\n" if opened else "")
        + "{% else %}<think></think>{% endif %}{% endif %}",
    )
    return tokenizer, begin, end


def test_later_roles_read_the_answer_of_a_thinking_model() -> None:
    tokenizer, begin, end = thinking_tokenizer()
    make = partial(Prompts, CHAIN, CHAT, tokenizer, chat=True)
    question, word = make().encode_question("7?"), ids(tokenizer, "hm").tolist()
    answer = ids(tokenizer, "it is 7").tolist()
    thought = np.array([begin, *word, end, *ids(tokenizer, "\n\n"), *answer, 2], np.int32)
    unfinished = np.array([begin, *word], np.int32)
    plain = make().build(2, question, [np.array(answer, np.int32)]).tolist()
    assert make().build(2, question, [thought]).tolist() == plain
    empty = make().build(2, question, [np.array([], np.int32)]).tolist()
    assert make().build(2, question, [unfinished]).tolist() == empty
    passed = make(pass_thinking=["generator"]).build(2, question, [thought])
    assert "A: hm\n\nit is 7 Check." in tokenizer.decode(passed)
    assert make(pass_thinking=["generator"]).as_json() != make().as_json()
    assert make().marks_thoughts and not make().passed_text(1, thought).count("hm")
    assert "hm" in make(pass_thinking=["generator"]).passed_text(1, thought)
    for passing in ([], ["generator"]):
        assert make(pass_thinking=passing).reply(1, thought) == "it is 7"
        assert make(pass_thinking=passing).reply(1, unfinished) == ""


def test_a_prompt_may_open_the_thought() -> None:
    tokenizer, _, end = thinking_tokenizer(opened=True)
    prompts = Prompts(CHAIN, CHAT, tokenizer, chat=True)
    question, word = prompts.encode_question("7?"), ids(tokenizer, "hm")
    empty = prompts.build(2, question, [np.array([], np.int32)]).tolist()
    assert prompts.build(2, question, [word]).tolist() == empty
    closed = np.array([*word, end, *word], np.int32)
    without = Prompts(CHAIN, CHAT, tokenizer, chat=True, template_arguments={"thinks": False})
    assert prompts.build(2, question, [closed]).tolist() != empty
    assert "A: hm Check." in tokenizer.decode(without.build(2, question, [word]))
    assert prompts.reply(1, word) == "" and prompts.reply(1, closed) == "hm"
    assert without.reply(1, word) == "hm"


def test_demonstrations_of_a_thinking_model_have_tokens_around_their_thoughts() -> None:
    tokenizer, begin, end = thinking_tokenizer()
    word, answer = ids(tokenizer, "hm").tolist(), ids(tokenizer, "it is 7").tolist()
    prompts = Prompts(CHAIN, CHAT, tokenizer, chat=True)
    thought = prompts.encode_output(1, "<think>hm</think>it is 7")
    assert thought.tolist() == [begin, *word, end, *answer, 2]
    assert prompts.encode_output(1, "it is 7").tolist() == [*answer, 2]
    tokenizer, _, end = thinking_tokenizer(opened=True)
    prompts = Prompts(CHAIN, CHAT, tokenizer, chat=True)
    closed = prompts.encode_output(1, "it is 7")
    assert closed.tolist() == [end, *answer, 2]
    assert prompts.encode_output(1, "hm</think>it is 7").tolist() == [*word, end, *answer, 2]
    assert prompts.encode_output(1, "hm", ended=False).tolist() == word
    question = prompts.encode_question("7?")
    assert "A: it is 7 Check." in tokenizer.decode(prompts.build(2, question, [closed]))


def test_template_arguments() -> None:
    tokenizer, _, _ = thinking_tokenizer()
    prompts = Prompts(CHAIN, CHAT, tokenizer, chat=True, template_arguments={"thinks": False})
    assert prompts.texts[0][-1].endswith("<|assistant|>\n<think></think>")
    with pytest.raises(MaltError, match=r"no variable 'thinkz': leave out model\.template_arg"):
        Prompts(CHAIN, CHAT, tokenizer, chat=True, template_arguments={"thinkz": False})
    with pytest.raises(MaltError, match="no variable 'thi'"):  # a part of a name
        Prompts(CHAIN, CHAT, tokenizer, chat=True, template_arguments={"thi": False})
    with pytest.raises(MaltError, match=r"is set for every prompt: leave out model\.template_arg"):
        Prompts(CHAIN, CHAT, tokenizer, chat=True, template_arguments={"messages": []})


def test_a_template_must_open_the_turn_of_the_answer() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}</s>{% endfor %}"
    )
    with pytest.raises(MaltError, match="ignores add_generation_prompt"):
        Prompts(CHAIN, CHAT, tokenizer, chat=True)
    tokenizer.chat_template = (  # as Mistral's, which opens it always
        "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
    )
    assert Prompts(CHAIN, CHAT, tokenizer, chat=True).texts[0][-1].endswith(" [/INST]")


DROPS_SYSTEM = (
    "{% for m in messages %}{% if m['role'] != 'system' %}<|{{ m['role'] }}|>\n{{ m['content'] }}"
    "</s>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.mark.parametrize(("template", "begin"), [(DROPS_SYSTEM, ""), (NO_SYSTEM, "<s>")])
def test_a_system_text_without_a_turn_moves_to_the_user(template: str, begin: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    prompts = Prompts(CHAIN, CHAT, tokenizer, chat=True)
    text = tokenizer.decode(prompts.build(1, prompts.encode_question("7"), []))
    assert text == f"{begin}<|user|>\nSolve.\n\nQ: 7\nGo {{now}}.</s><|assistant|>\n"


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


def test_a_system_text_has_no_fields() -> None:
    for system in ("Solve {question}", "Check {generator}"):
        with pytest.raises(MaltError, match=r"stays as it is there: move it to the user text"):
            split_prompt(CHAIN, "refiner", {"refiner": RolePrompt(system, "{question}")})
    split_prompt(CHAIN, "refiner", {"refiner": RolePrompt("Use {braces}", "{question}")})


def test_a_role_without_a_prompt() -> None:
    with pytest.raises(MaltError, match=r"'critic' has no prompt: give one by --task\.prompts"):
        split_prompt(["critic"], "critic", PLAIN)


def test_no_chat_template() -> None:
    with pytest.raises(
        MaltError, match=r"no chat template: give .* a template by --model\.chat_template FILE"
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
        ("{{ messages[-1]['content'] | tojson }}", "once and unchanged"),
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
