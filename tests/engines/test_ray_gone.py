"""A Ray cluster whose machines are all gone."""

import pytest

from malt_fast.utils.errors import MaltError
from malt_fast.utils.ray_cluster import describe_cluster

ray = pytest.importorskip("ray")


def test_a_cluster_without_machines_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that it has too few cores for the replicas."""
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": False, "Resources": {"CPU": 4}}])
    with pytest.raises(MaltError, match="no machine of the Ray cluster answers any more"):
        describe_cluster()
