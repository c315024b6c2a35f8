"""The one shape that samples all systems: outputs that systems share are sampled once.

It is the trie of (pass, turns so far) of every system:

    pass 0    SA, MA     generator ── verifier ── refiner          base
              MALT       generator ── verifier ── refiner          final
    pass 1    SA+MV@3    generator
              ...

A slot's path is its pass at every level, so pass k has the same seeds in all systems: differences
between systems come from their weights, not from the draw.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from malt_fast.engines import Policy
from malt_fast.evaluation.systems import AGENTS, System, Training
from malt_fast.sampling.expand import Slot

Used = npt.NDArray[np.int64]  # [votes, steps]: the slots whose outputs a system uses
Turns = tuple[tuple[int, Policy], ...]  # (number of a prompt, who answers it), one per turn
Index = dict[tuple[int, Turns], int]  # slot by pass and turns so far


def build_shape(
    systems: Sequence[System],
    numbers: Mapping[str, int],
    policies: Mapping[Training, Mapping[str, Policy]],
) -> tuple[list[Slot], list[Used]]:
    """The slots, level by level, and which of them each system uses.

    numbers: of the prompts by name; policies: by stage of training and role.
    """
    chains: list[Turns] = [
        tuple((numbers[step.prompt], policies[step.training][step.role]) for step in system.steps)
        for system in systems
    ]
    prefixes = dict.fromkeys(
        (k, turns[:level])
        for system, turns in zip(systems, chains, strict=True)
        for k in range(system.votes)
        for level in range(1, len(turns) + 1)
    )
    slots: list[Slot] = []
    index: Index = {}
    for level in range(1, max(map(len, chains)) + 1):
        found = [
            (_parent(index, *prefix), prefix) for prefix in prefixes if len(prefix[1]) == level
        ]
        for parent, (k, turns) in sorted(found, key=lambda one: one[0]):  # siblings side by side
            number, policy = turns[-1]
            reads = _debate(index, k, turns) if number == numbers.get("debater") else None
            index[k, turns] = len(slots)
            slots.append(Slot(parent, number, policy, (k,) * level, reads))
    used = [
        np.array([_slots(index, k, turns) for k in range(system.votes)], np.int64)
        for system, turns in zip(systems, chains, strict=True)
    ]
    return slots, used


def _parent(index: Index, k: int, turns: Turns) -> int:
    """The slot of the turn before the last; -1 is the question."""
    return index.get((k, turns[:-1]), -1)


def _debate(index: Index, k: int, turns: Turns) -> tuple[int, ...]:
    """What agent k reads: the previous answers of all agents, its own first."""
    return tuple(index[(k + i) % AGENTS, turns[:-1]] for i in range(AGENTS))


def _slots(index: Index, k: int, turns: Turns) -> list[int]:
    return [index[k, turns[:level]] for level in range(1, len(turns) + 1)]
