"""The prompts of an evaluation: those of the chain and, numbered after them, extra ones.

No role is trained with an extra prompt. A task defines them in the `extra:` section of its YAML
file:

    direct    the last role without a verifier: it reads the question and the draft
    debater   an agent of a debate: it reads its own answer of the last round and two others'
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from malt_fast.models.plain_text import Tokens
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.task import EXTRA
from malt_fast.tasks.wording import RolePrompt
from malt_fast.utils.errors import MaltError, nearest


class EvaluationPrompts:
    """Builds prompts by number: 1-based, the chain's roles come first.

    Raises MaltError for an extra prompt with an unknown name or an unusable text.
    """

    def __init__(self, prompts: Prompts, extra: Mapping[str, RolePrompt]) -> None:
        self.prompts = prompts
        self.extra = extra_prompts(prompts, extra)
        self.names = [*prompts.chain, *extra]

    @property
    def numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names, 1)}

    def role(self, number: int) -> str:
        """The role of the chain whose weights and sampling settings answer a prompt."""
        chain = self.prompts.chain
        if number <= len(chain):
            return chain[number - 1]
        return {"direct": chain[-1], "debater": chain[0]}[self.names[number - 1]]

    def sources(self, number: int) -> list[int]:
        """Numbers of the chain's roles whose outputs, or ones as long, a prompt contains."""
        chain = self.prompts.chain
        if number <= len(chain):
            return list(range(1, number))
        return [1] * len(EXTRA[self.names[number - 1]])

    def encode_question(self, text: str) -> Tokens:
        return self.prompts.encode_question(text)

    def encode_questions(self, texts: Iterable[str]) -> Iterator[Tokens]:
        return self.prompts.encode_questions(texts)

    def build(self, number: int, question: Tokens, segments: Sequence[Tokens]) -> Tokens:
        """int32[P]: a prompt over the outputs that it reads, as sampled."""
        prompts, level = self._place(number)
        return prompts.build(level, question, segments)

    def reply(self, number: int, output: Tokens) -> str:
        """The text that is graded of an output, as of `Prompts.reply`."""
        prompts, level = self._place(number)
        return prompts.reply(level, output)

    def parts(self, number: int) -> list[tuple[str, int, str]]:
        """The fixed texts of a prompt, as of `Prompts.parts`."""
        prompts, level = self._place(number)
        return prompts.parts(level)

    def _place(self, number: int) -> tuple[Prompts, int]:
        """The chain that has a prompt, and its level there."""
        beyond = number - len(self.prompts.chain)
        if beyond <= 0:
            return self.prompts, number
        return self.extra[beyond - 1], len(self.extra[beyond - 1].chain)

    def joined(self) -> list[str]:
        """Sentences on joins, as of `Prompts.joined`."""
        extra = [join for prompts in self.extra for join in prompts.joined(prompts.chain[-1:])]
        return self.prompts.joined() + extra

    def as_json(self) -> str:
        return "".join(prompts.as_json() for prompts in [self.prompts, *self.extra])


def extra_prompts(prompts: Prompts, extra: Mapping[str, RolePrompt]) -> list[Prompts]:
    """For each extra prompt a chain that ends in it, after one role per output that it reads."""
    found = []
    for name, prompt in extra.items():
        if name not in EXTRA:
            raise MaltError(f"the task has an extra prompt '{name}': {nearest(name, EXTRA)}")
        read = dict.fromkeys(EXTRA[name], RolePrompt(None, "{question}"))
        found.append(prompts.like([*read, name], read | {name: prompt}))
    return found
