"""The parts of a run directory, finished or not: adapters, trees, log-probs of DPO's references.

Nothing is written and nothing made again; what is missing or damaged is told in a line each.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError

from malt_fast.config.load import differences, load_config_file
from malt_fast.config.schema import Config
from malt_fast.engines import Policy
from malt_fast.forest.credit import assign_credit
from malt_fast.forest.file import forest_of, read_forest
from malt_fast.forest.forest import Credit, Forest
from malt_fast.forest.role_data import role_data
from malt_fast.models.adapter_files import is_untrained, no_adapter, rank_of
from malt_fast.models.loading import check_adapter
from malt_fast.runs.metrics import Lacking
from malt_fast.runs.saved import MAY_CHANGE, published_adapters
from malt_fast.sampling.prepare import load_prompts
from malt_fast.sampling.round_forest import forest_name
from malt_fast.store.store import Store, open_store
from malt_fast.tasks.load import load_task
from malt_fast.tasks.prompts import Prompts, Tokens
from malt_fast.tasks.task import Task
from malt_fast.training.references import References
from malt_fast.training.stage import StageSpec
from malt_fast.utils.errors import MaltError
from malt_fast.utils.seals import check_seal, seal_of

Logps = npt.NDArray[np.float32]
IDLE = (*MAY_CHANGE, "serve.", "store.", "report_to", "reuse")  # settings nothing is trained by


@dataclass(frozen=True)
class Adapter:
    """A PEFT directory, and the last stage that trained it."""

    folder: Path
    stage: str


@dataclass(frozen=True)
class Trees:
    """The forest that a role learned from in one round, and what its prompts are made of."""

    role: str
    level: int
    round: int
    forest: Forest
    credit: Credit
    questions: Sequence[dict[str, Any]]  # id and text of each tree's
    segments: Sequence[Tokens]  # the texts as tokens
    prompts: Prompts
    config: Config

    def tree_of(self, nodes: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
        size = len(self.forest) // len(self.questions)
        return (self.forest.roots()[nodes] // size).astype(np.intp)


# ---- settings ----


def read_config(run: Path, lacking: Lacking) -> tuple[Config | None, Task | None]:
    """None, and a line, for what cannot be read, such as the config of another version."""
    config = None
    trained, now = run / "adapters" / "config.yaml", run / "config.yaml"
    try:
        config = load_config_file(now)
        if trained.is_file():
            before = load_config_file(trained)
            changed = [k for k in differences(before, config) if not k.startswith(IDLE)]
            config = before
            if changed:
                lacking.append(
                    f"{', '.join(changed)}: changed in config.yaml, but nothing was trained with "
                    "it yet; cards and data are those of adapters/config.yaml"
                )
        return config, load_task(config, questions=False)
    except MaltError as error:
        what = "the wording in the cards, and data" if config else "settings in the cards, and data"
        lacking.append(f"{what}: {error}")
        return config, None


# ---- adapters ----


def find_adapters(run: Path, chain: Sequence[str], lacking: Lacking) -> dict[str, Adapter]:
    """The adapter of every role that has a usable one: of adapters/, else the newest trained."""
    found = {}
    for role in chain:
        final, newest = _published(run, role), _trained(run, role)
        adapter = final or newest
        if adapter is None:
            lacking.append(f"adapters/{role}: the run has none")
            continue
        if final is None:
            where = adapter.folder.relative_to(run)
            lacking.append(f"adapters/{role}: the final one, for which {where} stands here")
        elif newest is not None and seal_of(newest.folder) != seal_of(final.folder):
            where = newest.folder.relative_to(run)
            lacking.append(f"{where}: newer than adapters/{role}, but training has not ended")
        try:
            check_weights(str(adapter.folder))
        except MaltError as error:
            lacking.append(f"adapters/{role}: {error}")
            continue
        found[role] = adapter
    return found


def check_weights(adapter: str) -> None:
    """Raises MaltError for an adapter whose files cannot be read, or are not what was written."""
    check_adapter(adapter)
    check_seal(Path(adapter))
    try:
        rank_of(adapter)
        is_untrained(adapter)
    except (OSError, ValueError, TypeError, AttributeError, SafetensorError) as error:
        raise no_adapter(adapter, error) from None


def roles_there(run: Path) -> list[str]:
    """Roles that have an adapter, where no config names the chain."""
    folders = [*run.glob("adapters/*/sft"), *run.glob("round-*/*/sft")]
    return sorted({folder.parent.name for folder in folders})


def _published(run: Path, role: str) -> Adapter | None:
    """Of a finished run."""
    try:
        stage = published_adapters(run)[role].stage
    except (MaltError, KeyError):
        return None
    return Adapter(run / "adapters" / role / "final", stage)


def _trained(run: Path, role: str) -> Adapter | None:
    """The newest one of the rounds."""
    stages = [run / f"round-{n}" / role / stage for n in rounds(run) for stage in ("sft", "dpo")]
    there = [folder for folder in stages if folder.is_dir()]
    return Adapter(there[-1], there[-1].name) if there else None


def rounds(run: Path) -> list[int]:
    """Numbers of the rounds that were begun, ascending."""
    names = [folder.name.removeprefix("round-") for folder in run.glob("round-*")]
    return sorted(int(name) for name in names if name.isdecimal())


# ---- trees ----


def open_trees(run: Path, config: Config, task: Task, lacking: Lacking) -> list[Trees]:
    """What every role learned from in every round, as far as it can be read."""
    try:
        prompts = load_prompts(config, task)
        questions = _questions(run / "questions.jsonl")
        store = open_store(run / "samples", writable=False)
        _check_wording(run, prompts)
    except MaltError as error:
        lacking.append(f"data: {error}")
        return []
    segments = [prompts.encode_question(question["text"]) for question in questions]
    opened: dict[Path, tuple[Forest, Credit] | None] = {}
    found = []
    for index in range(config.train.rounds):
        for level, role in enumerate(config.chain, 1):
            path = run / f"round-{index}" / f"{forest_name(config, role)}.arrows"
            if path not in opened:
                opened[path] = None
                forest = _open_forest(path, store, questions, lacking)
                if forest is not None:
                    opened[path] = forest, assign_credit(config.tree, forest)
            made = opened[path]
            if made is not None:
                trees = Trees(role, level, index, *made, questions, segments, prompts, config)
                found.append(trees)
    return found


def _questions(path: Path) -> list[dict[str, Any]]:
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [{"id": str(row["id"]), "text": str(row["text"])} for row in rows]
    except FileNotFoundError:
        raise MaltError(f"{path} is missing: give the training command again") from None
    except (ValueError, LookupError, TypeError):
        raise MaltError(f"{path} is damaged: give the training command again") from None


def _check_wording(run: Path, prompts: Prompts) -> None:
    """Raises MaltError unless prompts are as they were when roles were trained."""
    path = run / "prompts.json"
    if not path.is_file():
        raise MaltError(f"{path} is missing: give the training command again")
    if path.read_bytes() != prompts.as_json().encode():
        raise MaltError(
            f"the prompts are not those in {path}: restore the wording and the tokenizer that they "
            "came from"
        )


def _open_forest(
    path: Path, store: Store, questions: Sequence[dict[str, Any]], lacking: Lacking
) -> Forest | None:
    """None, and a line, unless it is whole and of these questions."""
    where = path.relative_to(path.parents[1])
    if not path.is_file():
        lacking.append(f"data of {where}: the run has not made it yet")
        return None
    file = read_forest(path, store)
    if file is None or len(questions) != file.trees or not len(questions):
        lacking.append(f"data of {where}: it is damaged, of another version or of other questions")
        return None
    known = np.flatnonzero(file.rows >= 0)
    forest = forest_of(file, store)
    if forest is None:
        lacking.append(f"data of {where}: some of its samples cannot be read any more")
        return None
    _, first = np.unique(known // (len(file.rows) // file.trees), return_index=True)
    some = known[first]  # an output of each tree that has any
    asked = store.questions_of(file.rows[some].tolist())
    trees = (some // (len(file.rows) // file.trees)).tolist()
    if asked != [questions[tree]["id"] for tree in trees]:
        lacking.append(f"data of {where}: its questions are not those of questions.jsonl")
        return None
    return forest


# ---- references ----


def reference_logps(run: Path, trees: Trees, lacking: Lacking) -> Logps | None:
    """[pairs, 2]: log-probs of a role's pairs under DPO's reference, where all are on disk."""
    config, role = trees.config, trees.role
    folder = run / f"round-{trees.round}" / role
    file = f"data/{role}/dpo.parquet"
    if not (folder / "references.npz").is_file():
        lacking.append(f"ref_*_logps of {file}, since the role had no DPO in round {trees.round}")
        return None
    data = role_data(
        trees.forest, trees.credit, trees.level, trees.segments, trees.prompts, config, "dpo"
    )
    start = Policy(config.base_model(role), _before_dpo(run, role, trees.round))
    source = StageSpec.of(config, role, "dpo", start).reference_model
    try:
        references = References(folder / "references.npz", data, source)
    except MaltError as error:
        lacking.append(f"ref_*_logps of {file}, since {error}")
        return None
    if len(references.missing()):
        lacking.append(f"ref_*_logps of {file}, since those on disk are of other weights or pairs")
        return None
    logps: Logps = references.logp[data.pairs]
    return logps


def _before_dpo(run: Path, role: str, index: int) -> str | None:
    """The adapter that the DPO of a round started from."""
    earlier = [run / f"round-{n}" / role / s for n in range(index) for s in ("sft", "dpo")]
    there = [f for f in (*earlier, run / f"round-{index}" / role / "sft") if f.is_dir()]
    return str(there[-1]) if there else None
