"""What A1111's routes have drawn at the moment, since its ``progress`` and ``interrupt`` name no job."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from imagegen_core.engine import Ticket


class Runs:
    """The pictures in the making, by caller."""

    def __init__(self) -> None:
        """None."""
        self._tickets: defaultdict[str, list[Ticket]] = defaultdict(list)

    def of(self, caller: str) -> list[Ticket]:
        """A caller's, in the order they were asked for."""
        return list(self._tickets.get(caller, ()))

    @contextmanager
    def running(self, caller: str, tickets: Sequence[Ticket]) -> Iterator[None]:
        """Count `tickets` among a caller's meanwhile."""
        self._tickets[caller] += tickets
        try:
            yield
        finally:
            left = [ticket for ticket in self._tickets[caller] if ticket not in tickets]
            if left:
                self._tickets[caller] = left
            else:
                del self._tickets[caller]
