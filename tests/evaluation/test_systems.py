"""The systems of an evaluation, and the one shape that samples all of them."""

from collections.abc import Sequence

import pytest

from malt_fast.evaluation.shape import build_shape
from malt_fast.evaluation.systems import (
    Step,
    paper_systems,
    partial_chains,
    pools,
    steps_of,
    systems_of,
)
from malt_fast.sampling.expand import Slot
from tests.evaluation.fake import (
    CHAIN,
    EXTRA,
    policies_of,
    prompts_of,
)

# ---- which systems ----


def test_the_systems_of_the_paper_and_their_calls() -> None:
    names = [system.name for system in systems_of(CHAIN, 3)]
    assert names == [
        "SA",
        "SA+MV@3",
        "SA+MV@9",
        "MA",
        "MA+MV@3",
        "STaR SA",
        "STaR SA+MV@3",
        "STaR MA",
        "STaR MA+MV@3",
        "MALT",
        "MALT+MV@3",
        "MALT+MV@3 -generator",
        "MALT+MV@3 -verifier",
        "MALT+MV@3 -refiner",
    ]
    calls = {system.name: system.votes * len(system.steps) for system in systems_of(CHAIN, 3)}
    assert calls["SA+MV@9"] == calls["MA+MV@3"] == calls["MALT+MV@3 -verifier"] == 9


def test_systems_that_are_one_stand_once() -> None:
    alone = [system.name for system in systems_of(["solver"], 3)]
    assert alone == ["SA", "SA+MV@3", "STaR SA", "STaR SA+MV@3", "MALT", "MALT+MV@3"]
    single = systems_of(["a", "b"], 1)
    assert len({(system.steps, system.votes) for system in single}) == len(single)
    final = steps_of(["a", "b"], "final")
    assert [s.name for s in single if s.votes == 1 and s.steps == final] == ["MALT"]
    assert "SA+MV@2" in [s.name for s in single]


def test_the_paper_has_chains_of_some_roles_and_a_debate() -> None:
    more = paper_systems(CHAIN, 3, list(EXTRA))[len(systems_of(CHAIN, 3)) :]
    assert {system.name: system.votes * len(system.steps) for system in more} == {
        "MALT+MV@3 G": 3,
        "MALT+MV@3 G+V": 6,
        "MALT+MV@3 G+R": 6,
        "Debate 3x3": 9,
    }
    assert more[2].steps[1] == Step("direct", "refiner", "final")
    assert [step.prompt for step in more[3].steps] == ["generator", "debater", "debater"]
    assert paper_systems(CHAIN, 3, []) == paper_systems(CHAIN, 3, list(EXTRA))[:-2]
    assert present(CHAIN, list(EXTRA)) == ["G", "G+V", "G+R"]
    whole = {s.name for s in systems_of(CHAIN, 3) if s.present == "G+V+R"}
    assert whole == {"MALT", "MALT+MV@3"}
    untrained = {s.untrained: s.name for s in systems_of(CHAIN, 3) if s.untrained}
    assert untrained == {role: f"MALT+MV@3 -{role}" for role in CHAIN}


def present(chain: Sequence[str], extra: Sequence[str]) -> list[str | None]:
    return [system.present for system in partial_chains(chain, 3, extra)]


def test_the_paper_of_other_chains() -> None:
    assert present(["solver"], list(EXTRA)) == []
    assert present(["a1", "a2"], list(EXTRA)) == ["a1"]
    four = ["generator", "verifier", "refiner", "judge"]
    assert present(four, ["direct"]) == ["G", "G+V", "G+V+R", "G+J"]
    names = [system.name for system in paper_systems(["solver"], 3, list(EXTRA))]
    assert names[-1] == "Debate 3x3" and len(set(names)) == len(names)


def test_pools_take_as_many_passes_as_calls_allow() -> None:
    votes = {system.name: system.votes for system in pools(CHAIN, 27)}
    assert votes == {"SA": 27, "MA": 9, "MALT": 9}
    assert {s.name: s.votes for s in pools(CHAIN, 2)} == {"SA": 2, "MA": 1, "MALT": 1}
    assert [system.name for system in pools(["solver"], 5)] == ["SA", "MALT"]


# ---- one shape for all ----


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("votes", [1, 3])
def test_shape_is_a_trie_of_passes(n: int, votes: int) -> None:
    chain = ["a", "b", "c", "d"][:n]
    policies = policies_of(chain)
    systems = [*paper_systems(chain, votes, list(EXTRA)), *pools(chain, 6)]
    prompts = prompts_of(chain)
    shape, used = build_shape(systems, prompts.numbers, policies)
    for s, slot in enumerate(shape):
        assert slot.parent < s
        assert len(set(slot.path)) == 1
        assert len(slot.path) == (1 if slot.parent < 0 else len(shape[slot.parent].path) + 1)
    assert len(set(shape)) == len(shape)  # nothing is sampled twice
    parents = [slot.parent for slot in shape]
    assert parents == sorted(parents)  # siblings side by side
    for system, slots in zip(systems, used, strict=True):
        assert slots.shape == (system.votes, len(system.steps))
        for k, branch in enumerate(slots):
            for level, (s, step) in enumerate(zip(branch, system.steps, strict=True)):
                expected, number = (
                    policies[step.training][step.role],
                    prompts.numbers[step.prompt],
                )
                parent = -1 if level == 0 else branch[level - 1]
                reads = None
                if step.prompt == "debater":
                    reads = tuple(slots[(k + i) % 3, level - 1] for i in range(3))
                assert shape[s] == Slot(parent, number, expected, (k,) * (level + 1), reads)
    assert {s for slots in used for s in slots.ravel().tolist()} == set(range(len(shape)))


def test_the_default_shape_shares_what_can_be_shared() -> None:
    """Generators: 9 base passes, 3 of SFT (final is the same); then per pass what follows."""
    numbers = prompts_of(CHAIN).numbers
    shape, _ = build_shape(systems_of(CHAIN, 3), numbers, policies_of(CHAIN))
    by_level = [sum(slot.role == level for slot in shape) for level in (1, 2, 3)]
    # verifiers under base: base, final; under SFT: base, sft, final
    # refiners: under (base, base) base; (base, final) final; (sft, base) final; (sft, sft) sft;
    # (sft, final) base and final
    assert by_level == [9 + 3, 3 * 5, 3 * 6]
