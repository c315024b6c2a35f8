"""The wording of prompts: fixed texts, between them the question and outputs of earlier roles."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from malt_fast.utils.errors import MaltError, nearest

FIX = "give another prompt by --task.prompts FILE"
BRACES = "write {{ and }} for literal braces"


@dataclass(frozen=True, slots=True)
class RolePrompt:
    """The text of a prompt: {question} and {ROLE} of earlier roles in `user`; `{{` is `{`."""

    system: str | None
    user: str


def split_prompt(
    chain: Sequence[str], role: str, prompts: Mapping[str, RolePrompt]
) -> tuple[list[str], list[int]]:
    """The fixed texts of a role's prompt, and the levels (0 = question) of the segments between.

    Raises MaltError unless {question} comes once, then earlier roles in chain order, each at most
    once.
    """
    if role not in prompts:
        raise MaltError(f"the role '{role}' has no prompt: give one by --task.prompts FILE")
    level_of = {"question": 0} | {name: i for i, name in enumerate(chain, 1)}
    if moved := [name for name in level_of if f"{{{name}}}" in (prompts[role].system or "")]:
        raise MaltError(
            f"the system text of the {role} holds {{{moved[0]}}}, which stays as it is there: move "
            "it to the user text"
        )
    texts, levels = [""], []
    for text, name in _fields(role, prompts[role].user):
        texts[-1] += text
        if name is None:
            continue
        if name not in level_of:
            hint = nearest(name, ["question", *chain[: chain.index(role)]])
            raise MaltError(
                f"the {role}'s prompt names {{{name}}}, which is not in the chain ({hint}): {FIX}"
            )
        levels.append(level_of[name])
        texts.append("")
    if levels.count(0) != 1:
        raise MaltError(
            f"the {role}'s prompt must hold {{question}} once, but holds it "
            f"{levels.count(0)} times: {FIX}"
        )
    if levels != sorted(set(levels)) or levels[-1] >= level_of[role]:
        raise MaltError(
            f"the {role}'s prompt must name the question and then earlier roles in chain order, "
            f"each at most once: {FIX}"
        )
    return texts, levels


def _fields(role: str, prompt: str) -> list[tuple[str, str | None]]:
    """(text, name of the field after it or None) in order, with `{{` and `}}` unescaped."""
    try:
        parsed = list(string.Formatter().parse(prompt))
    except ValueError as error:
        raise MaltError(f"the {role}'s prompt has a stray brace ({error}): {BRACES}") from None
    if any(spec or conversion for _, _, spec, conversion in parsed):
        raise MaltError(f"the {role}'s prompt has a field with a format: {BRACES}")
    return [(text, name) for text, name, _, _ in parsed]
