"""Begin a job: encode its prompt, in parts if the worker can."""

from __future__ import annotations

from typing import Any

from imagegen_core.engine.batch_scheduler import ActiveJob
from imagegen_core.parts import Parts, works_in_parts


class Beginning:
    """A job whose prompt is being encoded.

    Attributes:
        running: The job; its state is None until all parts are done.
    """

    def __init__(self, running: ActiveJob, worker: Any) -> None:
        """Prepare the parts; `worker` is a `SteppedWorker`."""
        self.running = running
        self._parts = _parts(worker, running.ticket.job)

    def advance(self, count: int) -> bool:
        """Run up to `count` parts, and return whether the job has begun; stop if the ticket is done."""
        for _ in range(count):
            if self.running.ticket.done:
                return False
            try:
                next(self._parts)
            except StopIteration as end:
                self.running.state = end.value
                return True
        return False


def _parts(worker: Any, job: Any) -> Parts[Any]:
    if works_in_parts(worker, "begin"):
        return (yield from worker.begin_in_parts(job))
    return worker.begin(job)
