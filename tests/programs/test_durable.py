"""Whole runs: changed settings, Ctrl-C, locks, full disks, clocks, changed graders."""

import errno
import fcntl
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from malt_fast import method
from malt_fast.config.load import make_config
from malt_fast.forest.role_data import RoleData
from malt_fast.models.saving import saving
from malt_fast.runs.run import Run, open_run, writing
from malt_fast.sampling import sample
from malt_fast.store import store
from malt_fast.training import train_role, train_stage
from malt_fast.training.trainer import StageTrainer
from malt_fast.utils import interrupt
from malt_fast.utils.errors import MaltError
from malt_fast.utils.exit_status import exit_status
from malt_fast.utils.files import read_checked, write_checked
from malt_fast.utils.seals import seal, seal_of
from tests.small_run import FAST, content, run, write_model, write_questions


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def stages(folder: Path, since: int = 0) -> list[str]:
    """Stages that were worked on, in order."""
    return [line["stage"] for line in lines(folder)[since:] if "peak_memory_mb" in line]


def adapters(folder: Path) -> dict[str, bytes]:
    paths = folder.glob("adapters/*/*/adapter_model.safetensors")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


# ---- another config, other data ----


# Further settings that change nothing that was trained.
UNSEEN = [
    *("--engine.batch_size", "7", "--store.batch", "9"),
    *("--train.packing", "rows", "--train.dpo.save_steps", "2"),
]


