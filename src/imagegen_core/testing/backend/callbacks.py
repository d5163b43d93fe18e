"""Checks of a worker around an engine with a callback."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from imagegen_core.callback_worker import CallbackWorker
from imagegen_core.errors import JobStoppedError
from imagegen_core.job import Job, StepDone
from imagegen_core.picture_files.decode import read_picture
from imagegen_core.testing.backend.kit import BackendKit
from imagegen_core.worker import Worker

_STEPS = 3
_MANY_STEPS = 40


class _AskedFuture(Future[tuple[bytes, int]]):
    """A future that counts how often a worker asks for its end."""

    asked = 0

    def done(self) -> bool:
        self.asked += 1
        return super().done()


class CallbackChecks(BackendKit):
    """`CallbackWorker`."""

    @pytest.fixture(scope="class")
    @classmethod
    def calling(cls, worker: Worker) -> Any:
        """Return the worker, if it draws by calls that report steps."""
        if not isinstance(worker, CallbackWorker):
            pytest.skip("the worker is no imagegen_core.CallbackWorker")
        steps: list[StepDone] = []
        worker.run_job(Job(req=cls().ask(), on_step=steps.append))
        if not steps:
            pytest.skip("the engine reports no steps (imagegen_core.Progress)")
        return worker

    def test_reported_steps_count_up(self, calling: Any) -> None:
        """Progress bars show the step and the number of steps: the last step is the last of them."""
        steps: list[StepDone] = []
        calling.run_job(Job(req=self.ask(num_inference_steps=_STEPS), on_step=steps.append))
        numbers = [event.step for event in steps]
        assert numbers == sorted(set(numbers)), f"the steps were reported as {numbers}: expected rising numbers from 1"
        assert {event.steps for event in steps} == {numbers[-1]}, "the last step is not the number of steps"

    def test_a_cancelled_call_ends_early(self, calling: Any) -> None:
        """A cancelled or late job frees the device at its next step, and leaves nothing for the next job."""
        before, future = self.draw(calling), _AskedFuture()

        def cancel(_: StepDone) -> None:
            future.cancel()

        job = Job(req=self.ask(num_inference_steps=_MANY_STEPS), fut=future, on_step=cancel)
        with pytest.raises(JobStoppedError):
            calling.run_job(job)
        assert future.asked < _MANY_STEPS, "the engine drew all steps after the job was cancelled"
        assert self.draw(calling).png == before.png

    def test_a_preview_of_a_call_changes_nothing(self, calling: Any) -> None:
        """A preview must not change the picture, and is made only if a client may see it."""
        for wanted in (True, False):
            steps: list[StepDone] = []
            job = Job(req=self.ask(), on_step=steps.append, wants_previews=wanted)
            png, _ = calling.run_job(job)
            assert png == self.draw(calling).png, "the picture with previews is another"
            previews = [event.preview for event in steps if event.preview is not None]
            assert wanted or not previews, "previews were made, and no one asked for them"
            for preview in previews:
                read_picture(preview, png_only=True)
