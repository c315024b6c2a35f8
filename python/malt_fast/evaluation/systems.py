"""Which systems an evaluation compares, and the one shape that samples all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from malt_fast.engines import Policy
from malt_fast.sampling.expand import Slot

Training = Literal["base", "sft", "final"]
Used = npt.NDArray[np.int64]  # [votes, steps]: the slots whose outputs a system uses
Turn = tuple[int, Policy]  # number of a wording, who answers it
AGENTS = ROUNDS = 3  # of a debate


class Step(NamedTuple):
    """One turn of a pass."""

    wording: str  # a role of the chain, or an extra wording
    role: str  # whose weights answer
    training: Training


@dataclass(frozen=True, slots=True)
class System:
    """One way to answer a question: `votes` passes of the same steps; their last outputs vote.

    A step reads what its pass has said before; a debater reads the last round of all passes.
    """

    name: str
    steps: tuple[Step, ...]
    votes: int = 1


def steps_of(chain: Sequence[str], training: Training) -> tuple[Step, ...]:
    """A pass of a whole chain, or of its beginning."""
    return tuple(Step(role, role, training) for role in chain)


def systems_of(chain: Sequence[str], votes: int, rounds: int = 1) -> list[System]:
    """The rows of the table; of two that are one system (one role, one vote) the first stays.

    After several rounds there is no STaR: SFT then went on from adapters that had DPO.
    """
    n, mv = len(chain), f"MV@{votes}"
    base, sft, final = steps_of(chain, "base"), steps_of(chain, "sft"), steps_of(chain, "final")
    star = [
        System("STaR SA", sft[:1]),
        System(f"STaR SA+{mv}", sft[:1], votes),
        System("STaR MA", sft),
        System(f"STaR MA+{mv}", sft, votes),
    ]
    return unique(
        [
            System("SA", base[:1]),
            System(f"SA+{mv}", base[:1], votes),
            System(f"SA+MV@{votes * n}", base[:1], votes * n),  # as many calls as a voting chain
            System("MA", base),
            System(f"MA+{mv}", base, votes),
            *(star if rounds == 1 else []),
            System("MALT", final),
            System(f"MALT+{mv}", final, votes),
            *(
                System(f"MALT+{mv} -{role}", (*final[:i], base[i], *final[i + 1 :]), votes)
                for i, role in enumerate(chain)
            ),
        ]
    )


def paper_systems(
    chain: Sequence[str], votes: int, extra: Sequence[str], rounds: int = 1
) -> list[System]:
    """The rows above, and those of the paper that need chains of another form.

    extra: the extra wordings that there are.
    """
    systems = [*systems_of(chain, votes, rounds), *present(chain, votes, extra).values()]
    if "debater" in extra:
        first = steps_of(chain[:1], "base")
        later = (Step("debater", chain[0], "base"),) * (ROUNDS - 1)
        systems.append(System(f"Debate {AGENTS}x{ROUNDS}", first + later, AGENTS))
    return unique(systems)


def present(chain: Sequence[str], votes: int, extra: Sequence[str]) -> dict[str, System]:
    """Trained chains of some roles, by their initials: the prefixes, and the first with the last.

    A last role that has no verification to read is told so, by the wording `direct`.
    """
    letters = [role[0].upper() for role in chain]
    letters = letters if len(set(letters)) == len(chain) else list(chain)
    final = steps_of(chain, "final")
    chains = {"+".join(letters[:k]): final[:k] for k in range(1, len(chain))}
    if "direct" in extra and len(chain) > 2:
        chains[f"{letters[0]}+{letters[-1]}"] = (final[0], Step("direct", chain[-1], "final"))
    name = f"MALT+MV@{votes}"
    systems = {label: System(f"{name} {label}", steps, votes) for label, steps in chains.items()}
    return systems | {"+".join(letters): System(name, final, votes)}


def pools(chain: Sequence[str], calls: int) -> list[System]:
    """Systems whose passes make curves: as many as `calls` a question allow, but at least one."""
    base, final = steps_of(chain, "base"), steps_of(chain, "final")
    return unique(
        [
            System("SA", base[:1], calls),
            System("MA", base, max(1, calls // len(chain))),
            System("MALT", final, max(1, calls // len(chain))),
        ]
    )


def unique(systems: Sequence[System]) -> list[System]:
    """Of systems that are one, the first."""
    found: dict[tuple[tuple[Step, ...], int], System] = {}
    for system in systems:
        found.setdefault((system.steps, system.votes), system)
    return list(found.values())


def build_shape(
    systems: Sequence[System],
    numbers: Mapping[str, int],
    policies: Mapping[Training, Mapping[str, Policy]],
) -> tuple[list[Slot], list[Used]]:
    """The trie over (pass, turns so far), level by level, and the slots of each system in it.

    numbers: of the wordings. A slot's path is its pass once a level, so pass k has one seed at a
    level in all systems.
    """
    chains = [
        tuple((numbers[step.wording], policies[step.training][step.role]) for step in system.steps)
        for system in systems
    ]
    prefixes = dict.fromkeys(
        (k, turns[:level])
        for system, turns in zip(systems, chains, strict=True)
        for k in range(system.votes)
        for level in range(1, len(turns) + 1)
    )
    slots: list[Slot] = []
    index: dict[tuple[int, tuple[Turn, ...]], int] = {}

    def parent(prefix: tuple[int, tuple[Turn, ...]]) -> int:
        return index.get((prefix[0], prefix[1][:-1]), -1)

    for level in range(1, max(map(len, chains)) + 1):
        found = [prefix for prefix in prefixes if len(prefix[1]) == level]
        for prefix in sorted(found, key=parent):  # siblings side by side
            k, turns = prefix
            number, policy = turns[-1]
            reads = None
            if number == numbers.get("debater"):  # its own answer first
                reads = tuple(index[(k + i) % AGENTS, turns[:-1]] for i in range(AGENTS))
            index[prefix] = len(slots)
            slots.append(Slot(parent(prefix), number, policy, (k,) * level, reads))
    used = [
        np.array(
            [[index[k, turns[:i]] for i in range(1, len(turns) + 1)] for k in range(system.votes)],
            np.int64,
        )
        for system, turns in zip(systems, chains, strict=True)
    ]
    return slots, used
