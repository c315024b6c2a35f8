"""The training data of a warm start: demonstrations as prompts and completions in tokens."""

import numpy as np

from malt_fast.forest.role_data import RoleData
from malt_fast.models.context import context_length
from malt_fast.models.plain_text import Tokens
from malt_fast.sampling.setup import Setup, base_configs
from malt_fast.tasks.demonstrations import Demonstration, read_demonstrations
from malt_fast.utils.errors import MaltError


def warm_data(setup: Setup) -> dict[str, RoleData]:
    """What each role learns before anything is sampled; a role without demonstrations is left out.

    Raises MaltError for a file that cannot be used.
    """
    config, path = setup.config, setup.config.train.warm_start
    if path is None:
        return {}
    rows = read_demonstrations(path, config.chain, setup.task.test, config.task.decontaminate)
    found = {role: _role_data(setup, role, rows) for role in config.chain}
    taught = {role: data for role, data in found.items() if len(data)}
    if not taught:
        raise MaltError(
            f"{path} teaches no role: give with every output those of the roles that it reads"
        )
    return taught


def _limit(setup: Setup, role: str) -> int:
    """Tokens of the longest sequence that a role is trained on."""
    config = setup.config
    context = context_length(base_configs(setup)[config.base_model(role)])
    return min(context, config.train.sft.for_role(role).max_length or context)


def _role_data(setup: Setup, role: str, rows: list[Demonstration]) -> RoleData:
    """The rows with an output of `role` and of every role that it reads."""
    limit = _limit(setup, role)
    prompts, level = setup.prompts, setup.config.chain.index(role) + 1
    reads = {name for _, _, name in prompts.parts(level)} - {"question", ""}
    nothing = np.empty(0, np.int32)
    asked, said, trees, nodes = list[Tokens](), list[Tokens](), list[int](), list[int]()
    numbers: dict[str, int] = {}  # of the questions
    for n, row in enumerate(rows):
        if not {role, *reads} <= row.outputs.keys():
            continue
        before = [row.outputs.get(earlier) for earlier in setup.config.chain[: level - 1]]
        segments = [
            nothing if text is None else prompts.encode_output(i, text)
            for i, text in enumerate(before, 1)
        ]
        asked.append(prompts.build(level, prompts.encode_question(row.question), segments))
        said.append(prompts.encode_output(level, row.outputs[role]))
        if (length := len(asked[-1]) + len(said[-1])) > limit:
            raise MaltError(
                f"{row.where} makes a prompt and an output of {length} tokens for the {role}, "
                f"which reads {limit}: shorten or remove that row"
            )
        trees.append(numbers.setdefault(row.question, len(numbers)))
        nodes.append(n)
    return RoleData(asked, said, np.zeros((0, 2), np.int64), np.array(trees), np.array(nodes))
