"""Each begun state ends in `finish` or in `dropped`, whatever happens to its job."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import CancelledError
from typing import Any

import pytest

from imagegen_core import DeadlineError, Job, LocalEngine, Picture, StepDone, SteppedWorkerBase
from tests.engine.conftest import StartEngine, ask
from tests.engine.faults import Gate
from tests.waiting import until


class Place:
    """The state of a job at a remote service."""

    rows = 1

    def __init__(self, job: Job) -> None:
        self.job, self.steps_left, self.failure = job, job.req.num_inference_steps, None

    failure: Exception | None


class Remote(SteppedWorkerBase[Place]):
    """A worker that holds a place at a service for each state; `gate` holds its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()
        self.held: list[Place] = []
        self.dropped_prompts: list[str] = []

    def begin(self, job: Job) -> Place:
        self.held.append(Place(job))
        return self.held[-1]

    def group(self, state: Place) -> Hashable:
        if state.job.req.prompt == "ungrouped":
            raise ZeroDivisionError
        return "all"

    def step(self, states: Sequence[Place]) -> None:
        self.gate()
        for state in states:
            if state.job.req.prompt == "failing":
                state.failure = ZeroDivisionError()
            state.steps_left -= 1

    def finish(self, state: Place) -> Callable[[], Picture]:
        if state.job.req.prompt == "unfinished":
            raise ZeroDivisionError
        self.held.remove(state)
        return lambda: Picture(b"", 0, b"")

    def dropped(self, state: Place) -> None:
        self.held.remove(state)
        self.dropped_prompts.append(state.job.req.prompt)
        if state.job.req.prompt == "stubborn":
            raise OSError("the service is gone")


def test_calibration_leaves_no_state_behind(start: StartEngine) -> None:
    worker = Remote()
    start(worker)
    assert not worker.held


@pytest.mark.parametrize("prompt", ["failing", "unfinished", "ungrouped"])
def test_the_state_of_a_failed_job_is_dropped(start: StartEngine, prompt: str) -> None:
    worker = Remote()
    engine = start(worker)
    worker.dropped_prompts.clear()
    with pytest.raises(ZeroDivisionError):
        engine.submit(ask(prompt)).result(60)
    assert engine.submit(ask("good")).result(60)
    until(lambda: not worker.held)
    assert worker.dropped_prompts == [prompt]


def test_the_states_of_cancelled_and_late_jobs_are_dropped(start: StartEngine) -> None:
    worker = Remote()
    engine = start(worker)
    worker.dropped_prompts.clear()
    worker.gate.shut()
    leaving = engine.submit(ask("leaving", num_inference_steps=50))
    assert worker.gate.reached.wait(60)
    leaving.cancel()
    worker.gate.open()
    until(lambda: worker.dropped_prompts == ["leaving"])
    worker.gate.shut()
    late = engine.submit(ask("late", num_inference_steps=50), deadline=0.05)
    with pytest.raises((DeadlineError, CancelledError)):
        late.result(60)
    worker.gate.open()
    until(lambda: not worker.held)


def test_the_state_of_a_job_cancelled_during_its_beginning_is_dropped(start: StartEngine) -> None:
    class Cancelling(Remote):
        def begin(self, job: Job) -> Place:
            state = super().begin(job)
            job.fut.cancel()
            return state

    worker = Cancelling()
    engine = start(worker)
    with pytest.raises(CancelledError):
        engine.submit(ask("leaving")).result(60)
    until(lambda: worker.dropped_prompts[-1:] == ["leaving"] and not worker.held)


def test_a_closed_engine_has_dropped_its_states() -> None:
    worker = Remote()
    engine = LocalEngine(worker)
    worker.gate.shut()
    tickets = [engine.submit(ask(num_inference_steps=50)) for _ in range(3)]
    assert worker.gate.reached.wait(60)
    for ticket in tickets:
        ticket.cancel()
    worker.gate.open()
    engine.close(drain=False)
    assert not worker.held


def test_an_error_of_dropped_is_logged_and_changes_nothing_else(
    start: StartEngine, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Remote()
    engine = start(worker)
    worker.gate.shut()
    leaving = engine.submit(ask("stubborn", num_inference_steps=50))
    assert worker.gate.reached.wait(60)
    leaving.cancel()
    worker.gate.open()
    assert engine.submit(ask("good")).result(60)
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == [
        "Remote failed to release a state"
    ]


def test_a_whole_job_drops_its_state_when_it_fails() -> None:
    worker = Remote()
    for prompt in ("failing", "unfinished"):
        with pytest.raises(ZeroDivisionError):
            worker.run_job(Job(req=ask(prompt)))
    assert worker.run_job(Job(req=ask("good"))) == (b"", 0)
    assert (worker.held, worker.dropped_prompts) == ([], ["failing", "unfinished"])


def test_a_worker_without_dropped_needs_none(start: StartEngine, worker: Any) -> None:
    ticket = start(worker).submit(ask(num_inference_steps=50))
    next(event for event in ticket.events if isinstance(event, StepDone))
    ticket.cancel()
    assert ticket.done
