"""The result table of the page: every system spelled out, with its accuracy and its flips."""

import re
from collections.abc import Sequence
from typing import Any

from malt_fast.evaluation.result import EvaluationResult, SystemResult
from malt_fast.evaluation.tables import show

NAME = re.compile(
    r"(?P<base>STaR SA|STaR MA|SA|MA|MALT)(?:\+MV@(?P<votes>\d+))?"
    r"(?: -(?P<untrained>.+)| (?P<present>.+))?"
)
DEBATE = re.compile(r"Debate (\d+)x(\d+)")
GROUPS = {  # what stands above the rows of a group
    "SA": "Before training",
    "MA": "Before training",
    "STaR SA": "After SFT only",
    "STaR MA": "After SFT only",
    "MALT": "Fully trained",
}


def spelled_out(system: SystemResult, chain: Sequence[str]) -> tuple[str, str]:
    """The group of a system, and what it does, in words."""
    first = chain[0] if chain else "first role"
    if debate := DEBATE.fullmatch(system.name):
        agents, rounds = debate.groups()
        return "Before training", f"{agents} untrained {first}s that debate for {rounds} rounds"
    found = NAME.fullmatch(system.name)
    if found is None:
        return "", ""
    base, votes = found["base"], found["votes"]
    what = {
        "SA": f"the untrained {first}",
        "MA": "the untrained chain",
        "STaR SA": f"the {first} after SFT only",
        "STaR MA": "the chain after SFT only",
        "MALT": "the fully trained chain",
    }[base]
    one, many = ("answer", "answers") if base.endswith("SA") else ("pass", "passes")
    text = f"majority of {votes} {many} of {what}" if votes else f"one {one} of {what}"
    if found["untrained"]:
        return "One role untrained", f"majority of {votes} passes, {found['untrained']} untrained"
    if found["present"]:
        roles = _joined([_role(turn, chain) for turn in system.turns]) or found["present"]
        return "Some roles only", f"majority of {votes} passes of the trained {roles} alone"
    return GROUPS[base], text


def _role(turn: str, chain: Sequence[str]) -> str:
    """Whose prompt a turn is: `direct` is that of the last role, without a verifier."""
    return chain[-1] if turn == "direct" and chain else turn


def _joined(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def system_rows(result: EvaluationResult, chain: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of the table, with the first of a group naming it."""
    paired = {difference.b: difference for difference in result.paired}
    rows, before = [], ""
    for system in result.systems:
        group, about = spelled_out(system, chain)
        low, high = system.ci95
        row: dict[str, Any] = {
            "name": system.name,
            "about": about,
            "group": group if group != before else "",
            "malt": system.name == result.malt,
            "accuracy": show(system.accuracy, "share"),
            "interval": show(system.ci95, "share"),
            "bar": [round(100 * share, 2) for share in (system.accuracy, low, high)],
            "calls": show(system.calls_per_question, "number"),
            "tokens": show(system.tokens_per_question, "number"),
            "sampled": thousands(system.training_sampled),
            "trained": thousands(system.training_tokens),
            **dict.fromkeys(("gain", "gain_interval", "p"), ""),
        }
        if other := paired.get(system.name):
            row |= {"gain": show(other.difference, "gain"), "p": show(other.p_value, "p")}
            row["gain_interval"] = show(other.ci95, "gain")
        rows.append(row)
        before = group
    return rows


def thousands(tokens: int) -> str:
    """Tokens in thousands; nothing for none."""
    return f"{tokens / 1000:,.0f}k" if tokens else ""


def summary(result: EvaluationResult) -> str:
    """The accuracy of MALT, and its difference to the first system it is compared with."""
    first = result.paired[0]
    malt, other = result.system(result.malt), result.system(first.b)
    low, high = (100 * end for end in malt.ci95)
    least, most = (100 * end for end in first.ci95)
    p = "p < 0.0001" if first.p_value < 1e-4 else f"p = {first.p_value:.2g}"
    return (
        f"{malt.name} answers {100 * malt.accuracy:.1f} % of {malt.n:,} held-out questions "
        f"correctly (95 % interval {low:.1f} to {high:.1f}), {first.b} "
        f"{100 * other.accuracy:.1f} %: {100 * first.difference:+.1f} points on the same "
        f"questions ({least:+.1f} to {most:+.1f}, {p})."
    )
