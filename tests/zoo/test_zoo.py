"""Every checkpoint of the zoo against every check; docs/zoo.md lists what comes out.

Prompts and end tokens need no weights and are checked for all; what needs weights or a run is slow
but for a few checkpoints.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from malt_fast.utils.errors import MaltError
from tests.zoo.animal import QUESTIONS, Animal
from tests.zoo.checks import CHECKS
from tests.zoo.entries import ZOO, Entry
from tests.zoo.expected import BROKEN, REFUSED, found
from tests.zoo.families import FAMILIES
from tests.zoo.table import PAGE, rows_of
from tests.zoo.templates import TEMPLATES
from tests.zoo.tokenizers import MAKERS

Hatch = Callable[[Entry], Animal]


@pytest.fixture(scope="session")
def hatch(tmp_path_factory: pytest.TempPathFactory) -> Hatch:
    """Makes the checkpoint of an entry, once."""
    animals: dict[str, Animal] = {}

    def one(entry: Entry) -> Animal:
        if entry.name not in animals:
            animals[entry.name] = Animal(entry, tmp_path_factory.mktemp(entry.name))
        return animals[entry.name]

    return one


def each(check: str, *, weights: bool) -> Any:
    """A test of every entry; strict about what is expected to be wrong."""
    params = []
    for entry in ZOO:
        reason = found(BROKEN, entry, check)
        marks = [pytest.mark.xfail(reason=reason)] if reason else []
        marks += [pytest.mark.slow] if weights and not entry.fast else []
        params.append(pytest.param(entry, id=entry.name, marks=marks))
    return pytest.mark.parametrize("entry", params)


def holds(check: str, animal: Animal) -> None:
    """The check passes, or is refused as expected."""
    sentence = found(REFUSED, animal.entry, check)
    if sentence is None:
        CHECKS[check](animal)
        return
    with pytest.raises(MaltError) as caught:
        CHECKS[check](animal)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@each("prompts", weights=False)
def test_prompts_are_the_tokens_of_the_whole_text(entry: Entry, hatch: Hatch) -> None:
    holds("prompts", hatch(entry))


@each("end tokens", weights=False)
def test_every_end_token_is_found(entry: Entry, hatch: Hatch) -> None:
    holds("end tokens", hatch(entry))


@each("stops", weights=True)
def test_outputs_stop_at_every_end_token(entry: Entry, hatch: Hatch) -> None:
    holds("stops", hatch(entry))


@each("greedy", weights=True)
def test_greedy_is_generate_alone_and_beside_others(entry: Entry, hatch: Hatch) -> None:
    holds("greedy", hatch(entry))


@each("DPO at ln 2", weights=True)
def test_dpo_starts_at_ln_2(entry: Entry, hatch: Hatch) -> None:
    holds("DPO at ln 2", hatch(entry))


@each("log-probs", weights=True)
def test_log_probs_agree_in_engine_trainer_and_peft(entry: Entry, hatch: Hatch) -> None:
    holds("log-probs", hatch(entry))


@each("serve", weights=True)
def test_serve_answers(entry: Entry, hatch: Hatch) -> None:
    holds("serve", hatch(entry))


@each("export", weights=True)
def test_exports_load_in_peft_and_transformers(entry: Entry, hatch: Hatch) -> None:
    holds("export", hatch(entry))


@pytest.mark.slow
@each("prompts", weights=False)
def test_prompts_of_real_questions(entry: Entry, shared_data: Path, tmp_path: Path) -> None:
    files = {"gsm8k": "gsm8k/train.jsonl", "csqa": "csqa/train_rand_split.jsonl"}
    assert files.keys() == QUESTIONS.keys()
    some = {}
    for task, file in files.items():
        path = tmp_path / task / Path(file).name
        path.parent.mkdir()
        path.write_text("".join((shared_data / file).read_text().splitlines(True)[:40]))
        some[task] = str(path)
    holds("prompts", Animal(entry, tmp_path, some))


def test_every_kind_is_in_the_zoo() -> None:
    assert len({entry.name for entry in ZOO}) == len(ZOO) >= 24
    assert {entry.family for entry in ZOO} == set(FAMILIES)
    for kinds, own in ((MAKERS, "tokenizer"), (TEMPLATES, "template")):
        count = Counter(getattr(entry, own) for entry in ZOO)
        assert count.keys() == kinds.keys() and min(count.values()) >= 2
    assert min(Counter(entry.ends for entry in ZOO).values()) >= 2


def test_the_page_lists_the_zoo() -> None:
    """docs/zoo.md is of these entries and expects what the tests expect."""
    listed = rows_of(PAGE.read_text())
    assert list(listed) == [entry.name for entry in ZOO], "python -m tests.zoo.table"
    for entry in ZOO:
        kinds, outcomes = listed[entry.name][:4], listed[entry.name][4:]
        assert kinds == [entry.family, entry.tokenizer, entry.template, entry.ends]
        for check, outcome in zip(CHECKS, outcomes, strict=True):
            broken, refused = found(BROKEN, entry, check), found(REFUSED, entry, check)
            wanted = "wrong" if broken else "refused" if refused else "right"
            assert outcome.startswith(wanted), f"{entry.name}, {check}: {outcome}"
