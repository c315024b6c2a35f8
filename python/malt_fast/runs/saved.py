"""The settings and the adapters of a finished run."""

from collections.abc import Sequence
from pathlib import Path

from malt_fast.config.arguments import parse_arguments
from malt_fast.config.load import differences, load_config
from malt_fast.config.schema import Config
from malt_fast.engines import Policies, Policy
from malt_fast.utils.errors import MaltError
from malt_fast.utils.seals import check_seal

MAY_CHANGE = ("evaluate.", "engine.", "model.device", "task.test_path", "task.test_limit")


def saved_policies(folder: Path, base: Policies) -> tuple[Policies, Policies]:
    """The (sft, final) policies of a run; a role without an adapter stays as it was before."""
    adapters = folder / "adapters"
    if not adapters.is_dir():
        raise MaltError(
            f"{folder} holds no adapters: finish it by python -m malt_fast.train --run {folder}"
        )
    sft = {role: _adapter(adapters / role / "sft", policy) for role, policy in base.items()}
    final = {role: _adapter(adapters / role / "final", policy) for role, policy in sft.items()}
    for role, policy in sft.items():  # one policy where there was no DPO
        if _weights(policy) and _weights(policy) == _weights(final[role]):
            final[role] = policy
    return sft, final


def _weights(policy: Policy) -> bytes | None:
    file = Path(policy.adapter or "") / "adapter_model.safetensors"
    return file.read_bytes() if file.is_file() else None


def _adapter(folder: Path, before: Policy) -> Policy:
    if not folder.is_dir():
        return before
    check_seal(folder)
    return Policy(before.base, str(folder.resolve()))


def saved_config(
    argv: Sequence[str], program: str, may_change: tuple[str, ...] = MAY_CHANGE
) -> Config:
    """The config of the run that `--run` names, with what the command line changes in it.

    Raises MaltError for a change of a setting that does not begin as one of `may_change` does.
    """
    values, wants_help = parse_arguments(argv)
    folder = values.get("run")
    if wants_help is not None or folder is None:
        load_config(argv, program)  # prints the help, or finds a mistake to tell first
        raise MaltError("no run was named: give --run DIR, a directory that malt_fast.train made")
    saved = Path(str(folder)) / "config.yaml"
    if not saved.is_file():
        raise MaltError(f"{folder} holds no run: give a directory that malt_fast.train made")
    config = load_config(["--config", str(saved), *argv], program)
    before = load_config(["--config", str(saved)], program)
    fixed = [key for key in differences(before, config) if not key.startswith(may_change)]
    if fixed:
        raise MaltError(
            f"{', '.join(fixed)} cannot differ from what the run was trained with: leave it out, "
            "or train another run"
        )
    return config
