"""Sample a process's memory while it works: anonymous memory, and pages of mapped files, apart."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

_ANONYMOUS, _MAPPED = ("RssAnon", "RssShmem"), ("RssFile",)


def resident() -> dict[str, int]:
    """Return the bytes of this process's ``anonymous`` and ``mapped`` memory, and their ``total``, in Linux."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    anonymous, mapped = (sum(1024 * int(fields[name].split()[0]) for name in names) for names in (_ANONYMOUS, _MAPPED))
    return {"anonymous": anonymous, "mapped": mapped, "total": anonymous + mapped}


class PeakMemory:
    """A context that samples `resident` on a thread, every few milliseconds.

    Attributes:
        before: The memory at the beginning.
        peak: The largest value of each kind so far; their moments may differ.
    """

    def __init__(self, seconds: float = 0.005) -> None:
        """Take the time between two samples."""
        self._seconds = seconds

    def __enter__(self) -> Self:
        self.before: Mapping[str, int] = resident()
        self.peak = dict(self.before)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def growth(self) -> dict[str, int]:
        """The peak above the beginning, in bytes."""
        return {kind: self.peak[kind] - self.before[kind] for kind in self.peak}

    def _watch(self) -> None:
        while not self._ended.wait(self._seconds):
            self._sample()
        self._sample()

    def _sample(self) -> None:
        now = resident()
        self.peak = {kind: max(most, now[kind]) for kind, most in self.peak.items()}
