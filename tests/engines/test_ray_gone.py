"""A Ray cluster whose machines are all gone, or whose head is."""

from types import SimpleNamespace

import pytest

from malt_fast.utils import ray_cluster
from malt_fast.utils.errors import MaltError
from malt_fast.utils.ray_cluster import describe_cluster, wait_for_head

ray = pytest.importorskip("ray")


def test_a_cluster_without_machines_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that it has too few cores for the replicas."""
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": False, "Resources": {"CPU": 4}}])
    with pytest.raises(MaltError, match="no machine of the Ray cluster answers any more"):
        describe_cluster()


def test_a_head_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = SimpleNamespace(gcs_address="127.0.0.1:1")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: gone)
    monkeypatch.setattr(ray_cluster, "PATIENCE", 0.0)
    with pytest.raises(
        MaltError, match=r"head of the Ray cluster, 127\.0\.0\.1:1, has not answered"
    ):
        wait_for_head()