@pytest.fixture(scope="module")
def base(made: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained and not evaluated, to make copies of."""
    folder = tmp_path_factory.mktemp("base") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method, "evaluate_run", lambda *_: None)
        assert run(*made, folder, "--store.batch", "10") == 0
    return folder


@pytest.mark.parametrize(
    ("options", "again", "sampled"),
    [
        ([], [], 0),
        (["--train.sft.logging_steps", "1", "--report_to", "none", *UNSEEN], [], 0),
        (["--tree.threshold", "0.3"], ["sft", "dpo"], 0),
        (["--preferences.max_pairs", "1"], ["dpo"], 0),
        (["--train.dpo.beta", "0.3"], ["dpo"], 0),
        (["--task.grader", "exact"], ["grade"], 0),
        (["--tree.branching", "4,2,2"], ["sample", "grade", "sft"], 18 * 7),
        (["--tree.branching", "2,2,2"], ["sample", "grade"], 0),
        (["--sampling.roles.refiner.temperature", "0.9"], ["sample", "grade"], 18 * 12),
    ],
)
def test_a_changed_setting_does_again_what_depends_on_it(
    made: tuple[Path, Path], base: Path, tmp_path: Path, monkeypatch, options, again, sampled
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(base, folder)
    monkeypatch.setattr(method, "evaluate_run", lambda *_: None)
    before, opened = len(lines(folder)), store.open_store(folder / "samples", writable=False)
    assert run(*made, folder, *options, *(["--overwrite"] if again else [])) == 0
    done = stages(folder, before)
    assert {stage.split()[0] for stage in done} >= set(again)
    first = {"sample": 0, "grade": 1, "sft": 2, "dpo": 3}
    earliest = min((first[name] for name in again), default=9)
    assert all(first[stage.split()[0]] >= earliest for stage in done)
    after = store.open_store(folder / "samples", writable=False)
    assert after.next_row - opened.next_row == sampled
    if "--tree.branching" in options:
        fresh = tmp_path / "fresh"
        assert run(*made, fresh, *options) == 0
        assert content(folder) == content(fresh) and adapters(folder) == adapters(fresh)


def test_an_evaluation_is_made_again_when_what_it_judges_changes(
    made: tuple[Path, Path], base: Path, tmp_path: Path
) -> None:
    """Trained otherwise, or asked otherwise, the old figures are not this run's."""
    folder = tmp_path / "run"
    shutil.copytree(base, folder)
    told = []
    for options in ([], [], ["--train.sft.learning_rate", "0.1"], ["--evaluate.votes", "2"]):
        before = len(lines(folder))
        assert run(*made, folder, "--overwrite", *options) == 0
        told.append((folder / "evaluation.json").read_text())
        evaluated = "evaluate" in stages(folder, before)
        assert evaluated == (len(told) == 1 or told[-1] != told[-2])
    assert told[0] == told[1] and len(set(told)) == 3


def test_more_questions_sample_what_is_new(made: tuple[Path, Path], tmp_path: Path) -> None:
    data, model = made
    few = ["--task.limit", "12", "--task.test_path", str(data), "--task.decontaminate", "false"]
    assert run(data, model, tmp_path / "run", *few, "--evaluate.limit", "2") == 0
    few += ["--task.limit", "20", "--overwrite"]
    before = len(lines(tmp_path / "run"))
    assert run(data, model, tmp_path / "run", *few, "--evaluate.limit", "2") == 0
    told = next(x for x in lines(tmp_path / "run")[before:] if x["stage"] == "sample round 0")
    assert (told["outputs"], told["reused"]) == (20 * 21, 12 * 21)


def test_samples_of_another_run(made, base: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(method, "evaluate_run", lambda *_: None)
    with monkeypatch.context() as patch:
        patch.setattr(sample, "open_engine", None)
        assert run(*made, tmp_path / "b", "--reuse", str(base), "--seed", "0") == 0
    assert content(base) == content(tmp_path / "b")
    assert adapters(base) == adapters(tmp_path / "b")


def test_a_run_to_take_from_has_to_be_there(
    made: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    assert run(*made, tmp_path / "b", "--reuse", str(tmp_path / "absent")) == 2
    error = capsys.readouterr().err
    assert "absent holds no samples" in error and not (tmp_path / "b").exists()


def test_damage_is_sampled_again(
    made: tuple[Path, Path], base: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(method, "evaluate_run", lambda *_: None)
    folder = tmp_path / "run"
    shutil.copytree(base, folder)
    opened = store.open_store(folder / "samples", writable=False)
    path, key = opened.live.path, opened.live.batches[7].keys[3].tobytes()
    data = bytearray(path.read_bytes())
    data[data.index(key)] ^= 1
    path.write_bytes(data)
    before = len(lines(folder))
    assert run(*made, folder, "--store.batch", "10") == 0
    told = next(x for x in lines(folder)[before:] if x["stage"] == "sample round 0")
    assert told["outputs"] - told["reused"] == 10
    assert content(folder) == content(base) and adapters(folder) == adapters(base)
    assert stages(folder, before) == ["sample round 0", "grade round 0"]


@pytest.mark.parametrize("stage", ["sft", "dpo"])
@pytest.mark.parametrize("what", ["flip", "remove"])
def test_a_damaged_adapter_is_trained_again(
    made: tuple[Path, Path], base: Path, tmp_path: Path, monkeypatch, stage, what
) -> None:
    monkeypatch.setattr(method, "evaluate_run", lambda *_: None)
    folder = tmp_path / "run"
    shutil.copytree(base, folder)
    file = folder / "round-0" / "refiner" / stage / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-9] ^= 64
    file.write_bytes(data) if what == "flip" else file.unlink()
    before = len(lines(folder))
    assert run(*made, folder) == 0
    assert stages(folder, before) == [f"{stage} refiner"]
    assert adapters(folder) == adapters(base)


def test_a_damaged_evaluation_is_made_again(
    made: tuple[Path, Path], base: Path, tmp_path: Path, capsys
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(base, folder)
    assert run(*made, folder) == 0
    path = folder / "evaluation.json"
    whole = path.read_text()
    path.write_text(whole.replace('"accuracy": 0', '"accuracy": 1', 1))
    assert path.read_text() != whole
    assert run(*made, folder) == 0
    assert path.read_text() == whole and "is damaged" in capsys.readouterr().out
    values = read_checked(path)
    write_checked(path, {key: value for key, value in values.items() if key != "malt"})
    assert run(*made, folder) == 0
    shown = capsys.readouterr().out
    assert path.read_text() == whole and "of another version: the run is evaluated again" in shown


def test_rows_for_other_trainers_are_made_again(
    made: tuple[Path, Path], base: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(method, "evaluate_run", lambda *_: None)
    folder = tmp_path / "run"
    shutil.copytree(base, folder)
    shutil.rmtree(folder / "round-0" / "data")
    assert run(*made, folder) == 0
    for file in base.glob("round-0/data/*/*.parquet"):
        assert (folder / file.relative_to(base)).read_bytes() == file.read_bytes()


def test_rows_of_other_settings_do_not_stay(
    made: tuple[Path, Path], base: Path, tmp_path: Path, monkeypatch
) -> None:
    """A run with other settings was killed when it had written its rows, but no adapter."""
    monkeypatch.setattr(method, "evaluate_run", lambda *_: None)
    folder = tmp_path / "run"
    shutil.copytree(base, folder)
    data = {file: file.read_bytes() for file in folder.glob("round-0/data/*/*")}

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_stage, "train_stage", killed)
        assert run(*made, folder, "--tree.threshold", "0.3", "--overwrite") == 130
    assert any(file.read_bytes() != content for file, content in data.items())
    rows = folder / "round-0" / "data" / "generator"
    (rows / "dpo.parquet").write_bytes((rows / "sft.parquet").read_bytes())
    seal(rows, "", ["dpo.parquet", "sft.parquet"])  # of a stage that is skipped
    assert run(*made, folder, "--tree.threshold", "0.5", "--overwrite") == 0
    after = {file: file.read_bytes() for file in folder.glob("round-0/data/*/*")}
    assert after == data and adapters(folder) == adapters(base)


def test_rows_do_not_stay_where_a_stage_has_none(
    made: tuple[Path, Path], base: Path, tmp_path: Path, monkeypatch
) -> None:
    """Other settings gave the verifier pairs."""
    monkeypatch.setattr(method, "evaluate_run", lambda *_: None)
    folder = tmp_path / "run"
    shutil.copytree(base, folder)
    real = train_role.role_data

    def without_pairs(*given: Any) -> RoleData:
        data = real(*given)
        return replace(data, pairs=data.pairs[:0]) if (given[2], given[-1]) == (2, "dpo") else data

    monkeypatch.setattr(train_role, "role_data", without_pairs)
    rows = folder / "round-0" / "data" / "verifier"
    assert (rows / "dpo.parquet").is_file()
    assert run(*made, folder) == 0
    assert not (rows / "dpo.parquet").is_file() and seal_of(rows) is not None


# ---- Ctrl-C ----


def stopping(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_ctrl_c_saves_what_was_sampled_and_tells_the_command(
    made: tuple[Path, Path], base: Path, tmp_path: Path, monkeypatch, capsys, number
) -> None:
    folder = tmp_path / "run"
    monkeypatch.setattr(method, "evaluate_run", lambda *_: None)
    options = ["--engine.batch_size", "8", "--store.interval", "3600"]
    real = sample.grow

    def grow_and_stop(*arguments: Any) -> Any:
        for i, settled in enumerate(real(*arguments)):
            if i == 5:
                stopping(number)
            yield settled

    with monkeypatch.context() as patch:
        patch.setattr(sample, "grow", grow_and_stop)
        assert run(*made, folder, *options) == 130
    error = capsys.readouterr().err
    assert f"--run {folder}" in error.splitlines()[-1] and "to continue, run" in error
    kept = store.open_store(folder / "samples", writable=False).next_row
    assert kept > 0
    assert run(*made, folder, *options) == 0
    told = next(line for line in lines(folder) if line["stage"] == "sample round 0")
    assert told["reused"] == kept
    assert content(folder) == content(base) and adapters(folder) == adapters(base)


def test_one_ctrl_c_while_a_role_trains_leaves_a_checkpoint(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch
) -> None:
    folder, whole = tmp_path / "run", tmp_path / "whole"
    monkeypatch.setattr(method, "evaluate_run", lambda *_: None)
    options = ["--train.sft.max_steps", "6", "--train.dpo.max_steps", "6"]
    assert run(*made, whole, *options) == 0
    step, steps = StageTrainer.training_step, []

    def step_and_stop(self: StageTrainer, *arguments: Any) -> Any:
        steps.append(self.state.global_step)
        if len(steps) == 9:  # in the second stage
            stopping()
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(StageTrainer, "training_step", step_and_stop)
        assert run(*made, folder, *options) == 130
    assert len(steps) == 9
    (checkpoint,) = folder.glob("round-0/*/*.checkpoints/checkpoint-*")
    assert checkpoint.name == f"checkpoint-{steps[-1] + 1}"
    steps.clear()
    monkeypatch.setattr(StageTrainer, "training_step", step_and_stop)
    monkeypatch.setattr("tests.programs.test_durable.stopping", lambda: None)
    assert run(*made, folder, *options) == 0
    assert steps[0] == int(checkpoint.name.rpartition("-")[2])
    assert adapters(folder) == adapters(whole)
    assert not [*folder.rglob("*.checkpoints")]


@pytest.mark.slow
def test_one_ctrl_c_while_roles_train_side_by_side(made: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    data, model = made
    command = [sys.executable, "-m", "malt_fast.train", "--task.name", "jsonl", *FAST]
    command += ["--task.path", str(data), "--task.grader", "number", "--train.side_by_side", "true"]
    command += ["--model.name_or_path", str(model), "--run", str(tmp_path / "run")]
    command += ["--train.sft.max_steps", "100000", "--train.dpo_roles", "[]"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while (
        not (tmp_path / "run" / "metrics.jsonl").is_file()
        or '"sft/' not in (tmp_path / "run" / "metrics.jsonl").read_text()
    ):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert "to continue, run" in error and "Traceback" not in error
    assert [*tmp_path.glob("run/round-0/*/sft.checkpoints/checkpoint-*")]


def test_the_second_ctrl_c_stops_at_once() -> None:
    def program() -> None:
        stopping()
        assert interrupt.asked()
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
        stopping()
        time.sleep(10)

    begun = time.process_time()
    assert exit_status(program) == 130 and time.process_time() - begun < 5
    assert not interrupt.asked()


def test_signals_are_left_alone_in_other_threads() -> None:
    told = []
    thread = threading.Thread(target=lambda: told.append(exit_status(lambda: None)))
    thread.start()
    thread.join()
    assert told == [0]


# ---- one writer ----


def test_a_run_has_one_writer(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "run"
    code = (
        "import sys, time; from malt_fast.config.load import make_config\n"
        "from malt_fast.runs.run import open_run\n"
        f"with open_run(make_config({{'run': {str(folder)!r}}}), 'test'):\n"
        "    print('in', flush=True); time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    while "in" not in other.stdout.readline().split():
        assert other.poll() is None
    with (
        pytest.raises(MaltError, match=rf"in use by process {other.pid} on .* since .*: wait"),
        open_run(make_config({"run": folder}), "test"),
    ):
        pass
    other.kill()
    other.wait()
    with open_run(make_config({"run": folder}), "test"):  # of a dead process, it is taken over
        assert f"goes on after process {other.pid}" in " ".join(capsys.readouterr().out.split())
    assert (folder / "lock").read_text() == ""


def test_a_process_is_not_its_own_dead_predecessor(tmp_path: Path) -> None:
    """The system's lock does not keep a process out of what it holds itself."""
    one = Run(tmp_path, make_config({}))
    with writing(one):
        with pytest.raises(MaltError, match="in use by this very process"), writing(one):
            pass
        assert (tmp_path / "lock").read_text()
    with writing(one):
        pass


def test_where_nothing_can_be_locked_a_warning_says_so(tmp_path: Path, monkeypatch, capsys) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with writing(Run(tmp_path, make_config({}))):
        assert "has no locks" in capsys.readouterr().out


# ---- disks and clocks ----


@pytest.mark.parametrize(
    ("call", "number"),
    [
        ("write", errno.ENOSPC),
        ("fsync", errno.EIO),
        ("replace", errno.EROFS),
        pytest.param("write", errno.EIO, marks=pytest.mark.slow),
        pytest.param("write", errno.EROFS, marks=pytest.mark.slow),
        pytest.param("fsync", errno.ENOSPC, marks=pytest.mark.slow),
        pytest.param("fsync", errno.EROFS, marks=pytest.mark.slow),
        pytest.param("replace", errno.ENOSPC, marks=pytest.mark.slow),
        pytest.param("replace", errno.EIO, marks=pytest.mark.slow),
    ],
)
def test_a_failing_disk_is_one_sentence_and_the_run_goes_on(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch, capsys, number, call
) -> None:
    folder = tmp_path / "run"
    monkeypatch.setattr(method, "evaluate_run", lambda *_: None)
    real, calls = getattr(os, call), 0

    def fails(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise OSError(number, os.strerror(number))
        return real(*arguments)

    few = ["--task.limit", "4", "--train.dpo_roles", "[]"]
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        assert run(*made, folder, *few, "--store.batch", "4") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and "cannot be" in error
    assert run(*made, folder, *few) == 0


def test_a_full_disk_is_told_before_the_map_of_rows_is_written(tmp_path: Path, monkeypatch) -> None:
    """A file with holes would end the process by a signal."""

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    opened = store.open_store(tmp_path / "samples")
    with pytest.raises(OSError, match="samples"), sample.row_map(opened, 10):
        pass


def test_a_full_disk_while_weights_are_saved_is_one_sentence(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    told = pytest.raises(MaltError, match=r"cannot be written .*make room")
    for size in (1, 1 << 20):  # torch names another reason where everything fits into a buffer
        with told, saving(tmp_path):
            torch.save({"a": torch.zeros(size)}, "/dev/full")
    with told, saving(tmp_path):
        raise SafetensorError("I/O error: No space left on device")
    with pytest.raises(RuntimeError, match="shapes"), saving(tmp_path):
        raise RuntimeError("shapes differ")


def test_a_folder_that_cannot_be_written_is_told_at_the_start(
    made: tuple[Path, Path], capsys
) -> None:
    assert run(*made, Path("/proc/nowhere/run")) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_clock_that_jumps_changes_nothing(
    made: tuple[Path, Path], base: Path, tmp_path: Path, monkeypatch
) -> None:
    """A year forwards or back, whenever it is read."""
    real, jumps = time.time, itertools.cycle([3e7, -3e7, 0])
    monkeypatch.setattr(method, "evaluate_run", lambda *_: None)
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    assert run(*made, tmp_path / "run", "--store.batch", "10") == 0
    for threshold in ("0.3", "0.5"):
        options = ("--tree.threshold", threshold, "--overwrite")
        assert run(*made, tmp_path / "run", *options) == 0
    assert content(tmp_path / "run") == content(base) and adapters(tmp_path / "run") == adapters(
        base
    )


def test_names_of_runs_do_not_repeat_when_the_clock_does(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("malt_fast.runs.run.time.strftime", lambda _: "then")
    for _ in range(3):
        with open_run(make_config({}), "test"):
            pass
    assert sorted(path.name for path in Path("runs").iterdir()) == ["then", "then-2", "then-3"]


def test_the_whole_command_is_given_to_go_on(tmp_path: Path) -> None:
    """From a shell, through a pipe, killed by SIGINT while it loads."""
    data, model = write_questions(tmp_path / "q.jsonl"), write_model(tmp_path / "model")
    command = [sys.executable, "-m", "malt_fast.train", "--task.name", "jsonl", *FAST]
    command += ["--task.path", str(data), "--task.grader", "number"]
    command += ["--model.name_or_path", str(model), "--run", str(tmp_path / "a run")]
    command += ["--train.sft.max_steps", "100000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not [*tmp_path.glob("a run/round-0/*/sft.checkpoints")]:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert "once more (Ctrl-C) stops at once" in error and "Traceback" not in error
    assert f"python -m malt_fast.train {' '.join(command[3:5])}" in error
    assert f"--run '{tmp_path}/a run'" in error
