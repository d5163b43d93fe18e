"""Which models are there, and which makes room for which."""

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
    """The places of models, within a budget; used under the lock of `ModelManager`, which does what is decided here.

    Attributes:
        here: The models that are there or come, by their keys, in the order they were wanted.
        leaving: Those that go once they have no work in hand.
        budget: What they may take.
    """

    def __init__(self, limit: int | None, estimate: Callable[[Any], int]) -> None:
        """Nothing is there yet; see `MemoryBudget`."""
        self.here: dict[Hashable, CacheEntry] = {}
        self.leaving: list[CacheEntry] = []
        self.budget = MemoryBudget(limit, estimate)

    @property
    def all(self) -> Sequence[CacheEntry]:
        """All that are there, come or go."""
        return [*self.here.values(), *self.leaving]

    @property
    def ready(self) -> Sequence[CacheEntry]:
        """Those that draw."""
        return [one for one in self.here.values() if one.state == "ready"]

    @property
    def line(self) -> list[Ticket]:
        """Those that wait for a model, whichever."""
        return [ticket for one in self.here.values() for ticket in one.waiting if not ticket.done]

    @property
    def next(self) -> CacheEntry | None:
        """The first that is wanted and not begun with."""
        return next((one for one in self.here.values() if one.state == "wanted"), None)

    @property
    def last_used(self) -> CacheEntry | None:
        """The one of those that draw that was used last."""
        return max(self.ready, key=lambda one: one.used, default=None)

    def want(self, key: Hashable) -> CacheEntry:
        """A model's place, made where there is none."""
        resident = self.here.setdefault(key, CacheEntry(key))
        resident.used = time.monotonic()
        return resident

    def leave(self, resident: CacheEntry) -> None:
        """Have one go once it has no work in hand."""
        del self.here[resident.key]
        resident.state = "leaving"
        self.leaving.append(resident)

    def keep_only(self, keys: Collection[Hashable]) -> None:
        """Have all others go."""
        for resident in [one for key, one in self.here.items() if key not in keys and one.can_leave]:
            self.leave(resident)

    def replace_broken(self) -> None:
        """Want those anew whose engines broke."""
        for resident in [one for one in self.here.values() if one.can_leave and one.ready_engine.is_broken]:
            logger.warning("The engine of %s broke, and its model is loaded anew", resident.key)
            self.leave(resident)
            self.here[resident.key] = CacheEntry(resident.key)

    def weigh(self) -> None:
        """Note what the models take now, as LoRAs come and go, and keep within the budget."""
        for one in self.ready:
            one.size = self.budget.weigh(one.key, one.ready_engine, one.devices)
        if last := self.last_used:
            self._make_room(kept=last)

    def has_room(self) -> bool:
        """Whether there is a next, and it can be loaded now; where only room is missing, others are told to leave."""
        if self.next is None:
            return False
        beyond = self._make_room(self.budget.need(self.next.key))
        alone = not self.leaving and not any(one.can_leave for one in self.here.values())
        return beyond <= 0 or alone  # one model is served whatever it takes

    def _make_room(self, need: int = 0, kept: CacheEntry | None = None) -> int:
        """Have those used longest ago leave until `need` more bytes are there to be had.

        Returns:
            How many bytes more than there are all would take now, with those that leave.
        """
        if self.budget.limit is None:
            return 0
        beyond = sum(one.size for one in self.all) + need - self.budget.limit
        beyond_soon = beyond - sum(one.size for one in self.leaving)
        for resident in self._by_age():
            if beyond_soon > 0 and resident is not kept:
                beyond_soon -= resident.size
                self.leave(resident)
        return beyond

    def _by_age(self) -> list[CacheEntry]:
        """Those that can leave, without work in hand first, then those used longest ago."""
        return sorted((one for one in self.here.values() if one.can_leave), key=lambda one: (one.open > 0, one.used))
