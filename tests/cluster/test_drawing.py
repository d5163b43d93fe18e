"""Drawing by replicas: events, refusals and cancellation, and a new attempt after the loss of a replica."""

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
from tests.repetitions import FACTOR

__all__ = ["pytestmark"]

LONG = 150  # steps


@pytest.fixture(scope="module")
def deployed(deploy: Callable[..., Any]) -> Iterator[Deployed]:
    with deploy(queue_max=40) as deployed:
        yield deployed


def drawn(seed: int) -> bytes:
    return picture_of(ResolvedRequest.of(GenerateRequest(prompt="", seed=seed), native_size="8x8")).png


def test_a_replicas_picture_and_events_arrive(deployed: Deployed) -> None:
    ticket = deployed.submit(seed=7)
    assert ticket.result(LIMIT).png == drawn(7)
    events = [event for event in ticket.events if not isinstance(event, Queued)]
    assert events == [Started(), *(StepDone(step, 4) for step in range(1, 5)), Done(ticket.result())]


def test_a_request_without_a_seed_gets_a_random_seed(deployed: Deployed) -> None:
    seeds = {picture.seed for picture in (deployed.submit().result(LIMIT) for _ in range(3))}
    assert len(seeds) == 3
    assert deployed.submit(seed=(seed := seeds.pop())).result(LIMIT).png == drawn(seed)


def test_all_replicas_draw_and_run_on_all_nodes(deployed: Deployed) -> None:
    tickets = [deployed.submit(seed=seed, num_inference_steps=20) for seed in range(30)]  # more than a replica may draw
    assert [ticket.result(LIMIT).png for ticket in tickets] == [drawn(seed) for seed in range(30)]
    deployed.until(lambda hosts: all(host.engine and host.engine.finished for host in hosts) and len(hosts) == 2)
    assert len({process.parent().pid for process in deployed.processes()}) == NODES


def test_invalid_and_failing_requests_give_the_reason(deployed: Deployed) -> None:
    with pytest.raises(InvalidRequestError, match="^Invalid size '12by7'") as caught:
        deployed.submit(size="12by7")
    assert caught.value.field == "size"
    with pytest.raises(RuntimeError, match="^Trouble: something broke$"):
        deployed.submit(prompt="trouble").result(LIMIT)


def test_cancelling_reaches_the_replica(deployed: Deployed) -> None:
    before = sum(host.engine.cancelled for host in deployed.models.hosts() if host.engine)
    ticket = deployed.submit(num_inference_steps=10 * LONG)
    next(event for event in ticket.events if isinstance(event, StepDone))
    assert ticket.cancel()
    with pytest.raises(CancelledError):
        ticket.result(LIMIT)
    assert isinstance([*ticket.events][-1], Cancelled)
    deployed.until(
        lambda hosts: (
            sum(host.engine.cancelled for host in hosts if host.engine) == before + 1
            and not any(host.engine.running for host in hosts if host.engine)
        )
    )


def test_a_deadline_applies_on_the_replica(deployed: Deployed) -> None:
    ticket = deployed.submit(num_inference_steps=10 * LONG, deadline=0.5)
    with pytest.raises(DeadlineError, match=r"^The picture was not done 0\.5 s after it was asked for"):
        ticket.result(LIMIT)
    deployed.until(lambda hosts: not any(host.engine.running for host in hosts if host.engine))


def test_a_full_queue_refuses_requests(deployed: Deployed) -> None:
    tickets: list[Ticket] = []
    with pytest.raises(QueueFullError, match="^40 requests wait already") as caught:
        _fill(deployed, tickets)
    assert caught.value.retry_after > 0
    report = deployed.models.report()
    assert report is not None
    assert report.waiting + report.running == len(tickets)
    for ticket in tickets:
        ticket.cancel()
    deployed.until(lambda hosts: not any(host.engine.running for host in hosts if host.engine))


def _fill(deployed: Deployed, tickets: list[Ticket]) -> None:
    while True:
        tickets.append(deployed.submit(num_inference_steps=LONG))


