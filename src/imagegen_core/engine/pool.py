"""Several engines of the same model behind one queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from imagegen_core.engine.local import LocalEngine
from imagegen_core.engine.report import EngineReport, merged
from imagegen_core.engine.request_queue import RequestQueue
from imagegen_core.engine.ticket import TakeOver, Ticket
from imagegen_core.errors import SettingsError
from imagegen_core.picture import Picture
from imagegen_core.request import GenerateRequest
from imagegen_core.worker import Arguments, HasNumerics, Result, Worker


class Pool:
    """Send each request to the first engine with room for it.

    All requests wait in one queue, in one order for all engines. An engine takes only enough to fill its batches, so a
    faster engine takes more. A slow or broken engine delays no request while another engine has room.
    """

    def __init__(self, workers: Sequence[Worker], *, queue_limit: int = 256, **options: Any) -> None:
        """Start an engine for each worker.

        Args:
            workers: Workers that draw the same pictures; from now on only the engines use them.
            queue_limit: Maximum number of waiting requests for all engines together.
            options: Options of `LocalEngine`.

        Raises:
            SettingsError: The workers have different numerics plans, and these are exact.
        """
        _check_plans(workers)
        self._queue = RequestQueue(queue_limit)
        with ExitStack() as made:
            engines = []
            for worker in workers:
                engines.append(LocalEngine(worker, queue=self._queue, **options))
                made.callback(engines[-1].close, drain=False)  # if the next engine fails to start
            made.pop_all()
        self._engines = tuple(engines)

    @property
    def worker(self) -> Worker:
        """The first worker; all workers are alike."""
        return self._engines[0].worker

    @property
    def workers(self) -> Sequence[Worker]:
        """All workers."""
        return [engine.worker for engine in self._engines]

    @property
    def process(self) -> Callable[[Picture, Any], Picture] | None:
        """See `LocalEngine.process`."""
        return self._engines[0].process

    @process.setter
    def process(self, process: Callable[[Picture, Any], Picture] | None) -> None:
        for engine in self._engines:
            engine.process = process

    @property
    def is_broken(self) -> bool:
        """Whether any engine has stopped after an internal error."""
        return any(engine.is_broken for engine in self._engines)

    def submit(
        self,
        request: GenerateRequest,
        deadline: float | None = None,
        priority: int = 0,
        take_over: TakeOver | None = None,
    ) -> Ticket:
        """See `LocalEngine.submit`."""
        return self._queue.submit(request, deadline, priority, take_over)

    def take_over(self, ticket: Ticket, half_drawn: Any) -> None:
        """See `LocalEngine.take_over`."""
        ticket.go_on(half_drawn)
        self.admit(ticket)

    def admit(self, ticket: Ticket) -> None:
        """See `LocalEngine.admit`."""
        self._queue.admit(ticket)

    def compute(self, function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
        """See `LocalEngine.compute`; this runs on the engine with the fewest running jobs."""
        idlest = min(self._engines, key=lambda engine: (engine.is_broken, engine.report().running))
        return idlest.compute(function, *arguments)

    def report(self) -> EngineReport:
        """Return the merged report of all engines; settings come from the first engine."""
        return replace(merged([engine.report() for engine in self._engines]), **self._queue.counts._asdict())

    def close(self, *, drain: bool = True) -> None:
        """See `LocalEngine.close`."""
        for engine in self._engines:
            engine.close(drain=drain)


def _check_plans(workers: Sequence[Worker]) -> None:
    plans = [worker.numerics for worker in workers if isinstance(worker, HasNumerics) and worker.numerics.exact]
    for number, plan in enumerate(plans[1:], start=1):
        if differing := plans[0].differences(plan):
            raise SettingsError(
                f"Copy {number} of the model would draw other bytes than copy 0, because {'; '.join(differing)}: name "
                "devices of one kind in IMAGEGEN_DEVICE, or set IMAGEGEN_BATCHING=fast to accept the difference"
            )
