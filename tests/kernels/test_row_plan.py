"""The plan of rows and targets against Python's sets; how often it waits for a device."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from malt_fast.kernels import row_plan
from malt_fast.kernels.row_plan import make_plan, survey

from tests.volume import volume

pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(-2, 4)), max_size=30)


def columns(given_pairs):
    return torch.tensor(given_pairs, dtype=torch.int64).reshape(-1, 2).T.contiguous()


@settings(max_examples=volume(200), deadline=None)
@given(pairs=pairs, ascending=st.booleans())
def test_distinct_rows_and_targets(pairs, ascending):
    pairs = sorted(pairs) if ascending else pairs
    rows, targets = columns(pairs)
    plan, distinct = make_plan(rows, targets), sorted(set(pairs))
    used = sorted({row for row, _ in pairs})
    assert plan.rows.tolist() == used
    assert plan.targets.token.tolist() == [target for _, target in distinct]
    assert plan.targets.start.tolist() == [
        sum(row < of for row, _ in distinct) for of in [*used, 99]
    ]
    assert [used[i] for i in plan.row_of] == [row for row, _ in distinct]
    assert [distinct[i] for i in plan.index] == pairs


@settings(max_examples=volume(100), deadline=None)
@given(pairs=pairs, ascending=st.booleans(), seed=st.integers(0, 99))
def test_sums(pairs, ascending, seed):
    rows, targets = columns(sorted(pairs) if ascending else pairs)
    plan, g = make_plan(rows, targets), torch.Generator().manual_seed(seed)
    values = torch.randn(len(pairs), generator=g, dtype=torch.float64)
    of_targets = values.new_zeros(len(plan.row_of)).index_add(0, plan.index, values)
    torch.testing.assert_close(plan.per_target(values), of_targets)
    of_rows = values.new_zeros(len(plan)).index_add(0, plan.row_of, of_targets)
    torch.testing.assert_close(plan.per_row(of_targets), of_rows)


def test_row_numbers_beyond_32_bits():
    rows, targets = torch.tensor([2**44, 3, 2**44, 3]), torch.tensor([262_143, 7, 0, 7])
    plan = make_plan(rows, targets)
    assert plan.rows.tolist() == [3, 2**44]
    assert plan.targets.start.tolist() == [0, 1, 3]
    assert plan.targets.token.tolist() == [7, 0, 262_143] and plan.index.tolist() == [2, 0, 1, 0]


@pytest.mark.parametrize(
    ("rows", "waits"),
    [([0, 1, 4, 4], 1), ([0, 4, 1, 4], 2), ([], 0)],
    ids=["sorted", "not", "none"],
)
def test_waits(rows, waits, monkeypatch):
    """A survey waits once, nothing else waits; a survey made before is not made again."""
    made = []
    monkeypatch.setattr(row_plan, "survey", lambda *given: (made.append(1), survey(*given))[1])
    targets = torch.arange(len(rows))
    make_plan(torch.tensor(rows, dtype=torch.int64), targets)
    assert len(made) == waits
    if rows:
        made.clear()
        make_plan(torch.tensor(rows), targets, survey(torch.tensor(rows), targets))
        assert len(made) == waits - 1


def test_survey():
    known = survey(torch.tensor([1, 1, 5]), torch.tensor([2, 2, 0]), torch.tensor([1.0, 0.0]))
    assert known == ((1, 5), (0, 2), False, True, 2, 2)