@pytest.mark.parametrize("_kill", range(FACTOR))
def test_another_replica_draws_a_killed_replicas_pictures(deployed: Deployed, tmp_path: Path, _kill: int) -> None:
    fatal = deployed.submit(prompt=f"kill {(killed := tmp_path / 'killed')}", seed=20, num_inference_steps=LONG)
    others = [deployed.submit(seed=seed, num_inference_steps=20) for seed in range(20)]
    assert [ticket.result(LIMIT).png for ticket in (*others, fatal)] == [drawn(seed) for seed in range(21)]
    attempt = [Started(), *(StepDone(step, LONG) for step in range(1, LONG + 1))]
    events = [event for event in fatal.events if not isinstance(event, Queued | Done)]
    assert events[-len(attempt) :] == attempt
    assert events[: -len(attempt)] == attempt[: len(events) - len(attempt)]
    assert len(events) > len(attempt)
    deployed.until(lambda hosts: len(hosts) == 2)
    assert int(killed.read_text()) not in {process.pid for process in deployed.processes()}


def test_a_replica_replaces_a_broken_engine(deployed: Deployed, tmp_path: Path) -> None:
    before = {host.name for host in deployed.models.hosts()}
    assert deployed.submit(prompt=f"break {tmp_path / 'once'}", seed=3).result(LIMIT).png == drawn(3)
    hosts = deployed.until(lambda hosts: sorted(host.loads for host in hosts) == [1, 2])
    assert {host.name for host in hosts} == before


def test_a_request_that_kills_its_replicas_is_given_up(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_models, "ATTEMPTS", 2)
    with pytest.raises(ImagegenError, match="^2 replicas were lost, one after another, while they drew this picture"):
        deployed.submit(prompt="die").result(LIMIT)
    assert deployed.submit(seed=5).result(LIMIT).png == drawn(5)
    deployed.until(lambda hosts: len(hosts) == 2)


def test_a_model_that_does_not_load_gives_the_reason(deployed: Deployed, deploy: Callable[..., Any]) -> None:
    with (
        pytest.raises(NotReadyError, match="^No replica can start: The model could not be loaded: Trouble: this model"),
        deploy(model="broken"),
    ):
        pass


def test_closing_fails_open_requests(deploy: Callable[..., Any]) -> None:
    with deploy(replicas=1) as deployed:
        ticket = deployed.submit(num_inference_steps=10 * LONG)
        next(event for event in ticket.events if isinstance(event, StepDone))
    with pytest.raises(EngineClosedError):
        ticket.result(LIMIT)
    with pytest.raises(EngineClosedError):
        deployed.submit()


def test_a_replica_with_a_hanging_step_is_unhealthy() -> None:
    replica: Any = object.__new__(Replica)
    replica._broken, replica._refused = "", {}
    replica._models = SimpleNamespace(report=lambda: SimpleNamespace(stuck=0.0))
    asyncio.run(replica.check_health())
    replica._models = SimpleNamespace(report=lambda: SimpleNamespace(stuck=3.0))
    with pytest.raises(RuntimeError, match="^A step has been running for 3 s longer than it may"):
        asyncio.run(replica.check_health())


def test_a_replica_with_a_broken_engine_is_healthy_while_it_has_a_model() -> None:
    replica: Any = object.__new__(Replica)
    hosts = [SimpleNamespace(entries=["loading"])]
    replica._refused = {}
    replica._broken, replica._models = "The engine broke", SimpleNamespace(report=lambda: None, hosts=lambda: hosts)
    asyncio.run(replica.check_health())
    hosts[0].entries.clear()
    with pytest.raises(RuntimeError, match="^The engine broke$"):
        asyncio.run(replica.check_health())


def test_errors_reach_the_other_process_as_known_classes() -> None:
    class PluginsOwnError(InvalidRequestError):
        def __init__(self) -> None:
            super().__init__("no such thing", "prompt")

    sent = [PluginsOwnError(), QueueFullError("full", 3.0), LoadFailedError("The model", "gone"), Trouble("broke")]
    received = [pickle.loads(pickle.dumps(portable_error(error))) for error in sent]
    assert [type(error) for error in received] == [InvalidRequestError, QueueFullError, NotReadyError, RuntimeError]
    assert [str(error) for error in received] == [
        "no such thing",
        "full",
        "The model could not be loaded: gone",
        "Trouble: broke",
    ]
    assert (received[0].field, received[1].retry_after) == ("prompt", 3.0)
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, ImagegenError) and kind is not QueueFullError:
            assert str(pickle.loads(pickle.dumps(kind("said")))) == "said"
