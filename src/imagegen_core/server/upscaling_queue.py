"""The queue of pictures to enlarge, with its own threads."""

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
"""A function to enlarge a picture; it may stop once its argument, a future, is done."""

_LONGEST_RETRY = 60.0


@dataclass(eq=False, slots=True)
class _Upscaling:
    work: Work[Any]
    weight: int
    future: Future[Any] = field(default_factory=Future)


class UpscalingQueue:
    """Enlarge pictures in order, on its own threads.

    A thread ends when the queue is empty. The threads are not daemons: the program would abort if it exited while a
    daemon runs torch code.
    """

    def __init__(self, limit: int, weight: int, threads: int = 1) -> None:
        """Create an empty queue.

        Args:
            limit: Maximum number of waiting pictures.
            weight: Maximum memory of all waiting pictures, in bytes.
            threads: Number of pictures to enlarge at the same time.
        """
        self._limit, self._weight, self._threads = limit, weight, threads
        self._waiting: deque[_Upscaling] = deque()
        self._open: set[Future[Any]] = set()
        self._running = 0
        self._seconds = 1.0  # duration of the last enlargement
        self._lock = threading.Lock()

    def check_room(self, weight: int = 0) -> None:
        """Check the queue's room for a picture of `weight` bytes.

        Raises:
            QueueFullError: Too many pictures wait, or they take too much memory.
        """
        with self._lock:
            self._check_room(weight)

    def submit(self, work: Work[Result], weight: int = 0, *, always: bool = False) -> Future[Result]:
        """Put work in the queue; cancel or fail its future to remove or stop the work.

        Args:
            work: The work.
            weight: Bytes of memory while the work waits.
            always: Accept the work even if the queue is full.

        Raises:
            QueueFullError: Too many pictures wait, or they take too much memory.
        """
        upscaling = _Upscaling(work, weight)
        with self._lock:
            if not always:
                self._check_room(weight)
            self._open.add(upscaling.future)
            self._waiting.append(upscaling)
            if self._running < self._threads:
                self._running += 1
                threading.Thread(target=self._serve, name="imagegen-upscaler").start()
        upscaling.future.add_done_callback(lambda _: self._forget(upscaling))
        return upscaling.future

    def open(self) -> list[Future[Any]]:
        """Return the futures of unfinished work."""
        with self._lock:
            return list(self._open)

    def give_up(self, error: Exception) -> None:
        """Fail all unfinished work."""
        for future in self.open():
            _settle(future, error=error)

    def _check_room(self, weight: int) -> None:
        """Check the queue's room; the caller holds the lock."""
        waiting = len(self._waiting)
        if waiting >= self._limit or (
            waiting and weight + sum(upscaling.weight for upscaling in self._waiting) > self._weight
        ):
            raise QueueFullError(
                f"{waiting} pictures wait to be enlarged already: try again in a moment",
                min(self._seconds * waiting / self._threads, _LONGEST_RETRY),
            )

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
            except BaseException as error:  # noqa: BLE001 - the future passes it on
                _settle(upscaling.future, error=error)
            else:
                _settle(upscaling.future, result)
                self._seconds = time.monotonic() - began
                del result
            del upscaling  # release the picture before the next wait

    def _forget(self, upscaling: _Upscaling) -> None:
        with self._lock:
            self._open.discard(upscaling.future)
            if upscaling in self._waiting:
                self._waiting.remove(upscaling)


async def finished(future: Future[Result], deadline: float) -> Result:
    """Wait for work in the queue; the caller cancels the future of work that nobody waits for.

    Args:
        future: The future of the work.
        deadline: `time.monotonic` seconds of the time limit.

    Raises:
        DeadlineError: The work was not done in time.
        ImagegenError: The work failed.
    """
    waiting = asyncio.wrap_future(future)
    try:
        await asyncio.wait({waiting}, timeout=deadline - time.monotonic())
        if not waiting.done():
            raise DeadlineError(
                "The picture was not enlarged in time: allow more time, ask for fewer passes, or send a smaller one"
            )
        return waiting.result()
    finally:
        if waiting.done() and not waiting.cancelled():
            waiting.exception()  # mark the error as retrieved, so that asyncio does not log it


def _settle(future: Future[Any], result: Any = None, error: BaseException | None = None) -> None:
    """Resolve a future, unless it is already cancelled or failed."""
    try:
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
    except InvalidStateError:
        return
