"""Files that somebody planted in a run: pickles that run code, other models, pipes, links."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from malt_fast import evaluate, export, method, report, sweep, train
from malt_fast.training.trainer import StageTrainer
from malt_fast.utils.seals import seal, seal_of
from tests.small_run import run

OPTIONS = ["--train.sft.max_steps", "3", "--train.sft.save_steps", "1", "--train.dpo_roles", "[]"]


class Planted:
    """Leaves a mark if it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def adapters(folder: Path) -> dict[str, bytes]:
    paths = folder.glob("adapters/*/*/adapter_model.safetensors")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def stopped(
    made: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, bytes]]:
    """A run that was killed while its first role trained; the adapters that it would have made."""
    home = tmp_path_factory.mktemp("stopped")
    step, steps = StageTrainer.training_step, []

    def killed(self: StageTrainer, *arguments: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method, "evaluate_run", lambda *_: None)
        assert run(*made, home / "whole", *OPTIONS) == 0
        patch.setattr(StageTrainer, "training_step", killed)
        assert run(*made, home / "run", *OPTIONS) == 130
    return home / "run", adapters(home / "whole")


@pytest.mark.parametrize(
    "names",
    [
        ["optimizer.pt"],
        ["scheduler.pt"],
        ["rng_state.pth"],
        ["training_args.bin", "adapter_model.bin", "pytorch_model.bin", "scaler.pt"],
    ],
)
def test_no_pickle_of_a_checkpoint_runs(made, stopped, tmp_path, monkeypatch, capfd, names) -> None:
    """Not even under a seal that fits; what cannot be read is left out, and trained again."""
    killed, expected = stopped
    folder, mark = tmp_path / "run", tmp_path / "mark"
    shutil.copytree(killed, folder)
    (checkpoint,) = folder.glob("round-0/*/sft.checkpoints/checkpoint-*")
    note = seal_of(checkpoint)
    assert note is not None
    for name in names:
        torch.save(Planted(mark), checkpoint / name)
    files = [path.name for path in checkpoint.iterdir() if path.name != "stage.txt"]
    seal(checkpoint, note, files)
    monkeypatch.setattr(method, "evaluate_run", lambda *_: None)
    assert run(*made, folder, *OPTIONS) == 0
    assert not mark.exists() and adapters(folder) == expected


# ---- where files should be ----


@pytest.mark.parametrize("put", ["pipe", "device"])
@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "evaluation.json", "adapters/refiner/final/stage.txt", "plan.json"]
)
def test_a_pipe_or_a_device_is_one_sentence(finished_run, tmp_path, capsys, name, put) -> None:
    """Reading it would never end."""
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    (folder / name).unlink(missing_ok=True)
    if put == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("/dev/zero")
    for program in (train, evaluate, export, report, sweep):
        words = ["--sweep", "tree.threshold=0.3"] if program is sweep else []
        assert program.main(["--run", str(folder), *words]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and f"{name} is neither a file nor a folder" in error
