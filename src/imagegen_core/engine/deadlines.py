"""Fail tickets at their deadlines, even during a long computation."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future

from imagegen_core.engine.ticket import Ticket


class Deadlines:
    """Watch tickets in a separate thread. The thread runs only while there are tickets to watch.

    An engine checks deadlines only between its steps. A step, a whole job or a load may take longer.
    """

    def __init__(self) -> None:
        self._tickets: dict[Future[tuple[bytes, int]], Ticket] = {}
        self._changed = threading.Condition()
        self._is_watching = False

    def watch(self, ticket: Ticket) -> None:
        """Fail `ticket` at its deadline unless it is done earlier; ignore a ticket without a deadline."""
        if ticket.due is None:
            return
        with self._changed:
            self._tickets[ticket.job.fut] = ticket
            self._changed.notify()
            if not self._is_watching:
                self._is_watching = True
                threading.Thread(target=self._watch, name="imagegen-deadlines", daemon=True).start()
        ticket.job.fut.add_done_callback(self._forget)

    def _forget(self, future: Future[tuple[bytes, int]]) -> None:
        with self._changed:
            self._tickets.pop(future, None)
            if not self._tickets:
                self._changed.notify()

    def _watch(self) -> None:
        while True:
            with self._changed:
                dues = [ticket.due for ticket in self._tickets.values() if ticket.due is not None]
                if not dues:
                    self._is_watching = False
                    return
                self._changed.wait(min(dues) - time.monotonic())
                now = time.monotonic()
                late = [ticket for ticket in self._tickets.values() if ticket.is_late(now)]
            for ticket in late:  # without the lock, because a failed ticket runs callbacks that take it
                ticket.expire(now)
