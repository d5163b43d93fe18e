"""What an asker holds while its picture is drawn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from concurrent.futures import Future, InvalidStateError
from functools import partial
from typing import Any, cast

from imagegen_core.engine.events import EventLog
from imagegen_core.errors import DeadlineError
from imagegen_core.job import Cancelled, Done, Failed, Job, Queued
from imagegen_core.picture import Picture
from imagegen_core.request import check_request


class Ticket:
    """A place in the engine: wait for its picture, follow it, or cancel it.

    ``ticket.result()`` waits in a thread, ``await ticket`` in a coroutine; cancelling that coroutine cancels the job.

    Attributes:
        job: The job; its future holds what `Worker.run_job` returns, and is cancelled with it.
        priority: Higher is served first.
        since: `time.monotonic` seconds at which it was asked for.
        deadline: Seconds after that by which the picture is wanted, or None.
        events: What happens to it, for ``for`` and ``async for``; each listener hears it from the beginning.
    """

    def __init__(self, job: Job, priority: int, deadline: float | None) -> None:
        """As `LocalEngine.submit` makes them."""
        self.job = job
        self.priority = priority
        self.deadline = deadline
        self.since = time.monotonic()
        self.events = EventLog()
        self._picture: Picture | None = None
        self._place = 0
        # A future keeps its callbacks: one that led to this ticket would leave it, and its picture, to the collector.
        job.fut.add_done_callback(partial(_tell_of_cancelling, self.events))

    @classmethod
    def of(cls, request: Any, priority: int, deadline: float | None) -> Ticket:
        """A ticket for a request that can be drawn.

        Raises:
            InvalidRequestError: The request asks for what no worker could draw.
        """
        check_request(request)
        return cls(Job(req=request), priority, deadline)

    def result(self, timeout: float | None = None) -> Picture:
        """Wait for the picture.

        Args:
            timeout: Seconds; None waits as long as it takes. The job goes on when they are over.

        Raises:
            TimeoutError: The picture is not there yet.
            CancelledError: The job was cancelled.
            ImagegenError: There will be no picture, and why.
        """
        self.job.fut.result(timeout)
        return self._drawn()

    def __await__(self) -> Generator[Any, None, Picture]:
        """See `result`."""
        yield from asyncio.wrap_future(self.job.fut).__await__()
        return self._drawn()

    def cancel(self) -> bool:
        """Give the picture up, within one step; False where it is there or failed already."""
        return self.job.fut.cancel()

    @property
    def done(self) -> bool:
        """Whether there is a picture, or never will be."""
        return self.job.fut.done()

    def draw(self, picture: Picture) -> None:
        """Hand the picture over, unless the job was cancelled or late meanwhile."""
        self._picture = picture
        try:
            self.job.fut.set_result((picture.png, picture.seed))
        except InvalidStateError:
            self._picture = None
            return
        self.events.append(Done(picture))

    def fail(self, error: Exception) -> None:
        """Say that there will be no picture, unless the job is done already."""
        _let_go_of_frames(error)
        try:
            self.job.fut.set_exception(error)
        except InvalidStateError:
            return
        self.events.append(Failed(error))

    def wait_at(self, place: int) -> None:
        """Tell the listeners of a new place in line."""
        if place != self._place:
            self._place = place
            self.events.append(Queued(place))

    @property
    def due(self) -> float | None:
        """The `time.monotonic` seconds of the deadline; None without one."""
        return None if self.deadline is None else self.since + self.deadline

    def is_late(self, now: float) -> bool:
        """Whether the deadline is over at `now`, in seconds of `time.monotonic`."""
        return self.due is not None and now >= self.due

    def expire(self, now: float) -> bool:
        """Fail where the deadline is over; whether nothing is left to do for it."""
        if self.is_late(now) and not self.done:
            late = f"The picture was not done {self.deadline:g} s after it was asked for"
            self.fail(DeadlineError(f"{late}: allow more time, ask for fewer steps or a smaller size"))
        return self.done

    def _drawn(self) -> Picture:
        return cast("Picture", self._picture)  # which `draw` puts there before it resolves the future


def _tell_of_cancelling(events: EventLog, future: Future[Any]) -> None:
    if future.cancelled():
        events.append(Cancelled())


def _let_go_of_frames(error: BaseException | None) -> None:
    """Drop the tracebacks of an error and of those behind it, which hold a state's memory for whoever keeps it."""
    if error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        _let_go_of_frames(error.__cause__)
        _let_go_of_frames(error.__context__)
