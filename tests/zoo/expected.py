"""What the zoo's checks are expected to find where it is not "right"."""

from collections.abc import Mapping

from tests.zoo.entries import Entry

Expected = Mapping[str, Mapping[str, str]]  # kind or name of an entry -> check -> sentence

RUN = ("DPO at ln 2", "log-probs", "serve", "export")  # checks of a whole run
WEIGHTS = ("stops", "greedy", *RUN)

ALL = ("prompts", "end tokens", *WEIGHTS)

# A part of the sentence that each of these checks ends in.
REFUSED: Expected = {
    "gpt-oss": dict.fromkeys(WEIGHTS, "cannot keep to the sliding window"),
    "Bloom, alibi": dict.fromkeys(ALL, "has alibi instead of positions"),
    "PhiMoE": dict.fromkeys(ALL, "draws its experts at random while it trains"),
    "Qwen3-Next, linear": dict.fromkeys(WEIGHTS, "it has layers of type linear_attention"),
    "Mamba": dict.fromkeys(WEIGHTS, "it has layers of type linear_attention"),
}

# What is wrong so far, and why.
BROKEN: Expected = {}


def found(expected: Expected, entry: Entry, check: str) -> str | None:
    """The sentence expected of a check, by the entry's name or one of its kinds."""
    kinds = (entry.name, entry.family, entry.tokenizer, entry.template, entry.ends)
    sentences = [expected[kind][check] for kind in kinds if check in expected.get(kind, {})]
    return sentences[0] if sentences else None
