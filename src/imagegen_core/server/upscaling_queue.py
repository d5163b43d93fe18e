"""The line of pictures that are to be enlarged, apart from everything else that takes threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, TypeVar

from imagegen_core.errors import DeadlineError, QueueFullError

Result = TypeVar("Result")

Work = Callable[[Future[Any]], Result]
"""Enlarges a picture; once the future it is given is done, nobody waits, and it may stop."""

_LONGEST_RETRY = 60.0


@dataclass(eq=False, slots=True)
class _Upscaling:
    work: Work[Any]
    weight: int
    future: Future[Any] = field(default_factory=Future)


class UpscalingQueue:
    """Enlarges one picture after another, on threads that end when there is nothing to do.

    They are no daemons: the program would abort if it ended while one of them is inside torch.
    """

    def __init__(self, limit: int, weight: int, threads: int = 1) -> None:
        """Nothing waits.

        Args:
            limit: How many may wait to begin.
            weight: How many bytes of memory those may take together that wait.
            threads: How many are enlarged at the same time.
        """
        self._limit, self._weight, self._threads = limit, weight, threads
        self._waiting: deque[_Upscaling] = deque()
        self._open: set[Future[Any]] = set()
        self._running = 0
        self._seconds = 1.0  # that the last one took
        self._lock = threading.Lock()

    def check_room(self, weight: int = 0) -> None:
        """Refuse where too many wait, or where they take too much memory with one of `weight` bytes.

        Raises:
            QueueFullError: They do.
        """
        with self._lock:
            waiting = len(self._waiting)
            weight += sum(upscaling.weight for upscaling in self._waiting)
            seconds = self._seconds * waiting / self._threads
        if waiting >= self._limit or (waiting and weight > self._weight):
            raise QueueFullError(
                f"{waiting} pictures wait to be enlarged already: try again in a moment", min(seconds, _LONGEST_RETRY)
            )

    def submit(self, work: Work[Result], weight: int = 0) -> Future[Result]:
        """Put work in line; cancelling its future, or failing it, takes the work out again or stops it."""
        upscaling = _Upscaling(work, weight)
        with self._lock:
            self._open.add(upscaling.future)
            self._waiting.append(upscaling)
            if self._running < self._threads:
                self._running += 1
                threading.Thread(target=self._serve, name="imagegen-upscaler").start()
        upscaling.future.add_done_callback(lambda _: self._forget(upscaling))
        return upscaling.future

    async def run(self, work: Work[Result], deadline: float, weight: int = 0) -> Result:
        """Put work in line and wait for it; cancelling this coroutine cancels the work.

        Args:
            work: What to do.
            deadline: `time.monotonic` seconds at which it is given up.
            weight: Bytes of memory that it takes while it waits.

        Raises:
            DeadlineError: It was not done in time.
            ImagegenError: As the work raises.
        """
        future = self.submit(work, weight)
        waiting = asyncio.wrap_future(future)
        try:
            await asyncio.wait({waiting}, timeout=deadline - time.monotonic())
            if not waiting.done():
                raise DeadlineError(
                    "The picture was not enlarged in time: allow more time, ask for fewer passes, or send a smaller one"
                )
            return waiting.result()
        finally:
            future.cancel()
            if waiting.done() and not waiting.cancelled():
                waiting.exception()  # so that asyncio does not report it where this coroutine was cancelled meanwhile

    def open(self) -> list[Future[Any]]:
        """Those that are not done."""
        with self._lock:
            return list(self._open)

    def give_up(self, error: Exception) -> None:
        """Fail all that are not done."""
        for future in self.open():
            _settle(future, error=error)

    def _serve(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._running -= 1
                    return
                upscaling = self._waiting.popleft()
            began = time.monotonic()
            try:
                result = upscaling.work(upscaling.future)
            except BaseException as error:  # noqa: BLE001 - the waiting side's to handle
                _settle(upscaling.future, error=error)
            else:
                _settle(upscaling.future, result)
                self._seconds = time.monotonic() - began
                del result
            del upscaling  # or its picture would live until the next

    def _forget(self, upscaling: _Upscaling) -> None:
        with self._lock:
            self._open.discard(upscaling.future)
            if upscaling in self._waiting:
                self._waiting.remove(upscaling)


def _settle(future: Future[Any], result: Any = None, error: BaseException | None = None) -> None:
    """Resolve a future, unless it was cancelled or failed meanwhile."""
    try:
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
    except InvalidStateError:
        return
