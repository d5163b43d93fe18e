"""Pictures that replicas draw: what is told of them, how they end, and that they are drawn again where one is lost."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imagegen_core import GenerateRequest, errors
from imagegen_core.cluster import models as cluster_models
from imagegen_core.cluster.replica import Replica
from imagegen_core.cluster.serialization import portable_error
from imagegen_core.engine import Ticket
from imagegen_core.errors import (
    DeadlineError,
    EngineClosedError,
    ImagegenError,
    InvalidRequestError,
    NotReadyError,
    QueueFullError,
)
from imagegen_core.hosting.model_host import LoadFailedError
from imagegen_core.job import Cancelled, Done, Queued, Started, StepDone
from imagegen_core.request import ResolvedRequest
from tests.cluster.conftest import LIMIT, NODES, Deployed, pytestmark
from tests.cluster.scripted import Trouble, picture_of

__all__ = ["pytestmark"]

LONG = 150  # steps


@pytest.fixture(scope="module")
def two(deploy: Callable[..., Any]) -> Iterator[Deployed]:
    with deploy(queue_max=40) as deployed:
        yield deployed


def drawn(seed: int) -> bytes:
    return picture_of(ResolvedRequest.of(GenerateRequest(prompt="", seed=seed), native_size="8x8")).png


def test_a_picture_and_its_story_cross_the_wire(two: Deployed) -> None:
    ticket = two.submit(seed=7)
    assert ticket.result(LIMIT).png == drawn(7)
    events = [event for event in ticket.events if not isinstance(event, Queued)]
    assert events == [Started(), *(StepDone(step, 4) for step in range(1, 5)), Done(ticket.result())]


def test_a_request_without_a_seed_gets_one(two: Deployed) -> None:
    seeds = {picture.seed for picture in (two.submit().result(LIMIT) for _ in range(3))}
    assert len(seeds) == 3
    assert two.submit(seed=(seed := seeds.pop())).result(LIMIT).png == drawn(seed)


def test_all_replicas_draw_and_are_on_all_nodes(two: Deployed) -> None:
    tickets = [two.submit(seed=seed, num_inference_steps=20) for seed in range(30)]  # more than one may have at once
    assert [ticket.result(LIMIT).png for ticket in tickets] == [drawn(seed) for seed in range(30)]
    two.until(lambda hosts: all(host.engine and host.engine.finished for host in hosts) and len(hosts) == 2)
    assert len({one.parent().pid for one in two.processes()}) == NODES


def test_an_impossible_request_is_refused_at_once_and_one_that_fails_there_says_why(two: Deployed) -> None:
    with pytest.raises(InvalidRequestError, match="^Invalid size '12by7'") as caught:
        two.submit(size="12by7")
    assert caught.value.field == "size"
    with pytest.raises(RuntimeError, match="^Trouble: something broke$"):
        two.submit(prompt="trouble").result(LIMIT)


def test_cancelling_reaches_the_replica(two: Deployed) -> None:
    before = sum(host.engine.cancelled for host in two.models.hosts() if host.engine)
    ticket = two.submit(num_inference_steps=10 * LONG)
    next(event for event in ticket.events if isinstance(event, StepDone))
    assert ticket.cancel()
    with pytest.raises(CancelledError):
        ticket.result(LIMIT)
    assert isinstance([*ticket.events][-1], Cancelled)
    two.until(
        lambda hosts: (
            sum(host.engine.cancelled for host in hosts if host.engine) == before + 1
            and not any(host.engine.running for host in hosts if host.engine)
        )
    )


def test_a_deadline_holds_across_the_wire(two: Deployed) -> None:
    ticket = two.submit(num_inference_steps=10 * LONG, deadline=0.5)
    with pytest.raises(DeadlineError, match=r"^The picture was not done 0\.5 s after it was asked for"):
        ticket.result(LIMIT)
    two.until(lambda hosts: not any(host.engine.running for host in hosts if host.engine))


def test_a_full_queue_refuses(two: Deployed) -> None:
    tickets: list[Ticket] = []
    with pytest.raises(QueueFullError, match="^40 requests wait already") as caught:
        _fill(two, tickets)
    assert caught.value.retry_after > 0
    report = two.models.report()
    assert report is not None
    assert report.waiting + report.running == len(tickets)
    for ticket in tickets:
        ticket.cancel()
    two.until(lambda hosts: not any(host.engine.running for host in hosts if host.engine))


def _fill(deployed: Deployed, tickets: list[Ticket]) -> None:
    while True:
        tickets.append(deployed.submit(num_inference_steps=LONG))


def test_a_killed_replicas_pictures_are_drawn_elsewhere(two: Deployed, tmp_path: Path) -> None:
    fatal = two.submit(prompt=f"kill {(killed := tmp_path / 'killed')}", seed=20, num_inference_steps=LONG)
    others = [two.submit(seed=seed, num_inference_steps=20) for seed in range(20)]
    assert [ticket.result(LIMIT).png for ticket in (*others, fatal)] == [drawn(seed) for seed in range(21)]
    begun = [Started(), *(StepDone(step, LONG) for step in range(1, LONG + 1))]
    told = [event for event in fatal.events if not isinstance(event, Queued | Done)]
    assert told[-len(begun) :] == begun
    assert told[: -len(begun)] == begun[: len(told) - len(begun)]
    assert len(told) > len(begun)
    two.until(lambda hosts: len(hosts) == 2)
    assert int(killed.read_text()) not in {one.pid for one in two.processes()}


def test_a_replica_whose_engine_breaks_makes_another(two: Deployed, tmp_path: Path) -> None:
    before = {host.name for host in two.models.hosts()}
    assert two.submit(prompt=f"break {tmp_path / 'once'}", seed=3).result(LIMIT).png == drawn(3)
    hosts = two.until(lambda hosts: sorted(host.loads for host in hosts) == [1, 2])
    assert {host.name for host in hosts} == before


def test_a_request_that_kills_whoever_draws_it_is_given_up(two: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_models, "ATTEMPTS", 2)
    with pytest.raises(ImagegenError, match="^2 replicas were lost, one after another, while they drew this picture"):
        two.submit(prompt="die").result(LIMIT)
    assert two.submit(seed=5).result(LIMIT).png == drawn(5)
    two.until(lambda hosts: len(hosts) == 2)


def test_what_does_not_load_says_so(two: Deployed, deploy: Callable[..., Any]) -> None:
    with (
        pytest.raises(NotReadyError, match="^No replica can start: The model could not be loaded: Trouble: this model"),
        deploy(model="broken"),
    ):
        pass


def test_an_end_gives_up_what_is_open(deploy: Callable[..., Any]) -> None:
    with deploy(replicas=1) as one:
        ticket = one.submit(num_inference_steps=10 * LONG)
        next(event for event in ticket.events if isinstance(event, StepDone))
    with pytest.raises(EngineClosedError):
        ticket.result(LIMIT)
    with pytest.raises(EngineClosedError):
        one.submit()


def test_a_replica_whose_step_hangs_is_not_well() -> None:
    replica: Any = object.__new__(Replica)
    replica._broken, replica._models = "", SimpleNamespace(report=lambda: SimpleNamespace(stuck=0.0))
    asyncio.run(replica.check_health())
    replica._models = SimpleNamespace(report=lambda: SimpleNamespace(stuck=3.0))
    with pytest.raises(RuntimeError, match="^A step has been running for 3 s longer than it may"):
        asyncio.run(replica.check_health())


def test_a_replica_whose_engine_broke_is_well_while_its_model_is_there_or_comes() -> None:
    replica: Any = object.__new__(Replica)
    hosts = [SimpleNamespace(entries=["loading"])]
    replica._broken, replica._models = "The engine broke", SimpleNamespace(report=lambda: None, hosts=lambda: hosts)
    asyncio.run(replica.check_health())
    hosts[0].entries.clear()
    with pytest.raises(RuntimeError, match="^The engine broke$"):
        asyncio.run(replica.check_health())


def test_errors_cross_as_what_the_other_side_can_read() -> None:
    class PluginsOwnError(InvalidRequestError):
        def __init__(self) -> None:
            super().__init__("no such thing", "prompt")

    sent = [PluginsOwnError(), QueueFullError("full", 3.0), LoadFailedError("The model", "gone"), Trouble("broke")]
    read = [pickle.loads(pickle.dumps(portable_error(error))) for error in sent]
    assert [type(error) for error in read] == [InvalidRequestError, QueueFullError, NotReadyError, RuntimeError]
    assert [str(error) for error in read] == [
        "no such thing",
        "full",
        "The model could not be loaded: gone",
        "Trouble: broke",
    ]
    assert (read[0].field, read[1].retry_after) == ("prompt", 3.0)
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, ImagegenError) and kind is not QueueFullError:
            assert str(pickle.loads(pickle.dumps(kind("said")))) == "said"
