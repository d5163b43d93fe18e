"""Begin a job: encode its prompt, in parts if the worker can."""

from __future__ import annotations

import time

from imagegen_core.engine.batch_scheduler import ActiveJob
from imagegen_core.job import Job
from imagegen_core.parts import Parts, works_in_parts
from imagegen_core.worker import BeginsInParts, DenoisingState, SteppedWorker


class Beginning:
    """A job whose prompt is being encoded.

    Attributes:
        running: The job; it has a state when all parts are done.
    """

    def __init__(self, running: ActiveJob, worker: SteppedWorker[DenoisingState]) -> None:
        """Prepare the parts."""
        self.running = running
        self._parts = _parts(worker, running.ticket.job)

    def advance(self, count: int, end: float) -> bool:
        """Run a few parts, and return whether the job has begun; stop if the ticket is done.

        Args:
            count: The largest number of parts.
            end: The time for the last part to start, in `time.monotonic` seconds; one part runs anyway.
        """
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
    if isinstance(worker, BeginsInParts) and works_in_parts(worker, "begin"):
        state: DenoisingState = yield from worker.begin_in_parts(job)
        return state
    return worker.begin(job)
