"""The model cache's entry for one model."""

from __future__ import annotations

import time
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

from imagegen_core.engine import Engine, Ticket

State = Literal["wanted", "loading", "ready", "leaving", "failed"]


@dataclass(frozen=True, slots=True)
class CacheEntryReport:
    """Report of a cache entry.

    Attributes:
        key: The model's key.
        state: ``wanted``, ``loading``, ``ready``, or ``leaving`` (unloads after its last request).
        size: Measured bytes of the model, on the device with the most of them; 0 before it is loaded.
        open: Number of open requests, including those waiting for the model.
        seconds: Load time in seconds.
    """

    key: Any
    state: State
    size: int
    open: int
    seconds: float


@dataclass(eq=False)
class CacheEntry:
    """A model that is loaded, loading, queued or leaving.

    Attributes:
        key: The model's key.
        state: The current state.
        engine: The engine of a loaded model, else None.
        devices: Devices of the model's copies, from `MemoryBudget.place`.
        pinned: Whether the model must stay loaded.
        size: Bytes that the model takes.
        waiting: Tickets that wait for the model.
        open: Number of open requests; the model stays while there are any.
        used: Time of the last use, in `time.monotonic` seconds.
        seconds: Load time in seconds.
        loaded: Future of the engine, or of the load error.
    """

    key: Hashable
    state: State = "wanted"
    engine: Engine | None = None
    devices: tuple[str, ...] = ()
    pinned: bool = False
    size: int = 0
    waiting: list[Ticket] = field(default_factory=list)
    open: int = 0
    used: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    loaded: Future[Engine] = field(default_factory=Future)

    @property
    def can_leave(self) -> bool:
        """Whether the model may be unloaded after its open requests."""
        return self.state == "ready" and not self.pinned

    @property
    def is_idle(self) -> bool:
        """Whether the model may be unloaded now."""
        return self.can_leave and not self.open

    @property
    def ready_engine(self) -> Engine:
        """The engine of an entry that has an engine.

        Raises:
            LookupError: It has none.
        """
        if self.engine is None:
            raise LookupError(f"{self.key} has no engine: its state is {self.state}")
        return self.engine

    def tell(self) -> CacheEntryReport:
        """Return the report of this entry."""
        return CacheEntryReport(self.key, self.state, self.size, self.open, self.seconds)


class Claim:
    """A ticket's claim on a model, which keeps it loaded. Its methods need the lock of the `ModelManager`.

    Attributes:
        entry: The model.
    """

    def __init__(self, entry: CacheEntry) -> None:
        """Claim a model."""
        self.entry = entry
        self._is_open = True
        entry.open += 1

    def move(self, entry: CacheEntry) -> None:
        """Claim another model in place of this one, unless the claim has ended."""
        if self._is_open:
            self.end()
            self.entry, self._is_open = entry, True
            entry.open += 1

    def end(self) -> None:
        """Let go of the model."""
        if self._is_open:
            self._is_open = False
            self.entry.open -= 1
            self.entry.used = time.monotonic()
