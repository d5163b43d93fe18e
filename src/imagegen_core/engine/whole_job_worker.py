"""Adapter for a worker without steps: each job is one step."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from imagegen_core.job import Job
from imagegen_core.picture import Picture
from imagegen_core.worker import Worker


@dataclass(eq=False)
class WholeJob:
    """A job before or after its only step."""

    job: Job
    picture: Picture | None = None
    failure: Exception | None = None
    rows: int = 1

    @property
    def steps_left(self) -> int:
        """1 before the job is drawn, then 0."""
        return int(self.picture is None)


class WholeJobWorker:
    """Adapt a plain worker to `SteppedWorker`."""

    kind = "whole jobs"

    def __init__(self, worker: Worker) -> None:
        """Wrap `worker`."""
        self.worker_id = worker.worker_id
        self._worker = worker

    def begin(self, job: Job) -> WholeJob:
        """Create the state; nothing is computed yet."""
        return WholeJob(job)

    def group(self, _state: WholeJob) -> Hashable:
        """Return the same key for all jobs."""
        return self.kind

    def step(self, states: Sequence[WholeJob]) -> None:
        """Draw the jobs; the engine passes one at a time."""
        for state in states:
            state.picture = Picture(*self._worker.run_job_with_latents(state.job))

    def finish(self, state: WholeJob) -> Callable[[], Picture]:
        """Return the picture, already encoded."""
        picture = state.picture
        assert picture is not None  # noqa: S101 - for mypy: a finished state has a picture
        return lambda: picture

    def run_job(self, job: Job) -> tuple[bytes, int]:
        """See `Worker.run_job`."""
        return self._worker.run_job(job)

    def run_job_with_latents(self, job: Job) -> tuple[bytes, int, bytes]:
        """See `Worker.run_job_with_latents`."""
        return self._worker.run_job_with_latents(job)
