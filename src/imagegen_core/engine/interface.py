"""The interface of an engine: `LocalEngine`, `Pool`, or an engine of your own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from imagegen_core.engine.report import EngineReport
from imagegen_core.engine.ticket import TakeOver, Ticket
from imagegen_core.request import GenerateRequest
from imagegen_core.worker import Arguments, Result, Worker


class Engine(Protocol):
    """Draws requests with one model; every method may be called from any thread."""

    @property
    def worker(self) -> Worker:
        """A worker of the model; all workers of an engine draw alike."""
        ...

    @property
    def workers(self) -> Sequence[Worker]:
        """All workers, each with a copy of the model."""
        ...

    @property
    def is_broken(self) -> bool:
        """Whether a fault of the engine's own ended its drawing."""
        ...

    def submit(
        self,
        request: GenerateRequest,
        deadline: float | None = None,
        priority: int = 0,
        take_over: TakeOver | None = None,
    ) -> Ticket:
        """Queue a request.

        Args:
            request: A `GenerateRequest`, or any object with its attributes.
            deadline: Seconds from now after which the engine gives the picture up; None sets no deadline.
            priority: Higher priorities go first.
            take_over: Takes the ticket of a request with a refiner after the steps before it; see
                `LocalEngine.take_over`. None refuses such requests.

        Raises:
            InvalidRequestError: No worker could draw the request.
            QueueFullError: The queue is full.
            EngineClosedError: The engine is closed.
        """
        ...

    def admit(self, ticket: Ticket) -> None:
        """Queue an existing ticket, also beyond the queue's limit.

        Raises:
            EngineClosedError: The engine is closed.
        """
        ...

    def compute(self, function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
        """Call a function on the model's compute thread, between two steps, and return its result."""
        ...

    def report(self) -> EngineReport:
        """Return the queue's length, the running requests and the batching."""
        ...

    def close(self, *, drain: bool = True) -> None:
        """Stop: after all requests, or without `drain` after the current step."""
        ...
