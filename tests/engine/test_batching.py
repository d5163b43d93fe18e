"""How many rows share a forward pass."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from imagegen_core.engine.batch_size import LARGEST, BatchSize

Cost = Callable[[int], float]


def _settle(
    size: BatchSize, cost: Cost, waiting: list[int], steps: int = 60, same: Callable[[int], bool] | None = None
) -> None:
    """Choose and time batches repeatedly, while jobs of `waiting` rows always wait."""
    for _ in range(steps):
        count = size.choose(waiting)
        rows = sum(waiting[:count])
        if size.needs_trial(rows, count):
            size.tried(rows, same=same is None or same(rows))
        else:
            size.timed(rows, cost(rows))


def _free(rows: int) -> float:
    """Return the cost on a device that takes the same time for any number of rows."""
    return 1.0


def _full(rows: int) -> float:
    """Return the cost on a device that a single row keeps busy."""
    return float(rows)


def test_free_rows_are_batched_up_to_the_largest_size() -> None:
    size = BatchSize(exact=True)
    _settle(size, _free, [1] * 20)
    assert size.rows == LARGEST
    assert size.choose([1] * 20) == LARGEST
    assert size.choose([1] * 5) == 4


def test_rows_are_not_batched_if_one_row_fills_the_device() -> None:
    size = BatchSize(exact=True)
    _settle(size, _full, [1] * 20)
    assert size.rows == 1
    assert size.choose([1] * 20) == 1


def test_the_batch_stops_growing_where_it_no_longer_pays() -> None:
    size = BatchSize(exact=False)
    _settle(size, lambda rows: max(4, rows) / 10, [1] * 20)
    assert size.rows == 4


def test_a_step_of_seconds_is_not_proven_for_more_rows() -> None:
    size = BatchSize(exact=True)
    _settle(size, lambda _: 3.0, [1] * 20)
    assert (size.rows, size.proven) == (1, set())


def test_larger_batches_are_measured_again_later() -> None:
    size = BatchSize(exact=False)
    _settle(size, _full, [1] * 20)
    _settle(size, _free, [1] * 20, steps=2000)
    assert size.rows > 1


def test_pairs_of_rows_are_batched_too() -> None:
    size = BatchSize(exact=True)
    _settle(size, _free, [2] * 20)
    assert size.choose([2] * 20) == LARGEST // 2


def test_sizes_that_ran_out_of_memory_are_tried_again_later() -> None:
    size = BatchSize(exact=False, fits=8)
    _settle(size, _free, [1] * 20)
    assert size.rows == 8
    size.halve(8)
    size.halve(4)
    _settle(size, _free, [1] * 20, steps=400)
    assert size.rows == 2
    _settle(size, _free, [1] * 20, steps=400)
    assert size.rows == 8


def test_memory_limits_the_batch() -> None:
    size = BatchSize(exact=False, fits=5)
    _settle(size, _free, [1] * 20)
    assert size.choose([1] * 20) <= 5
    size.halve(4)
    assert size.choose([1] * 20) <= 2
    size.halve(1)
    assert size.choose([2] * 3) == 1


def test_freed_memory_is_used_again() -> None:
    size = BatchSize(exact=False)
    _settle(size, _free, [1] * 20)
    size.fits_now = 2
    assert size.choose([1] * 20) == 2
    size.fits_now = LARGEST
    assert size.choose([1] * 20) == LARGEST


def test_sizes_with_different_results_are_not_used() -> None:
    size = BatchSize(exact=True)
    _settle(size, _free, [1] * 20, same=lambda rows: rows <= 3)
    assert size.rows == 3
    assert min(size.refused) == 4
    assert size.choose([1] * 20) == 3


@given(
    waiting=st.lists(st.sampled_from([1, 2]), min_size=1, max_size=20),
    best=st.integers(1, LARGEST),
    bad=st.sets(st.integers(2, LARGEST)),
    fits=st.integers(1, LARGEST),
)
def test_only_proven_sizes_are_stepped_and_at_least_one_job_always_is(
    waiting: list[int], best: int, bad: set[int], fits: int
) -> None:
    size = BatchSize(exact=True, fits=fits)
    for _ in range(80):
        count = size.choose(waiting)
        rows = sum(waiting[:count])
        assert 1 <= count <= len(waiting)
        assert count == 1 or rows <= fits
        if size.needs_trial(rows, count):
            size.tried(rows, same=rows not in bad)
        else:
            assert count == 1 or rows not in bad
            size.timed(rows, max(1.0, rows / best))
