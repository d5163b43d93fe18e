"""Workers around an engine with a callback, in the engine: steps, previews, cancelling, deadlines, places."""

from __future__ import annotations

import logging
import time
from concurrent.futures import CancelledError
from types import SimpleNamespace
from typing import Any

import pytest

from imagegen_core import (
    CallbackWorker,
    DeadlineError,
    Done,
    Job,
    JobStoppedError,
    Picture,
    Progress,
    Queued,
    Started,
    StepDone,
)
from imagegen_core.engine.watchdog import Watchdog
from tests.engine.conftest import StartEngine, ask
from tests.engine.faults import Gate


class Sketcher(CallbackWorker):
    """Draws a picture with the bytes of its prompt; `gate` holds it before each report of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()
        self.steps: list[tuple[str, int]] = []
        self.previews = 0

    def draw(self, request: Any, progress: Progress) -> Picture:
        for step in range(1, request.num_inference_steps + 1):
            self.gate()
            self.steps.append((request.prompt, step))
            progress.step_done(step, request.num_inference_steps, self._preview)
        return Picture(request.prompt.encode(), request.seed, b"latents")

    def _preview(self) -> bytes:
        self.previews += 1
        return b"preview"


class CSketcher(Sketcher):
    """Like an engine in C: its callback cannot raise, and it ends with an error or half a picture once it is told."""

    def __init__(self, ending: str) -> None:
        super().__init__()
        self.ending = ending

    def draw(self, request: Any, progress: Progress) -> Picture:
        for step in range(1, request.num_inference_steps + 1):
            self.gate()
            if progress.is_stopped:
                if self.ending == "error":
                    raise OSError("the engine ended with code 7")
                break
            self.steps.append((request.prompt, step))
            progress.step_done(step, request.num_inference_steps)
        return Picture(b"half", request.seed, b"latents")


def test_steps_and_previews_are_events(start: StartEngine) -> None:
    ticket = start(Sketcher(), previews=True).submit(ask("one", num_inference_steps=2))
    previewed = [StepDone(1, 2, b"preview"), StepDone(2, 2, b"preview")]
    assert [*ticket.events] == [Queued(1), Started(), *previewed, Done(Picture(b"one", 1, b"latents"))]


def test_previews_that_nobody_sees_are_not_made(start: StartEngine) -> None:
    worker = Sketcher()
    ticket = start(worker).submit(ask("one", num_inference_steps=2))
    assert [event for event in ticket.events if isinstance(event, StepDone)] == [StepDone(1, 2), StepDone(2, 2)]
    assert not worker.previews


@pytest.mark.parametrize("previews", [True, False])
def test_a_plain_workers_previews_are_shown(start: StartEngine, previews: bool) -> None:
    class Plain:
        worker_id = 0

        def run_job(self, job: Job) -> tuple[bytes, int]:
            return self.run_job_with_latents(job)[:2]

        def run_job_with_latents(self, job: Job) -> tuple[bytes, int, bytes]:
            assert job.on_step is not None
            job.on_step(StepDone(1, 1, b"preview"))
            return b"png", 7, b"latents"

    ticket = start(Plain(), previews=previews).submit(ask())
    [step] = [event for event in ticket.events if isinstance(event, StepDone)]
    assert step.preview == (b"preview" if previews else None)


def test_a_cancelled_picture_ends_at_its_next_step(start: StartEngine, caplog: pytest.LogCaptureFixture) -> None:
    worker = Sketcher()
    engine = start(worker)
    worker.gate.shut()
    leaving = engine.submit(ask("leaving", num_inference_steps=50))
    assert worker.gate.reached.wait(60)
    staying = engine.submit(ask("staying"))
    leaving.cancel()
    worker.gate.open()
    assert staying.result(60).png == b"staying"
    with pytest.raises(CancelledError):
        leaving.result(60)
    assert [step for step in worker.steps if step[0] == "leaving"] == [("leaving", 1)]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_late_picture_ends_at_its_next_step(start: StartEngine) -> None:
    worker = Sketcher()
    engine = start(worker)
    worker.gate.shut()
    late = engine.submit(ask("late", num_inference_steps=50), deadline=0.05)
    with pytest.raises(DeadlineError):
        late.result(60)
    worker.gate.open()
    assert engine.submit(ask("next")).result(60).png == b"next"
    assert len([step for step in worker.steps if step[0] == "late"]) <= 1


@pytest.mark.parametrize("ending", ["error", "half a picture"])
def test_an_engine_that_is_told_to_stop_may_end_in_its_own_way(
    start: StartEngine, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    worker = CSketcher(ending)
    engine = start(worker)
    worker.gate.shut()
    leaving = engine.submit(ask("leaving", num_inference_steps=50))
    assert worker.gate.reached.wait(60)
    leaving.cancel()
    worker.gate.open()
    assert engine.submit(ask()).result(60)
    assert {prompt for prompt, _ in worker.steps} == {"a lake"}
    report = engine.report()
    assert (report.finished, report.failed, report.cancelled) == (1, 0, 1)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_pictures_are_drawn_one_at_a_time_and_the_others_keep_their_places(start: StartEngine) -> None:
    worker = Sketcher()
    engine = start(worker, queue_limit=2)
    worker.gate.shut()
    first = engine.submit(ask("first"))
    assert worker.gate.reached.wait(60)
    second, urgent = engine.submit(ask("second")), engine.submit(ask("urgent"), priority=1)
    report = engine.report()
    assert (report.running, report.waiting) == (1, 2)
    worker.gate.open()
    assert [ticket.result(60).png for ticket in (first, second, urgent)] == [b"first", b"second", b"urgent"]
    assert [name for name, step in worker.steps if step == 1] == ["first", "urgent", "second"]
    places = [event for event in second.events if isinstance(event, Queued | Started)]
    assert places == [Queued(1), Queued(2), Queued(1), Started()]


def test_an_error_of_the_engine_fails_its_own_picture(start: StartEngine) -> None:
    worker = Sketcher()
    engine = start(worker)
    bad = engine.submit(SimpleNamespace(prompt="bad", seed=1))  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="num_inference_steps"):
        bad.result(60)
    assert engine.submit(ask("good")).result(60).png == b"good"


def test_a_whole_job_ends_when_its_future_is_cancelled() -> None:
    worker, job = Sketcher(), Job(req=ask(num_inference_steps=5))
    job.on_step = lambda done: job.fut.cancel() if done.step == 2 else None
    with pytest.raises(JobStoppedError):
        worker.run_job(job)
    assert len(worker.steps) == 3
    assert worker.run_job(Job(req=ask("next"))) == (b"next", 1)


def test_a_reported_step_restarts_the_watchdogs_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watchdog = Watchdog(limit=100)
    try:
        with watchdog.watching("A picture"):
            now += 101
            assert watchdog.stuck == 101
            watchdog.progress()
            assert not watchdog.stuck
        watchdog.progress()
        now += 101
        assert not watchdog.stuck
    finally:
        watchdog.close()
