"""Whose turn it is."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as some

from imagegen_core.engine.batch_scheduler import ActiveJob, BatchScheduler, Group
from imagegen_core.engine.batch_size import BatchSize


def _job(name: str, steps: int = 10, since: float = 0.0, priority: int = 0) -> ActiveJob:
    ticket: Any = SimpleNamespace(name=name, since=since, priority=priority)
    return ActiveJob(ticket, SimpleNamespace(steps_left=steps, rows=1))


def _serve(turns: BatchScheduler, costs: dict[str, float], seconds: float) -> Counter[str]:
    """Let groups step for a while; the seconds that each got."""
    got: Counter[str] = Counter()
    while sum(got.values()) < seconds:
        group = turns.next()
        assert group is not None
        cost = costs[str(group.key)]
        group.size.timed(1, cost)
        group.deficit -= cost
        got[str(group.key)] += cost  # type: ignore[assignment]
    return got


@given(costs=some.dictionaries(some.sampled_from("abcdef"), some.floats(0.01, 5), min_size=1))
def test_groups_share_the_devices_time_alike(costs: dict[str, float]) -> None:
    turns = BatchScheduler()
    for key in costs:
        turns.join(_job(key), key, BatchSize(exact=False))
    got = _serve(turns, costs, seconds=400 * max(costs.values()))
    fair = sum(got.values()) / len(costs)
    assert set(got) == set(costs)
    assert all(abs(seconds - fair) < 4 * max(costs.values()) * len(costs) for seconds in got.values())


def test_the_number_of_jobs_does_not_count() -> None:
    turns = BatchScheduler()
    turns.join(_job("one"), "few", BatchSize(exact=False))
    for number in range(30):
        turns.join(_job(f"other {number}"), "many", BatchSize(exact=False))
    got = _serve(turns, {"few": 1.0, "many": 1.0}, seconds=100)
    assert abs(got["few"] - got["many"]) <= 4


def test_an_empty_group_is_gone() -> None:
    turns = BatchScheduler()
    job = _job("a")
    turns.join(job, "a", BatchSize(exact=False))
    (group,) = turns.groups()
    turns.leave(group, [job])
    assert turns.next() is None
    assert turns.count == 0


def _order(*jobs: ActiveJob, now: float) -> list[str]:
    group = Group("g", BatchSize(exact=False), list(jobs))
    group.batch(now)
    return [one.ticket.name for one in group.members]  # type: ignore[attr-defined]


def test_a_short_job_is_let_by_and_a_long_one_is_not_forgotten() -> None:
    assert _order(_job("long", steps=30, since=9.9), _job("short", steps=4, since=9.95), now=10) == ["short", "long"]
    assert _order(_job("long", steps=30, since=0), _job("short", steps=4, since=9.5), now=10) == ["long", "short"]


def test_who_has_begun_goes_on_before_who_comes_later() -> None:
    assert _order(_job("begun", steps=3, since=0), _job("new", steps=4, since=0.5), now=1) == ["begun", "new"]


def test_priority_comes_first() -> None:
    assert _order(_job("old", since=0), _job("urgent", since=9.9, priority=1), now=10) == ["urgent", "old"]
