"""Begin a job: encode its prompt, in parts if the worker can."""

from __future__ import annotations

import time
from typing import TypeGuard

from imagegen_core.engine.batch_scheduler import ActiveJob
from imagegen_core.job import Job
from imagegen_core.parts import Parts, works_in_parts
from imagegen_core.worker import BeginsInParts, DenoisingState, HasComputeThread, SteppedWorker


class Beginning:
    """A job whose prompt is being encoded.

    Attributes:
        running: The job; it has a state when all parts are done.
    """

    def __init__(self, running: ActiveJob, worker: SteppedWorker[DenoisingState]) -> None:
        """Prepare the parts."""
        self.running = running
        self._parts = _parts(worker, running.ticket.job)
        self._thread = worker if _has_parts(worker) and isinstance(worker, HasComputeThread) else None

    def advance(self, count: int, end: float) -> bool:
        """Run a few parts, and return whether the job has begun; stop if the ticket is done.

        All of them are one call of the worker's compute thread, because each call takes up to half a millisecond.

        Args:
            count: The largest number of parts.
            end: The time for the last part to start, in `time.monotonic` seconds; one part runs anyway.
        """
        return self._thread.compute(self._advance, count, end) if self._thread else self._advance(count, end)

    def _advance(self, count: int, end: float) -> bool:
        for _ in range(count):
            if self.running.ticket.done:
                return False
            try:
                next(self._parts)
            except StopIteration as stop:
                self.running.state = stop.value
                return True
            if time.monotonic() >= end:
                return False
        return False


def _parts(worker: SteppedWorker[DenoisingState], job: Job) -> Parts[DenoisingState]:
    if _has_parts(worker):
        state: DenoisingState = yield from worker.begin_in_parts(job)
        return state
    return worker.begin(job)


def _has_parts(worker: object) -> TypeGuard[BeginsInParts]:
    return isinstance(worker, BeginsInParts) and works_in_parts(worker, "begin")
