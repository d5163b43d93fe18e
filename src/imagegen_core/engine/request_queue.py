"""The queue before an engine, or before several that draw with the same model."""

from __future__ import annotations

import threading
import time
from bisect import insort
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from imagegen_core.engine.deadlines import Deadlines
from imagegen_core.engine.ticket import Ticket
from imagegen_core.errors import EngineClosedError, QueueFullError

_PACE_WEIGHT = 0.2  # of the latest picture


class Counts(NamedTuple):
    """What became of those that joined; see `EngineReport`."""

    waiting: int
    finished: int
    failed: int
    cancelled: int


class RequestQueue:
    """Those that wait to be drawn, in the order in which engines take them.

    Engines come by for more between their steps, and wait here where they have nothing to do. A ticket is known from
    when it joins until it is done; one that is done, as it was cancelled, leaves the line at once.
    """

    def __init__(self, limit: int) -> None:
        """Nobody waits; `limit` requests may."""
        self._limit = limit
        self._waiting: list[Ticket] = []
        self._open: dict[Future[Any], Ticket] = {}  # those that are not done, by their jobs' futures
        self._takers: dict[Future[Any], object] = {}  # who took them, of those that wait no more
        self._engines: set[int] = set()
        self._idle = 0
        self._finished = self._failed = self._cancelled = 0
        self._pace = 1.0  # seconds between two finished pictures
        self._last_finished = time.monotonic()
        self._changed = threading.Condition()
        self._deadlines = Deadlines()
        self._closed = False

    @property
    def is_shared(self) -> bool:
        """Whether several engines take from it."""
        return len(self._engines) > 1

    @property
    def counts(self) -> Counts:
        """How many wait, and how many of the others ended how."""
        with self._changed:
            return Counts(len(self._waiting), self._finished, self._failed, self._cancelled)

    def submit(self, request: Any, deadline: float | None, priority: int) -> Ticket:
        """Put a request in line; see `LocalEngine.submit`."""
        ticket = Ticket.of(request, priority, deadline)
        with self._changed:
            if len(self._waiting) >= self._limit:
                raise QueueFullError(
                    f"{len(self._waiting)} requests wait already: try again in {self._pace:.0f} s",
                    retry_after=self._pace,
                )
            self.admit(ticket)
        return ticket

    def admit(self, ticket: Ticket) -> None:
        """Put a ticket in line that was made before, whatever the line's length; see `LocalEngine.admit`."""
        with self._changed:
            if self._closed:
                raise EngineClosedError("The engine is closed: it takes no more requests")
            if not self._open:  # nothing is drawn until now, which says nothing of the pace
                self._last_finished = time.monotonic()
            self._open[ticket.job.fut] = ticket
            insort(self._waiting, ticket, key=lambda one: -one.priority)
            self._tell_places()
            self._changed.notify_all()
        ticket.job.fut.add_done_callback(self._note_outcome)
        self._deadlines.watch(ticket)

    def serve(self, engine: object) -> None:
        """Count an engine in, which takes from now on."""
        with self._changed:
            self._engines.add(id(engine))

    def take(self, engine: object, room: Callable[[], int], *, busy: bool) -> list[Ticket] | None:
        """Who begins now, of those that wait; None when nobody does, and nobody will.

        Args:
            engine: Who takes them.
            room: Says how many it takes at most.
            busy: Whether it has others to go on with; else it stays here until somebody waits.
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
                ticket.expire(now)  # which takes it out of the line
            count = min(room(), self._share(busy=busy))
            taken, self._waiting = self._waiting[:count], self._waiting[count:]
            self._takers.update((ticket.job.fut, engine) for ticket in taken)
            self._tell_places()
            return taken

    def close(self, *, drain: bool) -> None:
        """Let nobody join any more; without `drain`, also cancel all that are not done."""
        with self._changed:
            self._closed = True
            for ticket in [] if drain else [*self._open.values()]:
                ticket.cancel()
            self._changed.notify_all()

    def give_up(self, engine: object, why: str) -> None:
        """Fail what an engine took that takes no more; all that wait too where it was the last."""
        with self._changed:
            self._engines.discard(id(engine))
            self._closed = self._closed or not self._engines
            left = [one for future, one in self._open.items() if self._closed or self._takers.get(future) is engine]
        for ticket in left:
            ticket.fail(EngineClosedError(why))

    def _share(self, *, busy: bool) -> int:
        """How many an engine may take, so that each of those that have nothing to do gets as many."""
        if busy:
            return max(0, len(self._waiting) - self._idle)
        return -(-len(self._waiting) // (self._idle + 1))

    def _note_outcome(self, future: Future[Any]) -> None:
        """Count how a job ended; one that had not begun leaves the line at once."""
        with self._changed:
            ticket = self._open.pop(future)
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
