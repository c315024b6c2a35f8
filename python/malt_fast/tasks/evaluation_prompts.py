"""What an evaluation asks with: the prompts of the chain and, numbered after them, extra ones.

Nobody is trained with an extra wording. A task gives them in the `extra:` section of its YAML file:

    direct    the last role is told that there is no verification: it reads question and draft
    debater   an agent of a debate reads its own answer of the round before and two others'
"""

from collections.abc import Mapping, Sequence

from malt_fast.tasks.prompts import Prompts, RolePrompt, Tokens
from malt_fast.tasks.task import EXTRA
from malt_fast.utils.errors import MaltError, nearest


class Wordings:
    """Builds prompts by the number of a wording: 1-based, the chain's roles come first.

    Raises MaltError for an extra wording that cannot serve.
    """

    def __init__(self, prompts: Prompts, extra: Mapping[str, RolePrompt], *, chat: bool) -> None:
        self.prompts = prompts
        self.extra = [further(prompts, name, wording, chat) for name, wording in extra.items()]
        self.names = [*prompts.chain, *extra]

    @property
    def numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names, 1)}

    def role(self, number: int) -> str:
        """The role of the chain whose weights and sampling settings answer a wording."""
        chain, name = self.prompts.chain, self.names[number - 1]
        return {"direct": chain[-1], "debater": chain[0]}.get(name, name)

    def sources(self, number: int) -> list[int]:
        """Numbers of the chain's roles whose outputs, or ones as long, a prompt holds in turn."""
        chain = self.prompts.chain
        if number <= len(chain):
            return list(range(1, number))
        return [1] * len(EXTRA[self.names[number - 1]])

    def encode_question(self, text: str) -> Tokens:
        return self.prompts.encode_question(text)

    def build(self, number: int, question: Tokens, segments: Sequence[Tokens]) -> Tokens:
        """int32[P]: the prompt of a wording over the outputs that it reads, as sampled."""
        beyond = number - len(self.prompts.chain)
        if beyond <= 0:
            return self.prompts.build(number, question, segments)
        prompts = self.extra[beyond - 1]
        return prompts.build(len(prompts.chain), question, segments)

    def as_json(self) -> str:
        return "".join(prompts.as_json() for prompts in [self.prompts, *self.extra])


def further(prompts: Prompts, name: str, wording: RolePrompt, chat: bool) -> Prompts:
    """Prompts whose last role is an extra one, after the fields that it reads."""
    if name not in EXTRA:
        raise MaltError(f"the task has an extra wording '{name}': {nearest(name, EXTRA)}")
    unasked = dict.fromkeys(EXTRA[name], RolePrompt(None, "{question}"))
    return Prompts(
        [*unasked, name],
        unasked | {name: wording},
        prompts.tokenizer,
        chat=chat,
        extra_end_ids=prompts.end_ids,
    )
