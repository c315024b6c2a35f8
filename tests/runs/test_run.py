"""The run directory: what a kill leaves behind does no harm, and Ctrl-C says how to go on."""

import resource
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from malt_fast.config.load import make_config
from malt_fast.runs.lock import locked
from malt_fast.runs.run import Run, open_run
from malt_fast.utils.errors import MaltError
from malt_fast.utils.exit_status import exit_status
from malt_fast.utils.files import replacing_folder


def test_what_a_kill_at_the_start_left_behind_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".config.yaml.new").write_text("chain:")
    config = make_config({"run": tmp_path})
    with open_run(config, "test"):
        assert (tmp_path / "config.yaml").is_file()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with (
        pytest.raises(MaltError, match="no run directory"),
        open_run(make_config({"run": tmp_path}), "test"),
    ):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_ctrl_c_names_the_directory_that_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def stop_in_a_run() -> None:
        with open_run(make_config({}), "test"):
            stop()

    monkeypatch.chdir(tmp_path)
    assert exit_status(stop_in_a_run) == 130
    (folder,) = (tmp_path / "runs").iterdir()
    assert "to continue, run `python" in (err := capsys.readouterr().err)
    assert err.endswith(f"--run runs/{folder.name}`\n")
    assert exit_status(stop) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_what_roles_were_trained_with_may_not_change(tmp_path: Path) -> None:
    run = Run(tmp_path, make_config({}))
    run.expect("prompts.json", b"a")
    run.note("prompts.json", b"a")
    run.expect("prompts.json", b"a")
    with pytest.raises(MaltError, match=r"the prompts are not those in .*prompts\.json"):
        run.expect("prompts.json", b"b")
    run.note("prompts.json", b"b")
    assert run.path("prompts.json").read_text() == "b"


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "adapters"

    def fill(names: str, fails: bool = False) -> None:
        with replacing_folder(target) as folder:
            for name in names:
                (folder / name).touch()
            if fails:
                raise KeyboardInterrupt

    for fails, names, there in [
        (True, "x", None),
        (False, "ab", ["a", "b"]),
        (True, "y", ["a", "b"]),
        (False, "cd", ["c", "d"]),  # neither the old files nor those of the half-done one
    ]:
        with suppress(KeyboardInterrupt):
            fill(names, fails)
        found = sorted(f.name for f in target.iterdir()) if target.exists() else None
        assert found == there
    assert [file.name for file in tmp_path.iterdir()] == ["adapters"]


def test_a_lock_on_a_full_disk_names_its_directory(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    told = pytest.raises(MaltError, match=f"{tmp_path} cannot be written")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        with told, locked(tmp_path, print):
            raise AssertionError
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_a_lock_that_is_given_twice_is_told(tmp_path: Path) -> None:
    """Its owner still runs, so it did not die."""
    sleeper = subprocess.Popen(["sleep", "60"])
    owner = f"process {sleeper.pid} on {socket.gethostname()} since 2026-01-01 00:00:00"
    told: list[str] = []
    try:
        (tmp_path / "lock").write_text(owner)
        with locked(tmp_path, told.append) as died:
            assert died == ""
        assert told == [f"{owner} may still write to {tmp_path}: let only one program do so"]
        sleeper.kill()
        sleeper.wait()
        (tmp_path / "lock").write_text(owner)
        with locked(tmp_path, told.append) as died:
            assert died == owner and len(told) == 1
    finally:
        sleeper.kill()
