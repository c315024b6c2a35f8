"""When math-verify's "equal" is taken, and how long anything waits for it."""

import random

import pytest

from malt_fast.grading import symbolic
from malt_fast.grading.symbolic import equal, is_proof, value_of

PROOFS = [
    (r"\int_0^1 2x\,dx", "1"),
    (r"\sum_{n=1}^{10} n", "55"),
    (r"\begin{pmatrix} 1 & 2 \end{pmatrix}", r"\begin{bmatrix} 1 & 2 \end{bmatrix}"),
    (r"\{1, 2\} \cup \{3\}", r"\{1, 2, 3\}"),
    (r"\left(0, \sqrt{2}\right]", r"(0, \sqrt 2]"),
    (r"-x >= -1", "x <= 1"),
    (r"1\leq|z|\leq \frac{3}{2}", r"z \in [-\frac32, -1] \cup [1, \frac32]"),
    (r"\sqrt{3 + 2\sqrt{2}}", r"1 + \sqrt2"),
]
NO_PROOFS = [
    ("x^2 + 7 = 0", "x^2 + 3 = 0"),  # no real solutions
    (r"x \equiv 3 \pmod 5", r"x \equiv 2 \pmod 5"),
    (r"\begin{cases} x & x<0 \\ 1\end{cases}", r"\begin{cases} 2x & x<0 \\ 1\end{cases}"),
    (r"\{x \mid 0<x<6\}", r"\{x \mid 0<x<4\}"),
    (r"\{x | 0<x<6\}", r"\{x | 0<x<4\}"),
    (r"\{x : 0<x<6\}", r"\{x : 0<x<4\}"),
    (r"r=3, C=(2,-1)", r"r=4, C=(2,-1)"),
    (r"1, 2, \ldots, m", r"1, 3, \ldots, m"),
    ("1, 2, ..., m", "1, 3, ..., m"),
    (r"3 \text{ hours } 45", r"3 \text{ hours } 15"),
    ("8 feet", "8"),
    (r"\ge 8", "8"),
    ("> 8", "8"),
    ("a < b", "b < a"),
    (r"p \implies q", r"q \implies p"),
    (r"\angle PQR", r"\angle PRQ"),
    (r"A \subset B", r"B \subset A"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), PROOFS)
def test_its_word_is_taken_for_values_and_sets(gold, answer):
    assert is_proof(gold, answer) and is_proof(answer, gold)
    assert equal([(gold, answer)]) == ["equal"]


@pytest.mark.parametrize(("gold", "answer"), NO_PROOFS)
def test_its_word_is_not_taken_for_anything_else(gold, answer):
    assert not is_proof(gold, answer) and not is_proof(answer, gold)
    assert equal([(gold, answer)]) == ["no proof"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("f(x) = 5", " 5"),
        (r"\text{proj}_{\mathbf{v}} \mathbf{u} = (2, 5)", " (2, 5)"),
        ("1 + 1 = x = 2", " 2"),
        ("x + 1 = 2", "x + 1 = 2"),
        ("a = 1, b = 2", "a = 1, b = 2"),
        (r"\sum_{n=1}^{10} n", r"\sum_{n=1}^{10} n"),
        ("x <= 1", "x <= 1"),
        ("", ""),
    ],
)
def test_the_value_that_an_equation_states(text, value):
    assert value_of(text) == value


def test_numbers_must_agree_in_more_than_a_double_shows():
    pairs = [(r"\pi + 10^{-25}", r"\pi"), (r"\sqrt2 + 3^{-40}", r"\sqrt2")]
    pairs += [(r"\frac{1}{99!}", r"\frac{1}{98!}"), (r"2^{300}", r"2^{300} + 1")]
    assert "equal" not in equal(pairs)


def test_hostile_texts_are_decided_in_linear_time():
    rng = random.Random(0)
    texts = ["".join(rng.choices(r"\{}[]|:=<>.a1^_ ", k=400)) for _ in range(200)]
    texts += [c * 400 for c in "\\{=<.a_ "] + ["\\{" * 200, "\\a" * 200, "<=" * 200]
    for text in texts:
        is_proof(text, text), value_of(text)


def test_a_pair_waits_for_its_answer_no_longer_than_the_limit(monkeypatch):
    equal([(r"\frac12", "0.5")])  # starts a worker
    monkeypatch.setattr(symbolic, "ANSWERING", 0.0)
    assert equal([(r"\int_0^1 x^{9} dx", r"\frac{1}{10}")]) == ["timed out"]
