"""The pictures in progress of A1111's routes, because ``progress`` and ``interrupt`` name no job."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from imagegen_core.engine import Ticket
from imagegen_core.job import StepDone


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a caller's pictures.

    Attributes:
        count: Number of pictures.
        finished: Number of finished pictures.
        done: Finished part of all pictures, 0 to 1.
        current: The last step of the current picture; None before its first step.
        seconds: Seconds since the request.
        job: Name of the route; "" without pictures.
    """

    count: int
    finished: int
    done: float
    current: StepDone | None
    seconds: float
    job: str = ""

    @property
    def seconds_left(self) -> float:
        """The estimated remaining time in seconds, at the same speed."""
        return self.seconds * (1 - self.done) / self.done if self.done else 0.0


class DrawingProgress:
    """The pictures in progress of each caller."""

    def __init__(self) -> None:
        """Start without pictures."""
        self._tickets: defaultdict[str, list[Ticket]] = defaultdict(list)
        self._skipped: set[Ticket] = set()
        self._jobs: dict[Ticket, str] = {}

    def of(self, caller: str) -> list[Ticket]:
        """Return a caller's tickets in the order of their requests."""
        return list(self._tickets.get(caller, ()))

    def skip(self, caller: str) -> None:
        """Cancel a caller's first unfinished ticket."""
        current = next((ticket for ticket in self.of(caller) if not ticket.done), None)
        if current is not None:
            self._skipped.add(current)
            current.cancel()

    def is_skipped(self, ticket: Ticket) -> bool:
        """Return True if a ticket was skipped; valid within `running`."""
        return ticket in self._skipped

    def progress(self, caller: str) -> Progress:
        """Return the progress of a caller's pictures."""
        tickets = self.of(caller)
        steps = [ticket.events.latest(StepDone) for ticket in tickets]
        pairs = list(zip(tickets, steps, strict=True))
        parts = [1.0 if ticket.done else step.step / step.steps if step else 0.0 for ticket, step in pairs]
        return Progress(
            count=len(tickets),
            finished=sum(ticket.done for ticket in tickets),
            done=sum(parts) / len(parts) if parts else 0.0,
            current=next((step for ticket, step in pairs if step and not ticket.done), None),
            seconds=time.monotonic() - min((ticket.since for ticket in tickets), default=time.monotonic()),
            job=self._jobs[tickets[0]] if tickets else "",
        )

    @contextmanager
    def running(self, caller: str, tickets: Sequence[Ticket], job: str) -> Iterator[None]:
        """Add the `tickets` of a route, named by `job`, to a caller's tickets within the context."""
        self._tickets[caller] += tickets
        self._jobs.update(dict.fromkeys(tickets, job))
        try:
            yield
        finally:
            self._skipped.difference_update(tickets)
            for ticket in tickets:
                del self._jobs[ticket]
            left = [ticket for ticket in self._tickets[caller] if ticket not in tickets]
            if left:
                self._tickets[caller] = left
            else:
                del self._tickets[caller]
