"""Recordings as an engine: what is answered, and what is said about files that are wrong."""

import json
from pathlib import Path

import numpy as np
import pytest

from malt_fast.engines import Policy, Request, SamplingParams
from malt_fast.engines.replay import ReplayEngine
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.wording import RolePrompt
from malt_fast.utils.errors import MaltError
from tests.tiny import byte_tokenizer

END = 2
TEXTS = {"generator": "{question}", "verifier": "{question} {generator}"}
WORDING = {role: RolePrompt(None, text) for role, text in TEXTS.items()}
PROMPTS = Prompts([*TEXTS], WORDING, byte_tokenizer(), chat=False)


def encode(depth: int, text: str, ended: bool) -> np.ndarray:
    return PROMPTS.encode_output(depth, text, ended=ended)


def request(id: int, question: str, path: tuple[int, ...]) -> Request:
    params = SamplingParams(stop_token_ids=(END,))
    return Request(id, question, path, Policy("any"), np.array([5], np.int32), params, seed=0)


def write(folder: Path, *rows: object) -> Path:
    path = folder / "recorded.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_records_are_answered_by_question_and_path():
    records = {
        ("a", (0,)): np.array([7, 8, END], np.int32),
        ("a", (1,)): np.array([7, 8], np.int32),
        ("b", (0, 1)): np.array([], np.int32),
    }
    engine = ReplayEngine(records)
    engine.submit([request(1, "a", (1,)), request(2, "b", (0, 1))])
    engine.submit([request(0, "a", (0,)), request(3, "b", (0,))])
    assert engine.pending == 4
    done = {c.id: c for c in engine.poll()}
    assert engine.pending == 0 and engine.poll() == []
    assert [done[i].tokens.tolist() for i in range(4)] == [[7, 8, END], [7, 8], [], []]
    assert [done[i].finish_reason for i in range(4)] == ["stop", "length", "length", "error"]
    assert "'b'" in done[3].error and "[0]" in done[3].error
    assert np.isnan(done[0].logprobs).all() and len(done[0].logprobs) == 3


def test_from_jsonl(tmp_path):
    tokenizer = PROMPTS.tokenizer
    rows = [
        {"question": "a", "path": [0], "text": "4 <s> \u2028 é"},
        {"question": "a", "path": [1], "text": "cut", "finish_reason": "length"},
        "",
        {"question": "a", "path": [1, 0], "token_ids": [9, 3], "finish_reason": "stop"},
        {"question": "a", "path": [1, 1], "token_ids": [9, END]},
    ]
    path = write(tmp_path, *rows)
    path.write_text(path.read_text().replace("\\u2028", "\u2028"))
    engine = ReplayEngine.from_jsonl(path, encode)
    engine.submit([request(i, "a", p) for i, p in enumerate([(0,), (1,), (1, 0), (1, 1)])])
    a, b, c, d = engine.poll()
    assert tokenizer.decode(a.tokens[:-1]) == "4 <s> \u2028 é" and a.tokens[-1] == END
    assert tokenizer.bos_token_id not in a.tokens  # it is text that reads like one
    assert tokenizer.decode(b.tokens) == "cut"
    assert c.tokens.tolist() == [9, 3] and d.tokens.tolist() == [9, END]
    assert [x.finish_reason for x in (a, b, c, d)] == ["stop", "length", "stop", "stop"]
    assert all(x.tokens.dtype == np.int32 for x in (a, b, c, d))


GOOD = {"question": "a", "path": [0], "text": "x"}


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        ({**GOOD, "question": 5}, "question"),
        ({**GOOD, "path": "0"}, "path"),
        ({**GOOD, "path": []}, "path"),
        ({**GOOD, "path": [-1]}, "path"),
        ({**GOOD, "path": [True]}, "path"),
        ({**GOOD, "path": [1], "text": None}, "text"),
        ({**GOOD, "token_ids": [1]}, "either"),
        ({"question": "a", "path": [1]}, "either"),
        ({"question": "a", "path": [1], "token_ids": [1.5]}, "token_ids"),
        ({"question": "a", "path": [1], "token_ids": [2**31]}, "token_ids"),
        ({**GOOD, "path": [1], "finish_reason": "eos"}, "finish_reason"),
        (GOOD, "second recording"),
    ],
    ids=str,
)
def test_a_malformed_row_is_named(tmp_path, row, word):
    path = write(tmp_path, GOOD, row)
    with pytest.raises(MaltError, match=word) as caught:
        ReplayEngine.from_jsonl(path, encode)
    assert str(caught.value).startswith(f"{path}:2: ")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_an_unreadable_file_is_named(tmp_path, content):
    path = tmp_path / "recorded.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MaltError, match=str(path)):
        ReplayEngine.from_jsonl(path, encode)


def test_an_empty_file_records_nothing(tmp_path):
    engine = ReplayEngine.from_jsonl(write(tmp_path), encode)
    engine.submit([request(0, "a", (0,))])
    assert engine.poll()[0].finish_reason == "error"
    engine.submit([])
    assert engine.poll() == []
