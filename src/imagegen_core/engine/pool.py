"""Several engines that draw with the same model, behind one door."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imagegen_core.engine.local import LocalEngine
from imagegen_core.engine.report import EngineReport, merged
from imagegen_core.engine.ticket import Ticket
from imagegen_core.errors import QueueFullError
from imagegen_core.worker import Worker


class Pool:
    """Sends each request to the engine that has the least to do."""

    def __init__(self, engines: Sequence[LocalEngine], queue_limit: int) -> None:
        """Take over the engines; `queue_limit` requests may wait with all of them together."""
        self._engines = tuple(engines)
        self._queue_limit = queue_limit

    @property
    def worker(self) -> Worker:
        """One of the workers, which are alike."""
        return self._engines[0].worker

    @property
    def workers(self) -> Sequence[Worker]:
        """All of them."""
        return [engine.worker for engine in self._engines]

    def submit(self, request: Any, deadline: float | None = None, priority: int = 0) -> Ticket:
        """See `LocalEngine.submit`."""
        waiting = self.report().waiting
        if waiting >= self._queue_limit:
            raise QueueFullError(f"{waiting} requests wait already: try again in a moment", retry_after=1)
        return self._least_busy().submit(request, deadline, priority)

    def admit(self, ticket: Ticket) -> None:
        """See `LocalEngine.admit`."""
        self._least_busy().admit(ticket)

    def compute(self, function: Any, *arguments: Any) -> Any:
        """See `LocalEngine.compute`."""
        return self._engines[0].compute(function, *arguments)

    def report(self) -> EngineReport:
        """What the engines do, taken together; how they do it, as the first."""
        return merged([engine.report() for engine in self._engines])

    def close(self, *, drain: bool = True) -> None:
        """See `LocalEngine.close`."""
        for engine in self._engines:
            engine.close(drain=drain)

    def _least_busy(self) -> LocalEngine:
        reports = [engine.report() for engine in self._engines]
        loads = [report.waiting + report.running for report in reports]
        return self._engines[loads.index(min(loads))]
