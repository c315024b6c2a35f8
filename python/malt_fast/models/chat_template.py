"""The chat template of a model: renders the prompt of one turn, and tells what ends an answer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from malt_fast.models.plain_text import control_tokens, encode
from malt_fast.models.tokenizer import tokenizer_name
from malt_fast.utils.errors import MaltError, first_line

# Some templates print the date; a fixed one keeps prompts the same when a run goes on later.
DATE = date(2024, 7, 26)
ANSWER = "Zq7answer7qZ"  # a word that occurs in no template
RESERVED = ("messages", "add_generation_prompt")  # variables that are set here
FIX = "give another by --model.chat_template FILE"


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's template. arguments: variables of it, such as enable_thinking.

    Raises MaltError for a tokenizer without one, and for arguments that it does not mention.
    """

    tokenizer: Any
    arguments: Mapping[str, Any]

    def __post_init__(self) -> None:
        source = str(getattr(self.tokenizer, "chat_template", None) or "")
        if not source:
            raise MaltError(
                f"{tokenizer_name(self.tokenizer)} has no chat template: give an instruction-tuned "
                "model by --model.name_or_path, or a template by --model.chat_template FILE"
            )
        for name in self.arguments:
            if name in RESERVED:
                raise MaltError(
                    f"the variable '{name}' of a chat template is set for every prompt: leave out "
                    f"model.template_arguments.{name}"
                )
            if not re.search(rf"\b{re.escape(name)}\b", source):
                raise MaltError(
                    f"{self._name} has no variable '{name}': leave out "
                    f"model.template_arguments.{name}"
                )

    @property
    def _name(self) -> str:
        return f"the chat template of {tokenizer_name(self.tokenizer)}"

    def prompt(self, role: str, system: str | None, user: str) -> str:
        """The text that a role answers. A system text that does not arrive, because the template
        has no system turn, goes before the user's. Raises MaltError for an unusable template."""
        try:
            return self._with_system(system, user) if system else self._render(_turns(user))
        except MaltError:
            raise
        except Exception as error:  # whatever a template raises
            raise MaltError(
                f"{self._name} cannot render the {role}'s prompt ({first_line(error)}): {FIX}"
            ) from None

    def _with_system(self, system: str, user: str) -> str:
        turns = [{"role": "system", "content": system}, *_turns(user)]
        try:
            text = self._render(turns)
        except Exception:  # Gemma's and Mistral's refuse such a turn
            text = ""
        return text if system.strip() in text else self._render(_turns(f"{system}\n\n{user}"))

    def check_generation_prompt(self) -> None:
        """Raises MaltError for a template that does not open the assistant's turn.

        It may do so without being asked to, as Mistral's: then nothing but white space stands
        between the prompt and an answer.
        """
        try:
            asked = self._render(_turns("?"))
            told = self._render(_turns("?", ANSWER), add_generation_prompt=False)
            if asked != self._render(_turns("?"), add_generation_prompt=False):
                return
        except Exception:  # a template may refuse such turns
            return
        before, found, _ = told.partition(ANSWER)
        if found and before.startswith(asked.rstrip()) and before[len(asked.rstrip()) :].strip():
            raise MaltError(
                f"{self._name} ignores add_generation_prompt, so that no turn is opened for the "
                f"answer: {FIX}"
            )

    def turn_end(self) -> int | None:
        """The control token that ends an assistant's turn (the eos of a base model is another)."""
        try:
            text = self._render(_turns("?", ANSWER), add_generation_prompt=False)
        except Exception:  # then only the other end tokens end outputs
            return None
        after = encode(self.tokenizer, text.partition(ANSWER)[2].lstrip())[:1].tolist()
        return after[0] if after and after[0] in control_tokens(self.tokenizer) else None

    def _render(self, turns: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        dates = {"date_string": DATE.strftime("%d %b %Y"), "strftime_now": DATE.strftime}
        text: str = self.tokenizer.apply_chat_template(
            turns,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **dates | dict(self.arguments),
        )
        return text


def _turns(user: str, assistant: str | None = None) -> list[dict[str, str]]:
    turns = [{"role": "user", "content": user}]
    return turns if assistant is None else [*turns, {"role": "assistant", "content": assistant}]
