"""The core from many threads of Python: `make test-free-threaded` runs this without a GIL."""

import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from malt_fast import _core
from malt_fast._core.forest import Forest

SHAPE = [-1, -1, 0, 0, 1, 1]  # two drafts, two critiques of each
WRITERS, TREES = 4, 50


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="a Python with a GIL")
def test_the_core_needs_no_global_lock():
    assert not sys._is_gil_enabled()


def test_writers_and_readers_share_a_forest():
    forest = Forest()

    def write(_: int) -> None:
        for _ in range(TREES):
            first = forest.add_trees(1, SHAPE) + 1
            ids = np.arange(first, first + len(SHAPE), dtype=np.uint32)
            lengths = ids % 7
            offsets = np.concatenate([[0], np.cumsum(lengths)])
            forest.complete(ids, np.repeat(ids, lengths), offsets, np.zeros(len(ids), np.uint8))
            forest.set_outcomes(ids[2:], ids[2:] % 2)

    def read(_: int) -> None:
        for _ in range(TREES):
            size = len(forest)
            if size > 7:
                tokens = forest.tokens_of(size - 7 + 1)  # there, or not completed yet
                assert set(tokens.tolist()) <= {size - 7 + 1}
            values = _core.forest.credit(forest).value[:size]
            assert ((values >= 0) | np.isnan(values)).all()

    with ThreadPoolExecutor(2 * WRITERS) as pool:
        work = [pool.submit(job, i) for i in range(WRITERS) for job in (write, read)]
        for job in work:
            job.result()
    nodes = np.arange(len(forest))
    assert len(nodes) == WRITERS * TREES * (1 + len(SHAPE))
    inside = nodes % (1 + len(SHAPE)) != 0
    assert forest.state[inside].tolist() == [_core.forest.DONE] * int(inside.sum())
    assert (forest.token_len[inside] == nodes[inside] % 7).all()
    assert all((forest.tokens_of(node) == node).all() for node in nodes[inside].tolist())
