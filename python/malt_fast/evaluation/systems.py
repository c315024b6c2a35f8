"""The systems that an evaluation compares: one answer, a chain, votes, before and after training.

SA            one answer of the untrained first role
MA            one pass of the untrained chain
STaR ...      the same after SFT alone
MALT          one pass of the fully trained chain
... +MV@k     majority vote over k passes
... -ROLE     with that role untrained
... G+V       the trained chain with these roles only, by their initials
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Training = Literal["base", "sft", "final"]
AGENTS = ROUNDS = 3  # of a debate


class Step(NamedTuple):
    """One turn of a pass."""

    prompt: str  # a role of the chain, or an extra prompt
    role: str  # whose weights answer
    training: Training


@dataclass(frozen=True, slots=True)
class System:
    """One way to answer a question: `votes` passes of the same steps, whose last outputs vote.

    A step reads the earlier outputs of its pass; a debater the previous round of every pass.
    """

    name: str
    steps: tuple[Step, ...]
    votes: int = 1
    untrained: str | None = None  # the one role without training
    present: str | None = None  # initials of the roles, where every one is fully trained


def steps_of(chain: Sequence[str], training: Training) -> tuple[Step, ...]:
    """A pass of a whole chain, or of its beginning."""
    return tuple(Step(role, role, training) for role in chain)


def systems_of(chain: Sequence[str], votes: int, rounds: int = 1) -> list[System]:
    """The rows of the standard table, each once: a chain of one role has fewer.

    There is no STaR after several rounds, in which SFT starts from adapters trained by DPO.
    """
    n, mv, whole = len(chain), f"MV@{votes}", "+".join(initials(chain))
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
            System("MALT", final, present=whole),
            System(f"MALT+{mv}", final, votes, present=whole),
            *(
                System(f"MALT+{mv} -{role}", (*final[:i], base[i], *final[i + 1 :]), votes, role)
                for i, role in enumerate(chain)
            ),
        ]
    )


def paper_systems(
    chain: Sequence[str], votes: int, extra: Sequence[str], rounds: int = 1
) -> list[System]:
    """`systems_of`, and the paper's chains of some roles and its debate.

    extra: names of the task's extra prompts, without which some systems cannot be asked.
    """
    systems = [*systems_of(chain, votes, rounds), *partial_chains(chain, votes, extra)]
    if "debater" in extra:
        first = steps_of(chain[:1], "base")
        later = (Step("debater", chain[0], "base"),) * (ROUNDS - 1)
        systems.append(System(f"Debate {AGENTS}x{ROUNDS}", first + later, AGENTS))
    return unique(systems)


def partial_chains(chain: Sequence[str], votes: int, extra: Sequence[str]) -> list[System]:
    """Trained chains of some roles: every beginning, and the first role with the last.

    In the latter the prompt `direct` tells the last role that there is no verification.
    """
    letters, final = initials(chain), steps_of(chain, "final")
    chains = {"+".join(letters[:k]): final[:k] for k in range(1, len(chain))}
    if "direct" in extra and len(chain) > 2:
        chains[f"{letters[0]}+{letters[-1]}"] = (final[0], Step("direct", chain[-1], "final"))
    return [
        System(f"MALT+MV@{votes} {label}", steps, votes, present=label)
        for label, steps in chains.items()
    ]


def initials(chain: Sequence[str]) -> list[str]:
    """One letter per role; whole names where two roles share a letter."""
    letters = [role[0].upper() for role in chain]
    return letters if len(set(letters)) == len(chain) else list(chain)


def pools(chain: Sequence[str], calls: int) -> list[System]:
    """The systems of the curves, with as many passes as `calls` per question allow, at least 1."""
    base, final = steps_of(chain, "base"), steps_of(chain, "final")
    passes = max(1, calls // len(chain))
    systems = [System("SA", base[:1], calls), System("MA", base, passes)]
    return unique([*systems, System("MALT", final, passes)])


def unique(systems: Sequence[System]) -> list[System]:
    """The first of all systems that have the same steps and votes."""
    found: dict[tuple[tuple[Step, ...], int], System] = {}
    for system in systems:
        found.setdefault((system.steps, system.votes), system)
    return list(found.values())
