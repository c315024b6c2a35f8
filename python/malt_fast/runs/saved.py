"""The adapters of a finished run: published here, read again here.

adapters/ROLE/{sft,final}   copies of the last round's adapters, where servers find them
adapters/config.yaml        the settings they were trained with
adapters/index.json         for each role, the folders they were copied from and the last stage
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from malt_fast.config.load import dump
from malt_fast.engines import Policies, Policy
from malt_fast.models.loading import check_adapter
from malt_fast.runs.directory import mend, resume_command
from malt_fast.runs.run import Run
from malt_fast.utils.errors import MaltError
from malt_fast.utils.files import replacing_folder, write_text
from malt_fast.utils.seals import check_seal

STAGES = ("sft", "dpo")


@dataclass(frozen=True)
class PublishedRole:
    """The adapters of one role: the folders that `sft` and `final` are copies of."""

    sft: str | None  # relative to the run directory; None: SFT was skipped
    final: str
    stage: str  # that made the final one: sft or dpo


def publish(run: Run, sft: Policies, final: Policies) -> None:
    """Copy the adapters of the last round to adapters/: all of them, or none if interrupted."""
    index: dict[str, PublishedRole] = {}
    with replacing_folder(run.path("adapters")) as folder:
        for role, policy in final.items():
            if policy.adapter is None:
                continue
            start, adapter = sft[role].adapter, Path(policy.adapter)
            source = None if start is None else _within(run, start)
            index[role] = PublishedRole(source, _within(run, policy.adapter), adapter.name)
            for name, copied in (("sft", start), ("final", policy.adapter)):
                if copied is not None:
                    shutil.copytree(copied, folder / role / name)
        write_text(folder / "config.yaml", dump(run.config))
        entries = {role: asdict(entry) for role, entry in index.items()}
        write_text(folder / "index.json", json.dumps(entries, indent=2) + "\n")


def _within(run: Run, adapter: str) -> str:
    return Path(adapter).resolve().relative_to(run.folder.resolve()).as_posix()


def _published_role(sft: object, final: object, stage: object) -> PublishedRole:
    """An entry of the index. Raises TypeError for one that `publish` did not write."""
    if not isinstance(sft, str | None) or not isinstance(final, str) or stage not in STAGES:
        raise TypeError
    return PublishedRole(sft, final, str(stage))


def published_adapters(folder: Path) -> dict[str, PublishedRole]:
    """The published adapters of a run by role. Raises MaltError if there is no readable index."""
    path = folder / "adapters" / "index.json"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        roles = {role: _published_role(**entry) for role, entry in index.items()}
        if {final.parent.name for final in path.parent.glob("*/final")} - roles.keys():
            raise ValueError  # a role whose entry is damaged would be its base model
    except FileNotFoundError:
        raise MaltError(
            f"{folder} holds no adapters: finish it by `{resume_command(folder)}`"
        ) from None
    except (OSError, ValueError, TypeError, AttributeError):
        raise MaltError(f"{path} is damaged: {mend(folder)}") from None
    return roles


def started_policies(run: Run, base: Policies) -> Policies:
    """The policies that a run began with: `base`, under an adapter where a role had a warm start.

    Raises MaltError for an adapter that is damaged.
    """
    warm = run.config.train.warm_start is not None
    folders = {role: run.path("warm", role, "sft") for role in base}
    return {
        role: _adapter(folders[role], policy) if warm and folders[role].is_dir() else policy
        for role, policy in base.items()
    }


def saved_policies(folder: Path, base: Policies) -> tuple[Policies, Policies]:
    """The (sft, final) policies of a run; a role without an adapter keeps its `base` policy."""
    index = published_adapters(folder)
    sft, final = dict(base), dict(base)
    for role, policy in base.items():
        if (entry := index.get(role)) is None:
            continue
        if entry.sft is not None:
            sft[role] = _adapter(folder / "adapters" / role / "sft", policy)
        final[role] = sft[role]
        if entry.final != entry.sft:
            final[role] = _adapter(folder / "adapters" / role / "final", policy)
    return sft, final


def check_trained(folder: Path) -> None:
    """Raises MaltError if RUN/*/ROLE/STAGE holds no adapter, or one that changed since training."""
    run = folder.parents[2]
    try:
        check_adapter(folder)
    except MaltError as error:
        raise MaltError(f"{error}; {mend(run)}") from None
    check_seal(folder, mend(run))


def _adapter(folder: Path, base: Policy) -> Policy:
    check_trained(folder)
    return Policy(base.base, str(folder.resolve()))
