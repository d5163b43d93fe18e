"""One model's place among those that are loaded."""

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
    """What there is to tell of a model.

    Attributes:
        key: Which model.
        state: ``wanted``, ``loading``, ``ready``, or ``leaving`` once its work is done.
        size: Bytes it takes, as measured, on the device where it takes the most; 0 before it is there.
        open: Requests it has in hand, those that wait for it among them.
        seconds: How long it took to load.
    """

    key: Any
    state: State
    size: int
    open: int
    seconds: float


@dataclass(eq=False)
class CacheEntry:
    """A model that is there, or comes, or goes.

    Attributes:
        key: Which model.
        state: Where it stands.
        engine: Its engine, while there is one.
        devices: Where its copies are, as `MemoryBudget.place` tells it.
        pinned: Whether it stays whatever happens.
        size: Bytes it takes.
        waiting: Those that wait until it is there.
        open: How many requests it has in hand; with any, it stays.
        used: `time.monotonic` seconds at which it last had something to do.
        seconds: How long it took to load.
        loaded: Holds the engine once it is there, or why it is not.
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
        """Whether it may be let go of, when its work is done."""
        return self.state == "ready" and not self.pinned

    @property
    def is_idle(self) -> bool:
        """Whether it may be let go of now."""
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
        """What there is to tell of it."""
        return CacheEntryReport(self.key, self.state, self.size, self.open, self.seconds)
