"""Several engines that draw with the same model, behind one queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from imagegen_core.engine.local import LocalEngine
from imagegen_core.engine.report import EngineReport, merged
from imagegen_core.engine.request_queue import RequestQueue
from imagegen_core.engine.ticket import Ticket
from imagegen_core.worker import Worker


class Pool:
    """Has each request drawn by the engine that first has room for it.

    All wait in one line, whose order holds for all engines together. An engine takes as many as fill its batches, so a
    quicker one takes more, and nobody waits behind one that is slow or broken while another has room.
    """

    def __init__(self, workers: Sequence[Worker], *, queue_limit: int = 256, **options: Any) -> None:
        """Start an engine for each worker.

        Args:
            workers: Workers that draw alike, used by nobody else from now on.
            queue_limit: Requests that may wait to begin, with all of them together.
            options: As `LocalEngine` takes them.
        """
        self._line = RequestQueue(queue_limit)
        with ExitStack() as made:
            engines = []
            for worker in workers:
                engines.append(LocalEngine(worker, line=self._line, **options))
                made.callback(engines[-1].close, drain=False)  # where the next one fails
            made.pop_all()
        self._engines = tuple(engines)

    @property
    def worker(self) -> Worker:
        """One of the workers, which are alike."""
        return self._engines[0].worker

    @property
    def workers(self) -> Sequence[Worker]:
        """All of them."""
        return [engine.worker for engine in self._engines]

    @property
    def is_broken(self) -> bool:
        """Whether one of the engines draws no more, by a fault of its own."""
        return any(engine.is_broken for engine in self._engines)

    def submit(self, request: Any, deadline: float | None = None, priority: int = 0) -> Ticket:
        """See `LocalEngine.submit`."""
        return self._line.submit(request, deadline, priority)

    def admit(self, ticket: Ticket) -> None:
        """See `LocalEngine.admit`."""
        self._line.admit(ticket)

    def compute(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """See `LocalEngine.compute`; it goes where the least is being drawn."""
        idlest = min(self._engines, key=lambda engine: (engine.is_broken, engine.report().running))
        return idlest.compute(function, *arguments)

    def report(self) -> EngineReport:
        """What the engines do, taken together; how they do it, as the first."""
        return replace(merged([engine.report() for engine in self._engines]), **self._line.counts._asdict())

    def close(self, *, drain: bool = True) -> None:
        """See `LocalEngine.close`."""
        for engine in self._engines:
            engine.close(drain=drain)
