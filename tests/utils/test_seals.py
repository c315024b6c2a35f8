"""Sealed folders, folders that take another's place, JSON files with a checksum."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malt_fast.utils import files
from malt_fast.utils.errors import MaltError
from malt_fast.utils.files import (
    make_folder,
    read_checked,
    remove_leftovers,
    replacing_folder,
    write_checked,
)
from malt_fast.utils.seals import (
    check_seal,
    is_damaged,
    seal,
    seal_of,
)


def filled(folder: Path) -> Path:
    folder.mkdir()
    for name, content in (("a", b"one"), ("b.bin", bytes(1000))):
        (folder / name).write_bytes(content)
    return folder


def test_a_seal_tells_what_a_folder_was_made_from(tmp_path: Path) -> None:
    folder = filled(tmp_path / "x")
    assert seal_of(folder) is None and not is_damaged(folder)
    seal(folder, "fingerprint trees 1", ["b.bin", "a"])
    assert seal_of(folder) == "fingerprint trees 1"
    (folder / "README.md").write_text("not sealed")
    check_seal(folder, "train again")


@pytest.mark.parametrize("name", ["a", "b.bin", "stage.txt"])
@pytest.mark.parametrize("how", ["flip", "empty", "remove"])
def test_damage_breaks_the_seal(tmp_path: Path, name: str, how: str) -> None:
    folder = filled(tmp_path / "x")
    seal(folder, "note", ["a", "b.bin"])
    file = folder / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    if how == "remove":
        file.unlink()
    else:
        file.write_bytes(bytes(data) if how == "flip" else b"")
    assert seal_of(folder) is None
    assert is_damaged(folder) == (name != "stage.txt" or how != "remove")
    how_told = "is damaged" if is_damaged(folder) else "lacks its seal, stage.txt"
    with pytest.raises(MaltError, match=how_told):
        check_seal(folder, "train again")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


@given(st.dictionaries(st.text().filter(lambda key: key != "xxh3"), json_values))
def test_what_was_written_with_a_checksum_comes_back(tmp_path_factory, values) -> None:
    path = tmp_path_factory.mktemp("checked") / "x.json"
    write_checked(path, values)
    assert read_checked(path) == values


def test_a_changed_digit_is_noticed(tmp_path: Path) -> None:
    write_checked(tmp_path / "x", {"accuracy": 0.25})
    (tmp_path / "x").write_text((tmp_path / "x").read_text().replace("0.25", "0.95"))
    with pytest.raises(ValueError):
        read_checked(tmp_path / "x")
    (tmp_path / "x").write_text(json.dumps([1]))
    with pytest.raises(ValueError):
        read_checked(tmp_path / "x")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", [1, 2])
def test_a_folder_moved_away_comes_back(tmp_path: Path, monkeypatch, at: int) -> None:
    """Killed before or between the renames, what was there before is there again."""
    folder, calls = filled(tmp_path / "x"), []

    def replace(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == at:
            raise Killed
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", replace)
        with pytest.raises(Killed), replacing_folder(folder) as new:
            (new / "a").write_text("two")
    remove_leftovers(tmp_path, besides=())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]
    assert (folder / "a").read_bytes() == b"one"


def test_leftovers_of_others_stay(tmp_path: Path) -> None:
    for name in ("export/.x.new", "sweeps/a/.y.new", "round-0/.z.new/.q.new", ".t.new"):
        make_folder((tmp_path / name).parent)
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path, besides=("sweeps", "export"))
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {"export/.x.new", "sweeps/a/.y.new"}


def test_links_in_the_way_are_removed_and_not_followed(tmp_path: Path) -> None:
    foreign = filled(tmp_path / "foreign")
    inside = tmp_path / "run"
    inside.mkdir()
    names = (f".x.{os.getpid()}.new", ".y.new", ".y.old", ".z.new", ".gone.new")
    targets = (foreign / "a", foreign, foreign, foreign, tmp_path / "nowhere")
    for name, target in zip(names, targets, strict=True):
        (inside / name).symlink_to(target)
    files.write_text(inside / "x", "mine")
    with replacing_folder(inside / "y") as new:
        (new / "b").write_text("mine")
    remove_leftovers(inside, besides=())
    assert sorted(path.name for path in inside.iterdir()) == ["x", "y"]
    assert not (inside / "x").is_symlink() and (inside / "x").read_text() == "mine"
    assert (foreign / "a").read_bytes() == b"one" and len([*foreign.iterdir()]) == 2


def test_two_processes_write_the_same_file(tmp_path: Path) -> None:
    """Each renames what it wrote itself, and the last one wins."""
    path = tmp_path / "x"
    with files.replacing(path) as mine:
        mine.write_text("begun")
        child = "from malt_fast.utils.files import write_text; from pathlib import Path\n"
        child += f"write_text(Path({str(path)!r}), 'theirs')"
        subprocess.run([sys.executable, "-c", child], check=True)
        assert path.read_text() == "theirs"
        mine.write_text("mine")
    assert path.read_text() == "mine" and [p.name for p in tmp_path.iterdir()] == ["x"]


def test_what_killed_processes_left_of_a_file_is_removed_and_nothing_else(tmp_path: Path) -> None:
    names = (".x.1.new", ".x.22.new", ".x.y.1.new", ".xx.1.new", ".x.1.new.txt")
    for name in names:
        (tmp_path / name).write_text("half")
    files.write_text(tmp_path / "x", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[2:], "x"])


def test_what_another_process_is_writing_is_no_leftover(tmp_path: Path) -> None:
    """A report may be written while a training begins in the same directory."""
    child = "import sys; from malt_fast.utils.files import replacing; from pathlib import Path\n"
    child += f"with replacing(Path({str(tmp_path / 'x')!r})) as beside:\n"
    child += "    beside.write_text('theirs'); print(flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", child], **pipes)
    assert process.stdout is not None and process.stdout.readline()
    remove_leftovers(tmp_path, besides=())
    files.write_text(tmp_path / "x", "mine")
    assert len([*tmp_path.iterdir()]) == 2
    process.communicate(b"")
    assert process.returncode == 0 and (tmp_path / "x").read_text() == "theirs"
    assert len([*tmp_path.iterdir()]) == 1


def test_new_folders_are_synced_with_their_parents(tmp_path: Path, monkeypatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"]


@pytest.mark.parametrize("way", [files.replacing, replacing_folder])
def test_a_disk_that_is_full_names_what_was_written(way, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, way(tmp_path / "export"):
        raise OSError(errno.ENOSPC, "No space left on device")  # as writing does
    assert caught.value.filename == str(tmp_path / "export") and not list(tmp_path.iterdir())
    with pytest.raises(OSError, match="No such file") as caught, way(tmp_path / "gone" / "export"):
        raise AssertionError
    assert caught.value.filename == str(tmp_path / "gone" / "export")


def test_a_file_is_synced_before_it_takes_its_place(tmp_path: Path, monkeypatch) -> None:
    """Else a power cut could leave an empty file under the final name."""
    path, calls = tmp_path / "x", []
    monkeypatch.setattr(files, "sync_file", lambda file: calls.append(("sync", file.name)))
    monkeypatch.setattr(files, "sync_folder", lambda folder: calls.append(("sync", folder.name)))
    real = os.replace
    monkeypatch.setattr(
        files.os, "replace", lambda a, b: (calls.append(("replace", b.name)), real(a, b))
    )
    files.write_text(path, "one")
    beside = f".x.{os.getpid()}.new"
    assert calls == [("sync", beside), ("replace", "x"), ("sync", tmp_path.name)]
    assert path.read_text() == "one"
