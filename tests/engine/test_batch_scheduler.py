"""Which group steps next, and which of its jobs."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from imagegen_core.engine.batch_scheduler import ActiveJob, BatchScheduler, Group
from imagegen_core.engine.batch_size import BatchSize


def _job(name: str, steps: int = 10, since: float = 0.0, priority: int = 0) -> ActiveJob:
    ticket: Any = SimpleNamespace(name=name, since=since, priority=priority)
    job = ActiveJob(ticket)
    job.state = SimpleNamespace(steps_left=steps, rows=1, failure=None)
    return job


def _serve(scheduler: BatchScheduler, costs: dict[str, float], seconds: float) -> Counter[str]:
    """Step groups for `seconds`, and return the seconds that each group used."""
    used: Counter[str] = Counter()
    while sum(used.values()) < seconds:
        group = scheduler.next()
        assert group is not None
        cost = costs[str(group.key)]
        group.size.timed(1, cost)
        group.deficit -= cost
        used[str(group.key)] += cost  # type: ignore[assignment]
    return used


@given(costs=st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 5), min_size=1))
def test_groups_share_the_device_time_equally(costs: dict[str, float]) -> None:
    scheduler = BatchScheduler()
    for key in costs:
        scheduler.join(_job(key), key, BatchSize(exact=False))
    used = _serve(scheduler, costs, seconds=400 * max(costs.values()))
    fair = sum(used.values()) / len(costs)
    assert set(used) == set(costs)
    assert all(abs(seconds - fair) < 4 * max(costs.values()) * len(costs) for seconds in used.values())


def test_a_groups_share_does_not_depend_on_its_number_of_jobs() -> None:
    scheduler = BatchScheduler()
    scheduler.join(_job("one"), "few", BatchSize(exact=False))
    for number in range(30):
        scheduler.join(_job(f"other {number}"), "many", BatchSize(exact=False))
    used = _serve(scheduler, {"few": 1.0, "many": 1.0}, seconds=100)
    assert abs(used["few"] - used["many"]) <= 4


def test_an_empty_group_is_removed() -> None:
    scheduler = BatchScheduler()
    job = _job("a")
    scheduler.join(job, "a", BatchSize(exact=False))
    (group,) = scheduler.groups()
    scheduler.leave(group, [job])
    assert scheduler.next() is None
    assert scheduler.count == 0


def _order(*jobs: ActiveJob, now: float) -> list[str]:
    group = Group("g", BatchSize(exact=False), list(jobs))
    group.batch(now)
    return [job.ticket.name for job in group.members]  # type: ignore[attr-defined]


def test_a_short_job_overtakes_a_new_long_job_but_not_an_old_long_job() -> None:
    assert _order(_job("long", steps=30, since=9.9), _job("short", steps=4, since=9.95), now=10) == ["short", "long"]
    assert _order(_job("long", steps=30, since=0), _job("short", steps=4, since=9.5), now=10) == ["long", "short"]


def test_a_begun_job_precedes_a_later_job() -> None:
    assert _order(_job("begun", steps=3, since=0), _job("new", steps=4, since=0.5), now=1) == ["begun", "new"]


def test_priority_comes_first() -> None:
    assert _order(_job("old", since=0), _job("urgent", since=9.9, priority=1), now=10) == ["urgent", "old"]
