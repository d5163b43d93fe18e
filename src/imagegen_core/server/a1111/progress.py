"""What A1111's routes have drawn at the moment, since its ``progress`` and ``interrupt`` name no job."""

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
    """How far a caller's pictures are.

    Attributes:
        count: How many there are.
        finished: How many of them are done.
        done: Of all of them, from 0 to 1.
        current: The last step of the one that is drawn at the moment.
        seconds: Since they were asked for.
    """

    count: int
    finished: int
    done: float
    current: StepDone | None
    seconds: float

    @property
    def seconds_left(self) -> float:
        """How long it will take, if it goes on as it did."""
        return self.seconds * (1 - self.done) / self.done if self.done else 0.0


class DrawingProgress:
    """The pictures in the making, by caller."""

    def __init__(self) -> None:
        """None."""
        self._tickets: defaultdict[str, list[Ticket]] = defaultdict(list)
        self._skipped: set[Ticket] = set()

    def of(self, caller: str) -> list[Ticket]:
        """A caller's, in the order they were asked for."""
        return list(self._tickets.get(caller, ()))

    def skip(self, caller: str) -> None:
        """Give up the first of a caller's that is not done."""
        current = next((ticket for ticket in self.of(caller) if not ticket.done), None)
        if current is not None:
            self._skipped.add(current)
            current.cancel()

    def is_skipped(self, ticket: Ticket) -> bool:
        """Whether a ticket that is still counted was skipped."""
        return ticket in self._skipped

    def progress(self, caller: str) -> Progress:
        """How far a caller's are."""
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
        )

    @contextmanager
    def running(self, caller: str, tickets: Sequence[Ticket]) -> Iterator[None]:
        """Count `tickets` among a caller's meanwhile."""
        self._tickets[caller] += tickets
        try:
            yield
        finally:
            self._skipped.difference_update(tickets)
            left = [ticket for ticket in self._tickets[caller] if ticket not in tickets]
            if left:
                self._tickets[caller] = left
            else:
                del self._tickets[caller]
