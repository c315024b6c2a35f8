"""Two writers of one store: a network file system may give the lock of a run twice."""

from pathlib import Path

import pytest

from malt_fast.utils.errors import MaltError
from tests.store.stored import fill, known, open_small


@pytest.mark.parametrize("committed", [0, 8])
def test_two_writers_do_not_overwrite_each_other(tmp_path: Path, committed: int) -> None:
    """The second to write is told, and all that was committed is kept."""
    fill(open_small(tmp_path), range(committed))
    one, two = open_small(tmp_path), open_small(tmp_path)
    fill(one, range(committed, committed + 4))
    with pytest.raises(MaltError, match="was changed by another program"):
        fill(two, range(50, 54))
    fill(one, range(committed + 4, committed + 8))
    assert known(open_small(tmp_path), 60) == list(range(committed + 8))
