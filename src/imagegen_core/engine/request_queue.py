"""The request queue of an engine, or of several engines of the same model."""

from __future__ import annotations

import threading
import time
from bisect import insort
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from imagegen_core.engine.deadlines import Deadlines
from imagegen_core.engine.ticket import TakeOver, Ticket
from imagegen_core.errors import EngineClosedError, QueueFullError
from imagegen_core.request import GenerateRequest

_PACE_WEIGHT = 0.2  # weight of the latest picture in the moving average


class Counts(NamedTuple):
    """Counters of the queue; see `EngineReport`."""

    waiting: int
    finished: int
    failed: int
    cancelled: int


class RequestQueue:
    """Tickets that wait to be drawn, in scheduling order.

    Engines ask for tickets between their steps, and block here when idle. The queue tracks each ticket until it is
    done. A ticket that is done early (cancelled or late) leaves the queue at once.
    """

    def __init__(self, limit: int) -> None:
        """Create an empty queue; at most `limit` requests may wait."""
        self._limit = limit
        self._waiting: list[Ticket] = []
        self._open: dict[Future[tuple[bytes, int]], Ticket] = {}  # tickets that are not done, by their jobs' futures
        self._takers: dict[Future[tuple[bytes, int]], object] = {}  # the engine of each ticket in progress
        self._engines: set[int] = set()
        self._idle = 0
        self._finished = self._failed = self._cancelled = 0
        self._pace = 1.0  # moving average of the seconds between two finished pictures
        self._last_finished = time.monotonic()
        self._changed = threading.Condition()
        self._deadlines = Deadlines()
        self._closed = False

    @property
    def is_shared(self) -> bool:
        """Whether several engines take from this queue."""
        return len(self._engines) > 1

    @property
    def counts(self) -> Counts:
        """Number of waiting tickets, and the outcomes of the others."""
        with self._changed:
            return Counts(len(self._waiting), self._finished, self._failed, self._cancelled)

    def submit(
        self, request: GenerateRequest, deadline: float | None, priority: int, take_over: TakeOver | None = None
    ) -> Ticket:
        """Queue a request; see `LocalEngine.submit`."""
        ticket = Ticket.of(request, priority, deadline, take_over)
        with self._changed:
            if len(self._waiting) >= self._limit:
                raise QueueFullError(
                    f"{len(self._waiting)} requests wait already: try again in {self._pace:.0f} s",
                    retry_after=self._pace,
                )
            self.admit(ticket)
        return ticket

    def admit(self, ticket: Ticket) -> None:
        """Queue an existing ticket regardless of the queue's limit; see `LocalEngine.admit`."""
        with self._changed:
            if self._closed:
                raise EngineClosedError("The engine is closed: it accepts no more requests")
            if not self._open:  # idle time must not count in the pace
                self._last_finished = time.monotonic()
            self._open[ticket.job.fut] = ticket
            insort(self._waiting, ticket, key=lambda waiting: -waiting.priority)
            self._tell_places()
            self._changed.notify_all()
        ticket.job.fut.add_done_callback(self._note_outcome)
        self._deadlines.watch(ticket)

    def let_go(self, ticket: Ticket) -> None:
        """Forget a ticket in progress, because another engine takes it over."""
        with self._changed:
            self._open.pop(ticket.job.fut, None)
            self._takers.pop(ticket.job.fut, None)

    def serve(self, engine: object) -> None:
        """Register an engine; from now on it takes tickets."""
        with self._changed:
            self._engines.add(id(engine))

    def take(self, engine: object, room: Callable[[], int], *, busy: bool) -> list[Ticket] | None:
        """Return the tickets to begin now; None if the queue is closed and empty.

        Args:
            engine: The engine that takes them.
            room: Returns the maximum number of tickets to take.
            busy: Whether the engine has other jobs in progress; if not, this call waits for a ticket.
        """
        with self._changed:
            if not busy:
                self._idle += 1
                self._changed.wait_for(lambda: self._waiting or self._closed)
                self._idle -= 1
                if self._closed and not self._waiting:
                    return None
            now = time.monotonic()
            for ticket in [*self._waiting]:
                ticket.expire(now)  # this also removes a late ticket from the queue
            count = min(room(), self._share(busy=busy))
            taken, self._waiting = self._waiting[:count], self._waiting[count:]
            self._takers.update((ticket.job.fut, engine) for ticket in taken)
            self._tell_places()
            return taken

    def close(self, *, drain: bool) -> None:
        """Accept no more tickets; without `drain`, also cancel all open tickets."""
        with self._changed:
            self._closed = True
            for ticket in [] if drain else [*self._open.values()]:
                ticket.cancel()
            self._changed.notify_all()

    def give_up(self, engine: object, why: str) -> None:
        """Fail the open tickets of a broken engine; fail all after the last engine, or if the queue is closed."""
        with self._changed:
            self._engines.discard(id(engine))
            self._closed = self._closed or not self._engines
            left = [entry for future, entry in self._open.items() if self._closed or self._takers.get(future) is engine]
        for ticket in left:
            ticket.fail(EngineClosedError(why))

    def _share(self, *, busy: bool) -> int:
        """Return how many tickets an engine may take, to leave an equal share for each idle engine."""
        if busy:
            return max(0, len(self._waiting) - self._idle)
        return -(-len(self._waiting) // (self._idle + 1))

    def _note_outcome(self, future: Future[tuple[bytes, int]]) -> None:
        """Count the outcome of a job, and remove its ticket from the queue; ignore tickets that were let go."""
        with self._changed:
            ticket = self._open.pop(future, None)
            if ticket is None:
                return
            self._takers.pop(future, None)
            if future.cancelled():
                self._cancelled += 1
            elif future.exception() is not None:
                self._failed += 1
            else:
                self._finished += 1
                now = time.monotonic()
                self._pace += _PACE_WEIGHT * (now - self._last_finished - self._pace)
                self._last_finished = now
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                self._tell_places()

    def _tell_places(self) -> None:
        for place, ticket in enumerate(self._waiting, start=1):
            ticket.wait_at(place)
