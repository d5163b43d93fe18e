"""A client's handle on a picture in progress."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, InvalidStateError
from functools import partial
from typing import Any, cast

from imagegen_core.engine.events import EventLog
from imagegen_core.errors import DeadlineError
from imagegen_core.job import Cancelled, Done, Failed, Job, Queued
from imagegen_core.picture import Picture
from imagegen_core.request import GenerateRequest, check_request

TakeOver = Callable[["Ticket", Any], None]
"""Takes a ticket over after the steps before a refiner, with the half-drawn picture; see `LocalEngine.take_over`."""


class Ticket:
    """A handle on a submitted request: wait for its picture, follow its events, or cancel it.

    ``ticket.result()`` waits in a thread, ``await ticket`` in a coroutine; cancelling that coroutine cancels the job.

    Attributes:
        job: The job. Its future holds the result of `Worker.run_job`; cancelling the ticket cancels it.
        priority: Higher is served first.
        since: Submission time, in `time.monotonic` seconds.
        deadline: Time limit in seconds after `since`, or None.
        events: The job's events, for ``for`` and ``async for``; each listener receives them from the first.
        take_over: Takes this ticket over from the engine that draws the steps before a refiner; None after that, and
            for a request without a refiner.
    """

    def __init__(self, job: Job, priority: int, deadline: float | None, take_over: TakeOver | None = None) -> None:
        """Create a ticket; see `LocalEngine.submit`."""
        self.job = job
        self.take_over = take_over
        self.priority = priority
        self.deadline = deadline
        self.since = time.monotonic()
        self.events = EventLog()
        self._picture: Picture | None = None
        self._place = 0
        # The future keeps its callbacks. A callback that refers to this ticket would make a reference cycle, and only
        # the garbage collector would free the picture.
        job.fut.add_done_callback(partial(_tell_of_cancelling, self.events))

    @classmethod
    def of(
        cls, request: GenerateRequest, priority: int, deadline: float | None, take_over: TakeOver | None = None
    ) -> Ticket:
        """Create a ticket for a valid request.

        Raises:
            InvalidRequestError: No worker could draw the request.
        """
        if check_request(request).refiner is None:
            take_over = None
        return cls(Job(req=request, is_first_part=take_over is not None), priority, deadline, take_over)

    def go_on(self, half_drawn: Any) -> None:
        """Prepare the job for the refiner's engine.

        Args:
            half_drawn: The result of `HandsOver.hand_over`.
        """
        self.take_over, self.job.is_first_part, self.job.half_drawn = None, False, half_drawn

    def result(self, timeout: float | None = None) -> Picture:
        """Wait for the picture.

        Args:
            timeout: Seconds; None waits without limit. After a timeout the job continues.

        Raises:
            TimeoutError: The picture is not ready yet.
            CancelledError: The job was cancelled.
            ImagegenError: The job failed.
        """
        self.job.fut.result(timeout)
        return self._drawn()

    def __await__(self) -> Generator[Any, None, Picture]:
        """See `result`."""
        yield from asyncio.wrap_future(self.job.fut).__await__()
        return self._drawn()

    def cancel(self) -> bool:
        """Cancel the job within one step; return False if it has finished or failed already."""
        return self.job.fut.cancel()

    @property
    def done(self) -> bool:
        """Whether the job has ended: finished, failed or cancelled."""
        return self.job.fut.done()

    def draw(self, picture: Picture) -> None:
        """Deliver the picture, unless the job was cancelled or late meanwhile."""
        self._picture = picture
        try:
            self.job.fut.set_result((picture.png, picture.seed))
        except InvalidStateError:
            self._picture = None
            return
        self.events.append(Done(picture))

    def fail(self, error: Exception) -> None:
        """Fail the job, unless it is done already."""
        _let_go_of_frames(error)
        try:
            self.job.fut.set_exception(error)
        except InvalidStateError:
            return
        self.events.append(Failed(error))

    def wait_at(self, place: int) -> None:
        """Publish a new place in the queue; a half-drawn picture has begun, and is no longer queued for its client."""
        if place != self._place and self.job.half_drawn is None:
            self._place = place
            self.events.append(Queued(place))

    @property
    def due(self) -> float | None:
        """The deadline in `time.monotonic` seconds, or None."""
        return None if self.deadline is None else self.since + self.deadline

    def is_late(self, now: float) -> bool:
        """Return whether the deadline has passed at `now`, in `time.monotonic` seconds."""
        return self.due is not None and now >= self.due

    def expire(self, now: float) -> bool:
        """Fail the ticket if its deadline has passed, and return whether it is done."""
        if self.is_late(now) and not self.done:
            late = f"The picture was not done {self.deadline:g} s after it was asked for"
            self.fail(DeadlineError(f"{late}: allow more time, ask for fewer steps or a smaller size"))
        return self.done

    def _drawn(self) -> Picture:
        return cast("Picture", self._picture)  # `draw` sets it before it resolves the future


def _tell_of_cancelling(events: EventLog, future: Future[tuple[bytes, int]]) -> None:
    if future.cancelled():
        events.append(Cancelled())


def _let_go_of_frames(error: BaseException | None) -> None:
    """Drop the tracebacks of an error and its causes, because their frames keep a state's memory alive."""
    if error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        _let_go_of_frames(error.__cause__)
        _let_go_of_frames(error.__context__)
