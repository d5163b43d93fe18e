"""The engine's behaviour for clients: pictures, events, queue places, cancelling, deadlines and closing."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import CancelledError
from types import SimpleNamespace
from typing import Any

import pytest

from imagegen_core import (
    Cancelled,
    DeadlineError,
    Done,
    EngineClosedError,
    Failed,
    InvalidRequestError,
    Job,
    LocalEngine,
    Picture,
    Queued,
    QueueFullError,
    Started,
    StepDone,
)
from tests.engine.conftest import StartEngine, ask
from tests.engine.faults import Gate, Watched


def _alone(worker: Any, request: Any) -> Picture:
    return Picture(*worker.run_job_with_latents(Job(req=request)))


def test_a_ticket_returns_the_workers_picture(worker: Any, start: StartEngine) -> None:
    request = ask(num_inference_steps=3)
    ticket = start(worker).submit(request)
    assert ticket.result(60) == _alone(worker, request)
    assert ticket.job.fut.result() == worker.run_job(Job(req=request))
    assert ticket.done
    assert not ticket.cancel()


def test_every_listener_gets_all_events_of_a_job(worker: Any, start: StartEngine) -> None:
    ticket = start(worker).submit(ask(num_inference_steps=2))
    events = list(ticket.events)
    assert events == [Queued(1), Started(), StepDone(1, 2), StepDone(2, 2), Done(ticket.result())]
    assert list(ticket.events) == events


def test_coroutines_await_tickets_and_follow_their_events(worker: Any, start: StartEngine) -> None:
    engine = start(worker)

    async def follow() -> None:
        tickets = [engine.submit(ask(seed=seed)) for seed in range(3)]
        assert [event async for event in tickets[1].events][-1] == Done(await tickets[1])
        pictures = await asyncio.gather(*tickets)
        assert pictures == [_alone(worker, ask(seed=seed)) for seed in range(3)]

    asyncio.run(follow())


def test_cancelling_the_awaiting_task_cancels_the_job(worker: Any, start: StartEngine) -> None:
    gate = Gate()
    engine = start(Watched(worker, step=gate))
    gate.shut()

    async def give_up() -> Any:
        ticket = engine.submit(ask())
        task = asyncio.ensure_future(ticket)
        await asyncio.to_thread(gate.reached.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return ticket

    ticket = asyncio.run(give_up())
    gate.open()
    assert list(ticket.events)[-1] == Cancelled()


@pytest.mark.parametrize("stage", ["begin", "step", "finish"])
def test_a_job_is_cancelled_at_any_stage_and_the_others_are_drawn(worker: Any, start: StartEngine, stage: str) -> None:
    gate = Gate()
    watched = Watched(worker, **{stage: gate})
    engine = start(watched)
    gate.shut()
    tickets = [engine.submit(ask(seed=seed)) for seed in (1, 2)]
    assert gate.reached.wait(60)
    before = len(watched.batches)
    assert tickets[0].cancel()
    with pytest.raises(CancelledError):
        tickets[0].result(0)
    gate.open()
    assert tickets[1].result(60) == _alone(worker, ask(seed=2))
    assert sum(1 in batch for batch in watched.batches[before:]) <= 1
    assert [list(ticket.events)[-1] for ticket in tickets] == [Cancelled(), Done(tickets[1].result())]
    report = engine.report()
    assert (report.cancelled, report.finished, report.running) == (1, 1, 0)


def test_a_cancelled_job_leaves_the_queue_at_once(worker: Any, start: StartEngine) -> None:
    gate = Gate()
    engine = start(Watched(worker, begin=gate))
    gate.shut()
    first = engine.submit(ask())
    assert gate.reached.wait(60)
    second, third = engine.submit(ask(seed=2)), engine.submit(ask(seed=3))
    second.cancel()
    assert engine.report().waiting == 1
    gate.open()
    assert list(third.events)[:2] == [Queued(2), Queued(1)]
    assert first.result(60)
    assert list(second.events) == [Queued(1), Cancelled()]


@pytest.mark.parametrize("stage", ["begin", "step"])
def test_a_picture_fails_after_its_deadline(worker: Any, start: StartEngine, stage: str) -> None:
    gate = Gate()
    engine = start(Watched(worker, **{stage: gate}))
    gate.shut()
    late, patient = engine.submit(ask(), deadline=0.05), engine.submit(ask(seed=2), deadline=600)
    assert gate.reached.wait(60)
    threading.Event().wait(0.1)  # longer than the deadline
    gate.open()
    with pytest.raises(DeadlineError, match=r"not done 0\.05 s after it was asked for: allow more time"):
        late.result(60)
    assert patient.result(60) == _alone(worker, ask(seed=2))
    assert isinstance(list(late.events)[-1], Failed)


def test_higher_priority_is_served_first(worker: Any, start: StartEngine) -> None:
    gate = Gate()
    watched = Watched(worker, begin=gate)
    engine = start(watched)
    gate.shut()
    engine.submit(ask(seed=100))
    assert gate.reached.wait(60)
    tickets = [engine.submit(ask(seed=seed), priority=priority) for seed, priority in ((1, 0), (2, 5), (3, 5), (4, -1))]
    gate.open()
    places = [[event.place for event in ticket.events if isinstance(event, Queued)] for ticket in tickets]
    assert places == [[1, 2, 3], [1], [2], [4]]


def test_a_full_queue_refuses_at_once_with_a_retry_time(worker: Any, start: StartEngine) -> None:
    gate = Gate()
    engine = start(Watched(worker, begin=gate), queue_limit=2)
    gate.shut()
    engine.submit(ask())
    assert gate.reached.wait(60)
    engine.submit(ask())
    engine.submit(ask())
    with pytest.raises(QueueFullError, match="2 requests wait already: try again in") as caught:
        engine.submit(ask())
    assert caught.value.retry_after > 0
    gate.open()


def test_an_invalid_request_is_refused_before_it_waits(worker: Any, start: StartEngine) -> None:
    engine = start(worker)
    with pytest.raises(InvalidRequestError, match="Invalid size '12by7'"):
        engine.submit(ask(size="12by7"))
    with pytest.raises(InvalidRequestError, match="Unknown style"):
        engine.submit(SimpleNamespace(prompt="a", style_lora=SimpleNamespace(style="gone", level=1))).result(60)
    assert engine.submit(ask()).result(60)


def test_closing_finishes_open_requests(worker: Any) -> None:
    engine = LocalEngine(worker)
    tickets = [engine.submit(ask(seed=seed)) for seed in range(5)]
    engine.close()
    assert all(ticket.result(0) for ticket in tickets)
    with pytest.raises(EngineClosedError, match="closed"):
        engine.submit(ask())
    engine.close()


def test_closing_without_draining_cancels_open_requests(worker: Any) -> None:
    gate = Gate()
    engine = LocalEngine(Watched(worker, step=gate))
    gate.shut()
    tickets = [engine.submit(ask(seed=seed)) for seed in range(8)]
    assert gate.reached.wait(60)
    threading.Timer(0.05, gate.open).start()
    engine.close(drain=False)
    for ticket in tickets:
        with pytest.raises(CancelledError):
            ticket.result(0)


def test_an_exception_in_the_context_cancels_open_requests(worker: Any) -> None:
    gate = Gate()
    with pytest.raises(KeyError), LocalEngine(Watched(worker, step=gate)) as engine:  # noqa: PT012
        gate.shut()
        ticket = engine.submit(ask(num_inference_steps=50))
        threading.Timer(0.05, gate.open).start()
        raise KeyError
    assert ticket.job.fut.cancelled()


class Plain:
    """A third-party worker without steps."""

    worker_id = 0

    def __init__(self) -> None:
        self.drawn: list[str] = []
        self.gate = Gate()

    def run_job(self, job: Job) -> tuple[bytes, int]:
        return self.run_job_with_latents(job)[:2]

    def run_job_with_latents(self, job: Job) -> tuple[bytes, int, bytes]:
        self.gate()
        if job.req.prompt == "bad":
            raise ZeroDivisionError
        self.drawn.append(job.req.prompt)
        return job.req.prompt.encode(), 7, b"latents"


def test_a_plain_worker_draws_single_jobs_and_cancels_between_them(start: StartEngine) -> None:
    plain = Plain()
    engine = start(plain)
    plain.gate.shut()
    first = engine.submit(ask("one"))
    assert plain.gate.reached.wait(60)
    second, bad, third = engine.submit(ask("two")), engine.submit(ask("bad")), engine.submit(ask("three"))
    second.cancel()
    plain.gate.open()
    assert first.result(60) == Picture(b"one", 7, b"latents")
    assert third.result(60).png == b"three"
    with pytest.raises(ZeroDivisionError):
        bad.result(60)
    assert plain.drawn == ["one", "three"]
    assert "whole jobs" in engine.report().because


def test_many_other_sizes_do_not_displace_the_native_size(worker: Any, start: StartEngine) -> None:
    engine = start(worker)
    native = engine.report().groups[0].kind
    tickets = [engine.submit(ask(size=f"{8 * width}x64", num_inference_steps=1)) for width in range(1, 70)]
    for ticket in tickets:
        ticket.result(60)
    kinds = [group.kind for group in engine.report().groups]
    assert native in kinds
    assert len(kinds) == 64


def test_idle_time_does_not_lengthen_the_retry_time(
    worker: Any, start: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, hour = start(worker, queue_limit=1), 3600.0
    engine.submit(ask()).result(60)
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + hour)
    engine.submit(ask()).result(60)
    assert engine._queue._pace < 60
