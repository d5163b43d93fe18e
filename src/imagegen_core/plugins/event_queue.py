"""A queue of jobs' events, told on a thread of its own, so that a slow plugin delays no picture."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imagegen_core.job import Event, Job

_log = logging.getLogger(__name__)

_MOST = 1024  # waiting events; each `Done` holds a picture
_CLOSE_LIMIT = 10.0  # seconds to tell of the waiting events at the end


class EventQueue:
    """Tells of events one after another."""

    def __init__(self, tell: Callable[[Job, Event], object]) -> None:
        """Start the thread.

        Args:
            tell: Is called with each event on the thread; it raises nothing.
        """
        self._tell = tell
        self._waiting: queue.Queue[tuple[Job, Event] | None] = queue.Queue(_MOST)
        self._is_behind = False
        self._thread = threading.Thread(target=self._work, name="imagegen-events", daemon=True)
        self._thread.start()

    def put(self, job: Job, event: Event) -> None:
        """Queue an event; if the plugins are far behind, leave it out and log a warning."""
        try:
            self._waiting.put_nowait((job, event))
        except queue.Full:
            if not self._is_behind:
                _log.warning("Plugins are %d events behind in imagegen_job_event: newer events are left out", _MOST)
            self._is_behind = True
        else:
            self._is_behind = self._is_behind and self._waiting.qsize() > 1

    def close(self) -> None:
        """Tell of the waiting events, for up to ten seconds, and end the thread."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=_CLOSE_LIMIT)
        self._thread.join(_CLOSE_LIMIT)
        if self._thread.is_alive():
            _log.warning("Plugins are too slow in imagegen_job_event: the last events are left out")

    def _work(self) -> None:
        while (entry := self._waiting.get()) is not None:
            self._tell(*entry)
