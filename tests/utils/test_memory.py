"""What memory a process may use, with made-up control groups of a container or a batch job."""

from pathlib import Path

import pytest

from malt_fast.utils import memory
from malt_fast.utils.memory import available_memory, limits, total_memory

GIB = 2**30


def group(folder: Path, files: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")


def of_process(root: Path, lines: str) -> None:
    group(root / "proc/self", {"cgroup": lines})


def second(most: object, used: int, inactive: int = 0) -> dict[str, object]:
    stat = f"anon 5\ninactive_file {inactive}\nactive_file 7"
    return {"memory.max": most, "memory.current": used, "memory.stat": stat}


def first(most: int, used: int, inactive: int = 0) -> dict[str, object]:
    stat = f"inactive_file 1\nactive_file 1\ntotal_inactive_file {inactive}\ntotal_active_file 7"
    return {
        "memory.limit_in_bytes": most,
        "memory.usage_in_bytes": used,
        "memory.stat": stat,
    }


def test_every_group_above_counts_and_pages_of_files_do_not(tmp_path: Path) -> None:
    of_process(tmp_path, "0::/jobs/job_7/step_0")
    top = tmp_path / "sys/fs/cgroup"
    group(top / "jobs/job_7/step_0", second("max", 3 * GIB))
    group(top / "jobs/job_7", second(8 * GIB, 5 * GIB, 2 * GIB))
    group(top / "jobs", second(64 * GIB, 9 * GIB))
    assert limits(tmp_path) == [(8 * GIB, 3 * GIB - 7), (64 * GIB, 9 * GIB - 7)]


def test_a_container_sees_its_group_as_the_top(tmp_path: Path) -> None:
    of_process(tmp_path, "5:cpu,cpuacct:/docker/4f\n4:hugetlb,memory:/docker/4f\n0::/docker/4f")
    group(tmp_path / "sys/fs/cgroup/memory", first(4 * GIB, GIB, GIB // 2))
    assert limits(tmp_path) == [(4 * GIB, GIB // 2 - 7)]
    (tmp_path / "sys/fs/cgroup/memory/memory.stat").unlink()
    assert limits(tmp_path) == [(4 * GIB, GIB)]


def test_nothing_is_known_without_groups(tmp_path: Path) -> None:
    assert limits(tmp_path) == []
    of_process(tmp_path, "0::/")
    assert limits(tmp_path) == []


def test_the_tightest_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = total_memory()
    assert 0 < available_memory() <= machine
    monkeypatch.setattr(memory, "limits", lambda root: [(GIB, 0), (GIB // 2, GIB // 8)])
    assert total_memory() == GIB // 2
    assert available_memory() == GIB // 2 - GIB // 8
    monkeypatch.setattr(memory, "limits", lambda root: [(GIB, 2 * GIB)])  # used by others
    assert available_memory() == 0
