"""The news of one job, told to any number of listeners, each from the beginning."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import TypeVar

from imagegen_core.job import Cancelled, Done, Event, Failed, Queued, Started, StepDone

Kind = TypeVar("Kind", Queued, Started, StepDone, Done, Failed, Cancelled)

_LAST = (Done, Failed, Cancelled)


class EventLog:
    """What happened to a job so far and from now on, for ``for`` and for ``async for``.

    The last event is a `Done`, a `Failed` or a `Cancelled`, and is always there in the end.
    """

    def __init__(self) -> None:
        """Nothing has happened."""
        self._events: list[Event] = []
        self._times: list[float] = []
        self._changed = threading.Condition()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def append(self, event: Event) -> None:
        """Tell `event`; what comes after the last event is dropped."""
        with self._changed:
            if self._ended:
                return
            self._events.append(event)
            self._times.append(time.monotonic())
            self._changed.notify_all()
            for loop, wake in self._waiting:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(wake.set)

    def when(self, kind: type[Event]) -> float | None:
        """When the first event of a kind was told, in seconds of `time.monotonic`; None where none was."""
        with self._changed:
            pairs = zip(self._events, self._times, strict=True)
            return next((told for event, told in pairs if isinstance(event, kind)), None)

    def latest(self, kind: type[Kind]) -> Kind | None:
        """The last event of a kind so far."""
        with self._changed:
            return next((event for event in reversed(self._events) if isinstance(event, kind)), None)

    def forget_previews(self) -> None:
        """Let go of the steps' previews, which listeners from now on do not see."""
        with self._changed:
            self._events = [
                replace(event, preview=None) if isinstance(event, StepDone) else event for event in self._events
            ]

    def __iter__(self) -> Iterator[Event]:
        """Every event, waiting for those to come."""
        told = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._events) > told)  # noqa: B023 - called at once
                event = self._events[told]
            told += 1
            yield event
            if isinstance(event, _LAST):
                return

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Every event, waiting for those to come, without holding up the loop."""
        waiting = (asyncio.get_running_loop(), asyncio.Event())
        with self._changed:
            self._waiting.add(waiting)
        told = 0
        try:
            while True:
                waiting[1].clear()
                with self._changed:
                    events = self._events[told:]
                for event in events:
                    yield event
                told += len(events)
                if events and isinstance(events[-1], _LAST):
                    return
                if not events:
                    await waiting[1].wait()
        finally:
            with self._changed:
                self._waiting.discard(waiting)

    @property
    def _ended(self) -> bool:
        return bool(self._events) and isinstance(self._events[-1], _LAST)
