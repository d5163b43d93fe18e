"""Report a step that takes too long; the thread of the step cannot do this itself."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


class Watchdog:
    """Watch the work of one thread, and log an error if a task exceeds the limit."""

    def __init__(self, limit: float) -> None:
        """Start the watchdog; `limit` is in seconds."""
        self._limit = limit
        self._began: float | None = None
        self._what = ""
        self._changed = threading.Condition()
        self._closed = False
        threading.Thread(target=self._watch, name="imagegen-watchdog", daemon=True).start()

    @contextmanager
    def watching(self, what: str) -> Iterator[None]:
        """Watch the enclosed task; the log calls it `what`."""
        self._what, self._began = what, time.monotonic()
        try:
            yield
        finally:
            self._began = None

    def progress(self) -> None:
        """Count the limit from now on, because the current task has reported a part of its work."""
        if self._began is not None:
            self._began = time.monotonic()

    @property
    def stuck(self) -> float:
        """Seconds that the current task has been running, if this is over the limit; else 0."""
        began = self._began
        taken = 0.0 if began is None else time.monotonic() - began
        return taken if taken > self._limit else 0.0

    def close(self) -> None:
        """Stop the watchdog."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _watch(self) -> None:
        reported = None
        while True:
            began = self._began
            left = self._limit if began is None or began == reported else began + self._limit - time.monotonic()
            with self._changed:
                if self._changed.wait_for(lambda: self._closed, timeout=max(left, 0.0)):
                    return
            if (taken := self.stuck) and self._began != reported:
                reported = self._began
                logger.error(
                    "%s has been running for %.0f s: the device may hang; look at it, and restart",
                    self._what,
                    taken,
                )
