"""Builds the prompt of each role from token segments.

A prompt is `head(question) · seg · seg · tail`. The fixed texts are the role's own (put through the
chat template once); the segments are the question and the outputs of earlier roles. Each piece is
tokenised by itself, once, and sampled tokens are used as they came: siblings share their prompt to
the token, and nothing is decoded and tokenised again.
"""

import json
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt

from malt_fast.models.tokenizer import _name, fingerprint
from malt_fast.utils.errors import MaltError, first_line, nearest

Tokens = npt.NDArray[np.int32]
FIX = "give another prompt by --task.prompts FILE"
BRACES = "write {{ and }} for literal braces"
# Some templates print the date; a fixed one keeps prompts the same when a run goes on later.
DATE = date(2024, 7, 26)


@dataclass(frozen=True, slots=True)
class RolePrompt:
    """The text of a prompt: {question} and {ROLE} of earlier roles in `user`; `{{` is `{`."""

    system: str | None
    user: str


class Prompts:
    """Builds prompts for every role of a chain, with one tokenizer.

    chat: whether prompts go through the tokenizer's chat template; otherwise they are plain text
    after the begin token, if there is one. extra_end_ids: more tokens that end an output, as from a
    model's generation config. Raises MaltError for an unusable prompt, template or tokenizer.
    """

    def __init__(
        self,
        chain: Sequence[str],
        prompts: Mapping[str, RolePrompt],
        tokenizer: Any,
        *,
        chat: bool,
        extra_end_ids: Iterable[int] = (),
    ) -> None:
        self.chain = list(chain)
        self.tokenizer = tokenizer
        self.fingerprint = fingerprint(tokenizer)
        if chat and not getattr(tokenizer, "chat_template", None):
            raise MaltError(
                f"{_name(tokenizer)} has no chat template: give one by --model.chat_template FILE, "
                "or an instruction-tuned model"
            )
        self.end_ids = self._find_end_ids(chat, extra_end_ids)
        self._pieces: list[list[Tokens]] = []  # [role][slot + 1]
        self._levels: list[list[int]] = []  # [role][slot] = level whose segment goes there
        for role in self.chain:
            texts, levels = split_prompt(self.chain, role, prompts)
            rendered = self._render(role, prompts[role].system, texts) if chat else texts
            if not chat and prompts[role].system:
                rendered = [f"{prompts[role].system}\n\n{texts[0]}", *texts[1:]]
            pieces = [self._encode(text) for text in rendered]
            if not chat and tokenizer.bos_token_id is not None:
                pieces[0] = np.concatenate(
                    [np.array([tokenizer.bos_token_id], np.int32), pieces[0]]
                )
            self._pieces.append(pieces)
            self._levels.append(levels)

    def encode_question(self, text: str) -> Tokens:
        """int32[Q]: the segment of a question; text that looks like a control token stays text."""
        return self._encode(text, split_special_tokens=True)

    def build(self, level: int, question: Tokens, segments: Sequence[Tokens]) -> Tokens:
        """int32[P]: the prompt of role `level` (1-based).

        segments: the outputs of levels 1 .. level - 1 as sampled; their end tokens are dropped.
        """
        if not 1 <= level <= len(self.chain) or len(segments) != level - 1:
            raise ValueError(
                f"level {level} of {len(self.chain)} roles got {len(segments)} segments"
            )
        pieces = self._pieces[level - 1]
        parts = [pieces[0]]
        for slot, piece in zip(self._levels[level - 1], pieces[1:], strict=True):
            parts += [question if slot == 0 else self._without_end(segments[slot - 1]), piece]
        return np.concatenate(parts).astype(np.int32, copy=False)

    def as_json(self) -> str:
        """The end tokens, and for each role its fixed tokens with the names of segments between."""
        names = ["question", *self.chain]
        parts: dict[str, list[list[int] | str]] = {}
        for role, pieces, levels in zip(self.chain, self._pieces, self._levels, strict=True):
            parts[role] = [pieces[0].tolist()]
            for level, piece in zip(levels, pieces[1:], strict=True):
                parts[role] += [names[level], piece.tolist()]
        return json.dumps({"end_ids": self.end_ids, "prompts": parts}) + "\n"

    def decode(self, tokens: npt.ArrayLike) -> str:
        """The text of an output, without its end token and any control token."""
        ids = self._without_end(np.asarray(tokens, np.int32)).tolist()
        text: str = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _without_end(self, tokens: Tokens) -> Tokens:
        return tokens[:-1] if len(tokens) and int(tokens[-1]) in self.end_ids else tokens

    def _encode(self, text: str, **options: bool) -> Tokens:
        ids = self.tokenizer(text, add_special_tokens=False, **options)["input_ids"] if text else []
        return np.array(ids, np.int32)

    def _find_end_ids(self, chat: bool, extra: Iterable[int]) -> tuple[int, ...]:
        own = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        ids = [*own, *extra, *(self._turn_end() if chat else [])]
        if not ids:
            raise MaltError(
                f"{_name(self.tokenizer)} has no end token, so outputs would never stop: "
                "set eos_token in its tokenizer_config.json"
            )
        return tuple(dict.fromkeys(int(i) for i in ids))

    def _turn_end(self) -> list[int]:
        """The control token that ends an assistant's turn (the eos of a base model is another)."""
        mark = _mark(0)
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}]
        try:
            text = self._template(turns, add_generation_prompt=False)
        except Exception:  # a template may refuse such a turn: then only eos ends outputs
            return []
        after = self._encode(text.partition(mark)[2].lstrip())[:1].tolist()
        return [i for i in after if i in self.tokenizer.all_special_ids]

    def _render(self, role: str, system: str | None, texts: Sequence[str]) -> list[str]:
        """The prompt inside the chat template, cut where the segments go."""
        marks = [_mark(i) for i in range(len(texts) - 1)]
        user = texts[0] + "".join(m + text for m, text in zip(marks, texts[1:], strict=True))
        try:
            whole = self._render_turns(system, user)
        except Exception as error:
            raise MaltError(
                f"the chat template of {_name(self.tokenizer)} cannot render the {role}'s prompt "
                f"({first_line(error)}): give another by --model.chat_template FILE"
            ) from None
        pieces = []
        for mark in marks:
            if whole.count(mark) != 1:
                raise MaltError(
                    f"the chat template of {_name(self.tokenizer)} does not print the {role}'s "
                    "message once and unchanged: give another by --model.chat_template FILE"
                )
            piece, whole = whole.split(mark)
            pieces.append(piece)
        return [*pieces, whole]

    def _render_turns(self, system: str | None, user: str) -> str:
        turns = [{"role": "user", "content": user}]
        if not system:
            return self._template(turns)
        try:
            return self._template([{"role": "system", "content": system}, *turns])
        except Exception:  # a template without a system turn: it goes before the user's text
            return self._template([{"role": "user", "content": f"{system}\n\n{user}"}])

    def _template(self, turns: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        text: str = self.tokenizer.apply_chat_template(
            turns,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            date_string=DATE.strftime("%d %b %Y"),
            strftime_now=DATE.strftime,
        )
        return text


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


def _mark(i: int) -> str:
    """A word that occurs in no prompt: it stands for a segment while the template is rendered."""
    return f"Zq7malt{i}slot7qZ"
