"""Event log of one job; each listener receives all events from the first."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from imagegen_core.job import Cancelled, Done, Event, Failed, Queued, Started, StepDone

Kind = TypeVar("Kind", Queued, Started, StepDone, Done, Failed, Cancelled)

_LAST = (Done, Failed, Cancelled)


class EventLog:
    """Events of a job, past and future, for ``for`` and ``async for``.

    The last event is always a `Done`, a `Failed` or a `Cancelled`.
    """

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._times: list[float] = []
        self._changed = threading.Condition()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._listeners: list[Callable[[Event], object]] = []

    def append(self, event: Event) -> None:
        """Publish `event`; ignore it after the last event."""
        with self._changed:
            if self._ended:
                return
            self._events.append(event)
            self._times.append(time.monotonic())
            self._changed.notify_all()
            for loop, wake in self._waiting:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(wake.set)
            for listener in self._listeners:
                listener(event)
            if self._ended:
                self._listeners.clear()  # a listener may hold the job, whose future holds this log

    def listen(self, listener: Callable[[Event], object]) -> None:
        """Call a function with each past and future event, in order; it must return at once and raise nothing."""
        with self._changed:
            for event in self._events:
                listener(event)
            if not self._ended:
                self._listeners.append(listener)

    def when(self, kind: type[Event]) -> float | None:
        """Return the time of the first event of a kind, in `time.monotonic` seconds, or None."""
        with self._changed:
            pairs = zip(self._events, self._times, strict=True)
            return next((seconds for event, seconds in pairs if isinstance(event, kind)), None)

    def latest(self, kind: type[Kind]) -> Kind | None:
        """Return the latest event of a kind, or None."""
        with self._changed:
            return next((event for event in reversed(self._events) if isinstance(event, kind)), None)

    def forget_previews(self) -> None:
        """Drop the previews of past steps; new listeners do not receive them."""
        with self._changed:
            self._events = [
                replace(event, preview=None) if isinstance(event, StepDone) else event for event in self._events
            ]

    def __iter__(self) -> Iterator[Event]:
        """Iterate over all events, and wait for new ones."""
        sent = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._events) > sent)  # noqa: B023 - called at once
                event = self._events[sent]
            sent += 1
            yield event
            if isinstance(event, _LAST):
                return

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Iterate over all events, and wait for new ones without blocking the event loop."""
        waiting = (asyncio.get_running_loop(), asyncio.Event())
        with self._changed:
            self._waiting.add(waiting)
        sent = 0
        try:
            while True:
                waiting[1].clear()
                with self._changed:
                    events = self._events[sent:]
                for event in events:
                    yield event
                sent += len(events)
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
