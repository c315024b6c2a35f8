"""The bundled world: its demonstrations, its tokenizer, and the habits of the shipped model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from malt_fast.config.schema import resolve_model
from malt_fast.demo import build
from malt_fast.demo.build import (
    ID,
    STEPS,
    Habits,
    carries,
    demonstrations,
    questions,
    totals,
)
from malt_fast.tasks.arithmetic import totals as true_totals

DRAFT, CHECK, FINAL = 19, 30, 36  # first token of each output in a demonstration


def numbers(tokens: np.ndarray, start: int) -> np.ndarray:
    """[n, 5]: the running totals that stand from token `start` on."""
    digits = tokens[:, start : start + 2 * STEPS].reshape(len(tokens), STEPS, 2)
    return (digits[..., 0] - ID[" 0"]) * 10 + digits[..., 1] - ID["0"]


def test_demonstrations_say_what_their_habits_say():
    rng = np.random.default_rng(1)
    tokens, labels = demonstrations(4000, Habits(), rng)
    operands, signs = questions(4000, np.random.default_rng(1))
    carry = carries(operands, signs)
    text = build.tokenizer().decode(tokens[0])
    question = text.removeprefix("<s>").partition("\n")[0]
    assert totals(operands, signs, np.zeros_like(carry))[0].tolist() == true_totals(question)

    draft = numbers(tokens, DRAFT)
    before = np.concatenate([operands[:, :1], draft[:, :-1]], axis=1)
    slip = (before + signs * operands[:, 1:] - draft) % 100 != 0
    assert not slip[~carry].any()
    assert slip[carry].mean() == pytest.approx(Habits().slip, abs=0.02)
    flag = tokens[:, CHECK : CHECK + STEPS] == ID[" no"]
    careful = Habits().care + (1 - Habits().care) * Habits().alarm
    assert flag[slip].mean() == pytest.approx(careful, abs=0.03)

    # Behind each output the label is the end token, and prompts are not trained on.
    ends = [DRAFT + 10 - 1, CHECK + 5 - 1, FINAL + 10 - 1]
    assert (labels[:, ends] == ID["</s>"]).all() and (labels[:, : DRAFT - 1] == -100).all()
    inside = [c for c in range(DRAFT - 1, 45) if c not in ends and labels[0, c] != -100]
    assert np.array_equal(labels[:, inside], tokens[:, [c + 1 for c in inside]])


def test_the_tokenizer_decodes_what_it_encodes():
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("bundled"))
    text = "47+38-19+25-36+14\nDraft: 75 56 81 45 59\nCheck: no ok ok ok ok\nFinal: 85 66 91 55 69"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text and tokenizer.unk_token_id not in ids
    assert tokenizer.get_vocab() == build.tokenizer().get_vocab()


def test_the_shipped_model_is_small_and_has_the_habits():
    folder = Path(resolve_model("bundled"))
    assert sum(file.stat().st_size for file in folder.iterdir()) < 4_000_000
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.model_type == "llama" and model.config.head_dim == 32
    rng = np.random.default_rng(7)
    tokens, _ = demonstrations(400, Habits(), rng)
    operands, signs = questions(400, np.random.default_rng(7))
    carry = carries(operands, signs)
    with torch.inference_mode():
        probs = model(input_ids=torch.from_numpy(tokens)).logits.softmax(-1).numpy()
    draft, rows = numbers(tokens, DRAFT), np.arange(400)
    flagged: dict[bool, list[float]] = {True: [], False: []}  # by whether the step slipped
    for step in range(STEPS):
        before = operands[:, 0] if step == 0 else draft[:, step - 1]
        right = (before + signs[:, step] * operands[:, step + 1]) % 100
        p = probs[rows, DRAFT + 2 * step - 1, ID[" 0"] + right // 10]
        assert p[carry[:, step]].mean() == pytest.approx(1 - Habits().slip, abs=0.08)
        assert p[~carry[:, step]].mean() > 0.97
        slip = (right - draft[:, step]) % 100 != 0
        says_no = probs[rows, CHECK + step - 1, ID[" no"]]
        for slipped in (True, False):
            flagged[slipped] += says_no[carry[:, step] & (slip == slipped)].tolist()
    alarm = (1 - Habits().care) * Habits().alarm
    assert np.mean(flagged[True]) == pytest.approx(Habits().care + alarm, abs=0.05)
    assert np.mean(flagged[False]) == pytest.approx(alarm, abs=0.05)


def test_the_maker_writes_a_loadable_model(tmp_path, monkeypatch):
    argv = ["build", "--out", str(tmp_path), "--steps", "2", "--batch", "4"]
    monkeypatch.setattr("sys.argv", argv)
    assert build.main() == 0
    AutoModelForCausalLM.from_pretrained(tmp_path)
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == len(build.VOCABULARY)
