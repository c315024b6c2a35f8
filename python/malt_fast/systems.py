"""Which systems an evaluation compares, and the one shape that samples all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from malt_fast.engines import Policy
from malt_fast.expand import Slot

Training = Literal["base", "sft", "final"]
Used = npt.NDArray[np.int64]  # [votes, roles]: the slots whose outputs a system uses


@dataclass(frozen=True, slots=True)
class System:
    """One way to answer a question: `votes` passes of a chain, each role at some training."""

    name: str
    roles: tuple[Training, ...]  # of the roles that answer: one for a lone generator
    votes: int = 1


def systems_of(chain: Sequence[str], votes: int) -> list[System]:
    """The rows of the table; of two that are one system (one role, one vote) the first stays."""
    n, mv = len(chain), f"MV@{votes}"
    base, sft, final = _trained("base", n), _trained("sft", n), _trained("final", n)
    systems = [
        System("SA", base[:1]),
        System(f"SA+{mv}", base[:1], votes),
        System(f"SA+MV@{votes * n}", base[:1], votes * n),  # as many calls as a voting chain
        System("MA", base),
        System(f"MA+{mv}", base, votes),
        System("STaR SA", sft[:1]),
        System(f"STaR SA+{mv}", sft[:1], votes),
        System("STaR MA", sft),
        System(f"STaR MA+{mv}", sft, votes),
        System("MALT", final),
        System(f"MALT+{mv}", final, votes),
    ]
    for i, role in enumerate(chain):
        untrained = (*final[:i], *base[:1], *final[i + 1 :])
        systems.append(System(f"MALT+{mv} -{role}", untrained, votes))
    unique: dict[tuple[tuple[Training, ...], int], System] = {}
    for system in systems:
        unique.setdefault((system.roles, system.votes), system)
    return list(unique.values())


def _trained(training: Training, n: int) -> tuple[Training, ...]:
    return (training,) * n


def build_shape(
    systems: Sequence[System], chain: Sequence[str], policies: dict[Training, dict[str, Policy]]
) -> tuple[list[Slot], list[Used]]:
    """The trie over (pass, policies so far), level by level, and the slots of each system in it.

    A slot's path is its pass once a level, so pass k has one seed at a level in all systems.
    """
    chains = [
        tuple(policies[training][role] for training, role in zip(system.roles, chain, strict=False))
        for system in systems
    ]
    prefixes = dict.fromkeys(
        (k, answering[:level])
        for system, answering in zip(systems, chains, strict=True)
        for k in range(system.votes)
        for level in range(1, len(answering) + 1)
    )
    slots: list[Slot] = []
    index: dict[tuple[int, tuple[Policy, ...]], int] = {}

    def parent(prefix: tuple[int, tuple[Policy, ...]]) -> int:
        return index.get((prefix[0], prefix[1][:-1]), -1)

    for level in range(1, len(chain) + 1):
        found = [prefix for prefix in prefixes if len(prefix[1]) == level]
        for prefix in sorted(found, key=parent):  # siblings side by side
            k, answering = prefix
            slot = Slot(parent(prefix), level, answering[-1], (k,) * level)
            index[prefix] = len(slots)
            slots.append(slot)
    used = [
        np.array(
            [[index[k, c[:level]] for level in range(1, len(c) + 1)] for k in range(s.votes)],
            np.int64,
        )
        for s, c in zip(systems, chains, strict=True)
    ]
    return slots, used
