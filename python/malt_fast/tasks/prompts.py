"""Builds the prompt of each role from token segments.

A prompt is `head(question) · seg · seg · tail`. The fixed texts are the role's own (put through the
chat template once); the segments are the question and the outputs of earlier roles. Each piece is
tokenised by itself, once, and sampled tokens are used as they came: siblings share their prompt to
the token, and nothing is decoded and tokenised again.

The tokens equal those of the whole text where the tokenizer starts anew at every join. It does so
after a line break. Before one, some tokenizers take the last sign of an output and the break as one
token: there a space is put between the two. `Prompts.joined` names the joins that are left.

What a segment passes on of an output is its text: no end token, no control token, and of a thinking
model only the answer.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from malt_fast.models.chat_template import FIX, ChatTemplate
from malt_fast.models.plain_text import (
    LINE,
    PlainEncoder,
    Tokens,
    control_tokens,
    encode_after,
    encode_between,
)
from malt_fast.models.tokenizer import fingerprint, tokenizer_name
from malt_fast.tasks.wording import RolePrompt, split_prompt
from malt_fast.utils.errors import MaltError

WORD = "word"  # before and after a fixed text while it is tokenised
BEGINNINGS = ("The", "so", "7", "(a)", "**Step", "$x", "- it", "\\boxed", "#", "é", "数")
ENDINGS = ("end", "7", "end.", "?", ")", "**", "$", "}", "`", "é", "数。")
THOUGHTS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))  # control tokens around a thought


class Prompts:
    """Builds prompts for every role of a chain, with one tokenizer.

    chat: whether prompts go through the tokenizer's chat template; otherwise they are plain text
    after the begin token, if there is one. extra_end_ids: more tokens that end an output, as from a
    model's generation config. template_arguments: variables of the chat template. pass_thinking:
    roles whose thoughts later roles read, too. Raises MaltError for an unusable prompt, template or
    tokenizer.
    """

    def __init__(
        self,
        chain: Sequence[str],
        prompts: Mapping[str, RolePrompt],
        tokenizer: Any,
        *,
        chat: bool,
        extra_end_ids: Iterable[int] = (),
        template_arguments: Mapping[str, Any] | None = None,
        pass_thinking: Iterable[str] = (),
    ) -> None:
        self.chain = list(chain)
        self.tokenizer = tokenizer
        self.fingerprint = fingerprint(tokenizer)
        self.template = ChatTemplate(tokenizer, template_arguments or {}) if chat else None
        turn_end = None if self.template is None else self.template.turn_end()
        self.end_ids = self._find_end_ids([*extra_end_ids, turn_end])
        self.end_id = self.end_ids[0] if turn_end is None else turn_end  # of a whole output
        self._plain = PlainEncoder(tokenizer)
        ids = {text: i for i, text in control_tokens(tokenizer).items()}
        self._is_text = np.ones(max(ids.values(), default=-1) + 2, np.bool_)  # by id; last: above
        self._is_text[[*ids.values()]] = False
        # The tokens that open and close a thought by their text; none if the tokenizer lacks them.
        pairs = (pair for pair in THOUGHTS if ids.keys() >= set(pair))
        self._marks = {text: ids[text] for text in next(pairs, ())}
        self._passing = set(pass_thinking)  # roles
        if self.template is not None:
            self.template.check_generation_prompt()
        self._levels: list[list[int]] = []  # [role][slot] = level whose segment goes there
        texts: list[list[str]] = []  # [role][slot + 1]
        for role in self.chain:
            wording, levels = split_prompt(self.chain, role, prompts)
            texts.append(self._render(role, prompts[role].system, wording))
            self._levels.append(levels)
        self._before = LINE if any(one[0] for one in texts) else ""  # what a question stands after
        self.texts = [[one[0], *map(self._apart, one[1:])] for one in texts]
        self._pieces = [self._encode(one) for one in self.texts]
        self._thinks = [self._ends_in_thought(pieces) for pieces in self._pieces]

    def like(self, chain: Sequence[str], wording: Mapping[str, RolePrompt]) -> "Prompts":
        """Prompts of another chain, whose earlier roles stand for the first one of this chain."""
        return Prompts(
            chain,
            wording,
            self.tokenizer,
            chat=self.template is not None,
            extra_end_ids=self.end_ids,
            template_arguments=self.template.arguments if self.template else None,
            pass_thinking=chain if self.chain[0] in self._passing else (),
        )

    def encode_question(self, text: str) -> Tokens:
        """int32[Q]: the segment of a question; text that looks like a control token stays text."""
        return self._plain.one(text, self._before)

    def encode_questions(self, texts: Iterable[str]) -> Iterator[Tokens]:
        """The segments of many questions, in order."""
        return self._plain.many(texts, self._before)

    def encode_output(self, level: int, text: str, *, ended: bool = True) -> Tokens:
        """int32[T]: an output of role `level` that was not sampled, with its end token if it ended.

        Marks of a thought in the text, such as `</think>`, are tokens. Where the prompt opens a
        thought that a text which ended does not close, it is closed at once.
        """
        if ended and self._thinks[level - 1] and (close := [*self._marks][1]) not in text:
            text = close + text
        marks = "|".join(map(re.escape, self._marks))
        parts = re.split(f"({marks})", text) if marks else [text]
        tokens = [
            [self._marks[part]] if part in self._marks else self._plain.one(part, LINE)
            for part in parts
        ]
        return np.concatenate([*tokens, [self.end_id] * ended]).astype(np.int32)

    def build(self, level: int, question: Tokens, segments: Sequence[Tokens]) -> Tokens:
        """int32[P]: the prompt of role `level` (1-based).

        segments: the outputs of levels 1 .. level - 1 as sampled.
        """
        if not 1 <= level <= len(self.chain) or len(segments) != level - 1:
            raise ValueError(
                f"level {level} of {len(self.chain)} roles got {len(segments)} segments"
            )
        pieces = self._pieces[level - 1]
        parts = [pieces[0]]
        for source, piece in zip(self._levels[level - 1], pieces[1:], strict=True):
            read = question if source == 0 else self._passed_on(source, segments[source - 1])
            parts += [read, piece]
        return np.concatenate(parts).astype(np.int32, copy=False)

    def parts(self, level: int) -> list[tuple[str, int, str]]:
        """(text, tokens, segment after it) of each fixed text of a prompt; "" after the last."""
        names = ["question", *self.chain]
        sources = [names[source] for source in self._levels[level - 1]]
        tokens = map(len, self._pieces[level - 1])
        return list(zip(self.texts[level - 1], tokens, [*sources, ""], strict=True))

    def filler(self, length: int) -> Tokens:
        """int32[length]: any tokens of text, for the length of a prompt."""
        return np.full(length, self._is_text.argmax(), np.int32)

    def as_json(self) -> str:
        """The end tokens, and for each role its fixed tokens with the names of segments between."""
        names = ["question", *self.chain]
        parts: dict[str, list[list[int] | str]] = {}
        for role, pieces, levels in zip(self.chain, self._pieces, self._levels, strict=True):
            parts[role] = [pieces[0].tolist()]
            for level, piece in zip(levels, pieces[1:], strict=True):
                parts[role] += [names[level], piece.tolist()]
        passing = [role for role in self.chain if role in self._passing]
        return json.dumps({"end_ids": self.end_ids, "prompts": parts, "thoughts": passing}) + "\n"

    def decode(self, tokens: npt.ArrayLike) -> str:
        """The text of an output, without its end token and any special token."""
        ids = self._without_end(np.asarray(tokens, np.int32)).tolist()
        text: str = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    # ---- an output without its thought ----

    @property
    def marks_thoughts(self) -> bool:
        """Whether the tokenizer marks thoughts, which are no part of a reply."""
        return bool(self._marks)

    def reply(self, level: int, output: Tokens) -> str:
        """The text that is graded of an output of role `level`: what stands after its thought, and
        nothing if that, opened by the output or by its prompt, does not end."""
        return self.decode(self._answer(level, output))

    def passed_text(self, level: int, output: Tokens) -> str:
        """The text of what later roles read of an output of role `level`."""
        return self.decode(self._passed_on(level, output))

    def _passed_on(self, level: int, output: Tokens) -> Tokens:
        """The segment of an output: its answer, without control tokens."""
        tokens = self._without_end(output)
        if self.chain[level - 1] not in self._passing:
            tokens = self._answer(level, tokens)
        return tokens[self._is_text.take(tokens, mode="clip")]

    def _answer(self, level: int, tokens: Tokens) -> Tokens:
        """What stands after the last thought; nothing if that is unfinished."""
        if not self._marks:
            return tokens
        begin, end = self._marks.values()
        closed = np.flatnonzero(tokens == end)
        if not len(closed):
            return tokens[:0] if self._thinks[level - 1] or begin in tokens else tokens
        answer = tokens[closed[-1] + 1 :]
        blank = (i for i, token in enumerate(answer) if self.tokenizer.decode([token]).strip())
        return answer[next(blank, len(answer)) :]

    def _without_end(self, tokens: Tokens) -> Tokens:
        return tokens[:-1] if len(tokens) and int(tokens[-1]) in self.end_ids else tokens

    def _ends_in_thought(self, pieces: Sequence[Tokens]) -> bool:
        """Whether a prompt opens a thought for the output to close."""
        known = [*self._marks.values()]
        marks = [token for piece in pieces for token in piece.tolist() if token in known]
        return bool(marks) and marks[-1] == known[0]

    # ---- fixed texts ----

    def _render(self, role: str, system: str | None, texts: Sequence[str]) -> list[str]:
        """The fixed texts of a prompt: inside the chat template, or after the system text."""
        if self.template is None:
            return [f"{system}\n\n{texts[0]}", *texts[1:]] if system else list(texts)
        marks = [f"Zq7malt{i}slot7qZ" for i in range(len(texts) - 1)]  # words of no prompt
        user = texts[0] + "".join(m + text for m, text in zip(marks, texts[1:], strict=True))
        whole = self.template.prompt(role, system, user)
        if whole.count(user.strip()) != 1:
            raise MaltError(
                f"the chat template of {tokenizer_name(self.tokenizer)} does not print the "
                f"{role}'s message once and unchanged: {FIX}"
            )
        pieces = []
        for mark in marks:
            piece, whole = whole.split(mark)
            pieces.append(piece)
        return [*pieces, whole]

    def _encode(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of each fixed text, with a begin token before those without a template."""
        between = [WORD] * (len(texts) - 1)
        befores, afters = ["", *between], [*between, ""]
        pieces = [
            encode_between(self.tokenizer, before, text, after)
            for before, text, after in zip(befores, texts, afters, strict=True)
        ]
        if self.template is None and self.tokenizer.bos_token_id is not None:
            pieces[0] = np.concatenate(
                [np.array([self.tokenizer.bos_token_id], np.int32), pieces[0]]
            )
        return pieces

    def _apart(self, text: str) -> str:
        """A text that follows a segment, with a space before its line break if that is needed."""
        if (
            text.startswith("\n")
            and self._joins_before(text)
            and not self._joins_before(f" {text}")
        ):
            return f" {text}"
        return text

    def _joins_before(self, text: str) -> bool:
        """Whether the tokenizer joins a text with the end of a segment before it."""
        alone = encode_after(self.tokenizer, WORD, text)
        return bool(text) and not all(
            np.array_equal(
                encode_after(self.tokenizer, LINE, end + text),
                np.concatenate([encode_after(self.tokenizer, LINE, end), alone]),
            )
            for end in ENDINGS
        )

    def _joins_after(self, text: str) -> bool:
        """Whether the tokenizer joins a text with the beginning of a segment after it."""
        alone = encode_between(self.tokenizer, "", text, WORD)
        return bool(text) and not all(
            np.array_equal(
                encode_after(self.tokenizer, "", text + begin),
                np.concatenate([alone, self._plain.one(begin, LINE)]),
            )
            for begin in BEGINNINGS
        )

    def _segments_join(self) -> bool:
        """Whether the tokenizer joins the end of a segment with the beginning of the next."""
        return not all(
            np.array_equal(
                self._plain.one(end + begin, LINE),
                np.concatenate([self._plain.one(end, LINE), self._plain.one(begin, LINE)]),
            )
            for end in ENDINGS
            for begin in BEGINNINGS
        )

    def _begins_otherwise(self) -> bool:
        """Whether a question has other tokens where a prompt begins with it."""
        return not all(
            np.array_equal(self._plain.one(begin, ""), self._plain.one(begin, self._before))
            for begin in BEGINNINGS
        )

    def joined(self, roles: Sequence[str] | None = None) -> list[str]:
        """A sentence on each join at which the tokens may differ from those of the whole text.

        roles: whose prompts are looked at; None: all.
        """
        names, found = ["question", *self.chain], []
        for role, texts, levels in zip(self.chain, self.texts, self._levels, strict=True):
            chosen = roles is None or role in roles
            if chosen and not texts[0] and self._begins_otherwise():
                found.append(
                    f"the {role}'s prompt begins with {{question}}, whose first token is that of "
                    "prompts with a text before it: begin this one by a line of text, too"
                )
            for i, level in enumerate(levels if chosen else ()):
                what = f"in the {role}'s prompt the tokenizer may join {{{names[level]}}} with"
                if i and not texts[i] and self._segments_join():
                    left = names[levels[i - 1]]
                    found.append(f"{what} {{{left}}}: put a line break between the two")
                if self._joins_after(texts[i]):
                    found.append(f"{what} the text before it: end that text by a line break")
                if self._joins_before(texts[i + 1]):
                    found.append(f"{what} the text after it: begin that text by a line break")
        return found

    def _find_end_ids(self, extra: Iterable[int | None]) -> tuple[int, ...]:
        ids = [self.tokenizer.eos_token_id, *extra]
        found = tuple(dict.fromkeys(int(i) for i in ids if i is not None))
        if not found:
            raise MaltError(
                f"{tokenizer_name(self.tokenizer)} has no end token, so outputs would never stop: "
                "set eos_token in its tokenizer_config.json"
            )
        return found
