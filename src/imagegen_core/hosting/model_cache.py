"""The cache of loaded models, with eviction by a memory budget."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any

from imagegen_core.engine.ticket import Ticket
from imagegen_core.hosting.cache_entry import CacheEntry
from imagegen_core.hosting.memory_budget import MemoryBudget

logger = logging.getLogger(__name__)


class ModelCache:
    """Cache entries within a memory budget. `ModelManager` uses it under its lock, and carries out its decisions.

    Attributes:
        here: Entries of models that are loaded, loading or queued, by key, in the order of the first request.
        leaving: Entries to unload after their last open request.
        budget: The memory budget.
    """

    def __init__(self, limit: int | None, estimate: Callable[[Any], int]) -> None:
        """Create an empty cache; see `MemoryBudget`."""
        self.here: dict[Hashable, CacheEntry] = {}
        self.leaving: list[CacheEntry] = []
        self.budget = MemoryBudget(limit, estimate)

    @property
    def all(self) -> Sequence[CacheEntry]:
        """All entries."""
        return [*self.here.values(), *self.leaving]

    @property
    def ready(self) -> Sequence[CacheEntry]:
        """Entries of loaded models."""
        return [entry for entry in self.here.values() if entry.state == "ready"]

    @property
    def line(self) -> list[Ticket]:
        """Tickets that wait for any model."""
        return [ticket for entry in self.here.values() for ticket in entry.waiting if not ticket.done]

    @property
    def next(self) -> CacheEntry | None:
        """The next model to load, or None."""
        return next((entry for entry in self.here.values() if entry.state == "wanted"), None)

    @property
    def last_used(self) -> CacheEntry | None:
        """The most recently used loaded model, or None."""
        return max(self.ready, key=lambda entry: entry.used, default=None)

    def want(self, key: Hashable) -> CacheEntry:
        """Return a model's entry, and create it if it is missing."""
        entry = self.here.setdefault(key, CacheEntry(key))
        entry.used = time.monotonic()
        return entry

    def leave(self, entry: CacheEntry) -> None:
        """Mark an entry for unloading after its open requests."""
        del self.here[entry.key]
        entry.state = "leaving"
        self.leaving.append(entry)

    def keep_only(self, keys: Collection[Hashable]) -> None:
        """Mark all other entries for unloading."""
        for entry in [entry for key, entry in self.here.items() if key not in keys and entry.can_leave]:
            self.leave(entry)

    def replace_broken(self) -> None:
        """Queue models with broken engines to load again."""
        for entry in [entry for entry in self.here.values() if entry.can_leave and entry.ready_engine.is_broken]:
            logger.warning("The engine of %s broke: loading its model again", entry.key)
            self.leave(entry)
            self.here[entry.key] = CacheEntry(entry.key)

    def weigh(self) -> None:
        """Measure the models, because LoRAs change their size, and evict models over the budget."""
        for entry in self.ready:
            entry.size = self.budget.weigh(entry.key, entry.ready_engine, entry.devices)
        if last := self.last_used:
            self._make_room(kept=last)

    def has_room(self) -> bool:
        """Return whether a next model exists and can load now; mark others for unloading if only memory is missing."""
        if self.next is None:
            return False
        beyond = self._make_room(self.budget.need(self.next.key))
        alone = not self.leaving and not any(entry.can_leave for entry in self.here.values())
        return beyond <= 0 or alone  # a single model may exceed the budget

    def _make_room(self, need: int = 0, kept: CacheEntry | None = None) -> int:
        """Mark the least recently used models for unloading, until `need` more bytes fit in the budget.

        Returns:
            Bytes over the budget now, counting `need` and the models that are leaving.
        """
        if self.budget.limit is None:
            return 0
        beyond = sum(entry.size for entry in self.all) + need - self.budget.limit
        beyond_soon = beyond - sum(entry.size for entry in self.leaving)
        for entry in self._by_age():
            if beyond_soon > 0 and entry is not kept:
                beyond_soon -= entry.size
                self.leave(entry)
        return beyond

    def _by_age(self) -> list[CacheEntry]:
        """Return the entries that can leave: idle ones first, then the least recently used."""
        return sorted(
            (entry for entry in self.here.values() if entry.can_leave), key=lambda entry: (entry.open > 0, entry.used)
        )
