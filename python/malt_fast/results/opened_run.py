"""A run directory opened for reading: its settings, adapters, and the forests of its roles.

A run need not be finished or whole. Nothing is written or computed again. Functions that read many
parts return them with their problems: one line for each part that is missing or damaged.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError

from malt_fast._core.forest import Credit, Forest
from malt_fast.config.changeable import IRRELEVANT
from malt_fast.config.load import differences, load_config_file
from malt_fast.config.schema import Config
from malt_fast.config.yaml_files import read_yaml
from malt_fast.engines import Policy
from malt_fast.forest.credit import assign_credit
from malt_fast.forest.file import forest_of, read_forest
from malt_fast.forest.preferences import select_examples, select_pairs
from malt_fast.forest.role_data import preference_data
from malt_fast.models.adapter_files import is_untrained, no_adapter, rank_of
from malt_fast.runs.directory import mend
from malt_fast.runs.saved import (
    PublishedRole,
    check_trained,
    published_adapters,
)
from malt_fast.sampling.prepare import load_prompts
from malt_fast.sampling.round_forest import forest_name
from malt_fast.store.store import Store, open_store
from malt_fast.tasks.load import load_task
from malt_fast.tasks.prompts import Prompts
from malt_fast.tasks.task import Question, Task
from malt_fast.training.references import References
from malt_fast.training.stage import StageSpec
from malt_fast.utils.errors import MaltError, Problems
from malt_fast.utils.files import check_files, content_checksum
from malt_fast.utils.seals import seal_of

Array = npt.NDArray[Any]
Logps = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Adapter:
    """A PEFT directory, and the last stage that trained it: `sft` or `dpo`."""

    folder: Path
    stage: str


@dataclass(frozen=True)
class RoleForest:
    """The forest that a role learned from in one round, with its questions and prompts."""

    role: str
    level: int
    round: int
    forest: Forest
    credit: Credit
    questions: Sequence[Question]  # one per tree
    prompts: Prompts
    task: Task
    config: Config

    @cached_property
    def examples(self) -> Array:
        """Nodes that the role's SFT learned from."""
        prefs, seed = self.config.preferences, self.config.seed
        return select_examples(self.forest, self.credit, self.level, prefs, seed)

    @cached_property
    def pairs(self) -> Array:
        """[pairs, 2]: the chosen and the rejected node of each sibling pair."""
        prefs, seed = self.config.preferences, self.config.seed
        return np.stack(select_pairs(self.forest, self.credit, self.level, prefs, seed), axis=1)

    def tree_of(self, nodes: Array) -> npt.NDArray[np.intp]:
        """The number of each node's tree."""
        return (nodes // self.forest.tree_size).astype(np.intp)


def check_is_run(folder: Path) -> None:
    """Raises MaltError for a folder that is not a run directory, or holds pipes or devices."""
    file = folder / "config.yaml"
    try:
        keys = {*read_yaml(file)} if file.is_file() else {""}
    except MaltError:
        keys = set()  # a damaged one is a problem among others
    if keys and not keys & Config.model_fields.keys():  # none, or another program's
        raise MaltError(f"{folder} holds no run: give a directory that malt_fast.train made")
    check_files(folder)


# ---- settings ----


def read_config(run: Path) -> tuple[Config | None, Task | None, Problems]:
    """The settings that the run was trained with, and its task without the questions.

    None for what cannot be read, such as the settings of another version.
    """
    trained = run / "adapters" / "config.yaml"
    problems: Problems = []
    try:
        config = load_config_file(run / "config.yaml")
    except MaltError as error:
        return None, None, [f"settings and data: {error}"]
    try:
        if trained.is_file():
            newer, config = config, load_config_file(trained)
            changed = [k for k in differences(config, newer) if not k.startswith(IRRELEVANT)]
            if changed:
                problems.append(
                    f"{', '.join(changed)}: changed in config.yaml since the last training; cards "
                    "and data follow adapters/config.yaml"
                )
        return config, load_task(config, questions=False), problems
    except MaltError as error:
        return config, None, [*problems, f"prompts and data: {error}"]


# ---- adapters ----


def find_adapters(run: Path, config: Config | None) -> tuple[dict[str, Adapter], Problems]:
    """The usable adapter of every role: the published one, else the one trained last.

    config: without it, whatever the run holds counts.
    """
    found, problems = {}, list[str]()
    published: dict[str, PublishedRole] = {}
    if (run / "adapters").is_dir():
        try:
            published = published_adapters(run)
        except MaltError as error:
            problems.append(f"adapters: {error}")
    for role in config.chain if config else roles_with_adapters(run):
        newest = next((Adapter(f, f.name) for f in reversed(_trained(run, role, config))), None)
        final = None
        if role in published:
            final = Adapter(run / "adapters" / role / "final", published[role].stage)
        adapter = final or newest
        if adapter is None:
            problems.append(f"adapters/{role}: the run has none")
            continue
        if final is None:
            where = adapter.folder.relative_to(run)
            problems.append(f"adapters/{role}: training has not ended; {where} is used instead")
        elif newest is not None and seal_of(newest.folder) != seal_of(final.folder):
            where = newest.folder.relative_to(run)
            problems.append(f"{where}: newer than adapters/{role}, but training has not ended")
        try:
            check_weights(str(adapter.folder))
            found[role] = adapter
        except MaltError as error:
            problems.append(f"adapters/{role}: {error}")
    return found, problems


def check_weights(adapter: str) -> None:
    """Raises MaltError for an adapter that cannot be read or has changed since it was written."""
    check_trained(Path(adapter))
    try:
        rank_of(adapter)
        is_untrained(adapter)
    except (OSError, ValueError, TypeError, AttributeError, SafetensorError) as error:
        raise no_adapter(adapter, error) from None


def roles_with_adapters(run: Path) -> list[str]:
    """Stands in for the chain where no settings name it."""
    folders = [*run.glob("adapters/*/sft"), *run.glob("round-*/*/sft")]
    return sorted({folder.parent.name for folder in folders})


def _trained(run: Path, role: str, config: Config | None) -> list[Path]:
    """The role's adapters in the folders of the rounds, in the order of training.

    Rounds and stages that the settings no longer have are left out.
    """
    names = [folder.name.removeprefix("round-") for folder in run.glob("round-*")]
    rounds = sorted(int(name) for name in names if name.isdecimal())
    if config is not None:
        rounds = [n for n in rounds if n < config.train.rounds]
    stages = ("sft", "dpo") if config is None or role in config.dpo_roles else ("sft",)
    folders = [run / f"round-{n}" / role / stage for n in rounds for stage in stages]
    return [folder for folder in folders if folder.is_dir()]


# ---- forests ----


def open_forests(run: Path, config: Config, task: Task) -> tuple[list[RoleForest], Problems]:
    """The forest that each role learned from in each round; roles may share one."""
    try:
        prompts = open_prompts(run, config, task)
        questions, asked = _read_questions(run / "questions.jsonl")
        store = open_store(run / "samples", writable=False)
    except MaltError as error:
        return [], [f"data: {error}"]
    opened: dict[Path, tuple[Forest, Credit] | None] = {}
    found, problems = [], list[str]()
    for index in range(config.train.rounds):
        for level, role in enumerate(config.chain, 1):
            path = run / f"round-{index}" / f"{forest_name(config, role)}.arrows"
            if path not in opened:
                try:
                    forest = _open_forest(path, store, asked)
                    opened[path] = (forest, assign_credit(config.tree, forest))
                except MaltError as error:
                    problems.append(f"data of {path.relative_to(run)}: {error}")
                    opened[path] = None
            if made := opened[path]:
                parts = (*made, questions, prompts, task, config)
                found.append(RoleForest(role, level, index, *parts))
    return found, problems


def _read_questions(path: Path) -> tuple[list[Question], str]:
    """The questions of a run, and the checksum of their file."""
    try:
        data = path.read_bytes()
        rows = map(json.loads, data.splitlines())
        questions = [
            Question(str(row["id"]), str(row["text"]), str(row.get("gold", ""))) for row in rows
        ]
        return questions, content_checksum(data)
    except FileNotFoundError:
        raise MaltError(f"{path} is missing: {mend(path.parent)}") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise MaltError(f"{path} is damaged: {mend(path.parent)}") from None


def open_prompts(run: Path, config: Config, task: Task) -> Prompts:
    """Raises MaltError unless the prompts are those that the roles were trained with."""
    prompts, path = load_prompts(config, task), run / "prompts.json"
    if not path.is_file():
        raise MaltError(f"{path} is missing: {mend(path.parent)}")
    if path.read_bytes() != prompts.as_json().encode():
        raise MaltError(
            f"the prompts differ from {path}: restore the prompts and the tokenizer of the training"
        )
    return prompts


def _open_forest(path: Path, store: Store, asked: str) -> Forest:
    """The saved forest, if it was made for the questions with the checksum `asked`.

    Raises MaltError where it is not all there.
    """
    if not path.is_file():
        raise MaltError("the run has not made it yet")
    file = read_forest(path, store)
    if file is None:
        raise MaltError("the file is damaged, or of another version")
    if file.questions != asked:
        raise MaltError("its questions are not those of questions.jsonl")
    forest = forest_of(file, store)
    if forest is None:
        raise MaltError("some of its samples can no longer be read")
    return forest


# ---- reference log-probs ----


def reference_logps(run: Path, source: RoleForest) -> Logps:
    """[pairs, 2]: log-probs of the role's pairs under the reference of its DPO.

    Raises MaltError unless all of them are on disk.
    """
    config, role = source.config, source.role
    file = run / f"round-{source.round}" / role / "references.npz"
    if not file.is_file():
        raise MaltError(f"the role had no DPO in round {source.round}")
    parts = (source.forest, source.credit, source.level, source.questions, source.prompts)
    data = preference_data(*parts, config, pairs=True, labels=False)  # whatever it was trained on
    dpo = run / f"round-{source.round}" / role / "dpo"
    before = list(takewhile(lambda folder: folder != dpo, _trained(run, role, config)))
    start = Policy(config.base_model(role), str(before[-1]) if before else None)
    model = StageSpec.of(config, role, "dpo", start).reference_model
    references = References(file, data, model)
    if len(references.missing()):
        raise MaltError("those on disk are of other weights or pairs")
    logps: Logps = references.logp[data.pairs]
    return logps
