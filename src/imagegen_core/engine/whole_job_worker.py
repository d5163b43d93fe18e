"""Lets a worker without steps be served like one that has them: each job is one step."""

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
        """1 before it is drawn."""
        return int(self.picture is None)


class WholeJobWorker:
    """A plain worker as a `SteppedWorker`."""

    kind = "whole jobs"

    def __init__(self, worker: Worker) -> None:
        """Wrap `worker`."""
        self.worker_id = worker.worker_id
        self._worker = worker

    def begin(self, job: Job) -> WholeJob:
        """Nothing is done yet."""
        return WholeJob(job)

    def group(self, _state: WholeJob) -> Hashable:
        """All jobs share their turns."""
        return self.kind

    def step(self, states: Sequence[WholeJob]) -> None:
        """Draw; the engine gives one job at a time."""
        for state in states:
            state.picture = Picture(*self._worker.run_job_with_latents(state.job))

    def finish(self, state: WholeJob) -> Callable[[], Picture]:
        """The picture is there already."""
        picture = state.picture
        assert picture is not None  # noqa: S101 - for the types: only what has no steps left is finished
        return lambda: picture

    def run_job(self, job: Job) -> tuple[bytes, int]:
        """As the worker does."""
        return self._worker.run_job(job)

    def run_job_with_latents(self, job: Job) -> tuple[bytes, int, bytes]:
        """As the worker does."""
        return self._worker.run_job_with_latents(job)
