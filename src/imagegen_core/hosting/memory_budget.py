"""The memory that several models share, and what each of them takes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from imagegen_core.engine import Engine
from imagegen_core.worker import ReportsMemory

_SHARE = 0.8  # of what was free before the first model, where nothing is configured: the rest is for what is drawn


class MemoryBudget:
    """What models may take together on each device, and what each takes: on the device where it takes the most.

    Attributes:
        limit: Bytes on a device; None before the first model is there, where nothing is configured.
    """

    def __init__(self, limit: int | None, estimate: Callable[[Any], int]) -> None:
        """No model is there yet; `estimate` guesses what a key's takes, before it was ever weighed."""
        self.limit = limit
        self._estimate = estimate
        self._weighed: dict[Hashable, int] = {}

    def need(self, key: Hashable) -> int:
        """What a model takes, as it was weighed last, or is guessed to."""
        return self._weighed[key] if key in self._weighed else self._estimate(key)

    def place(self, engine: Engine) -> tuple[str, ...]:
        """The devices that a model came to, one for each copy that can be weighed.

        Of the first, and where nothing is configured, they set the limit.
        """
        copies = _weighable(engine)
        memories = [copy.device_memory() for copy in copies]
        devices = tuple(memory.device for memory in memories)
        if self.limit is None and copies:
            taken = _taken(copies, devices)
            room = min(min(memory.free + taken[memory.device], memory.total) for memory in memories)
            self.limit = int(_SHARE * room)
        return devices

    def weigh(self, key: Hashable, engine: Engine, devices: Sequence[str]) -> int:
        """What a model takes now, in bytes, on the devices that `place` told."""
        if devices:
            self._weighed[key] = max(_taken(_weighable(engine), devices).values())
        return self._weighed.setdefault(key, self.need(key))


def _weighable(engine: Engine) -> list[ReportsMemory]:
    return [worker for worker in engine.workers if isinstance(worker, ReportsMemory)]


def _taken(copies: Sequence[ReportsMemory], devices: Sequence[str]) -> Counter[str]:
    taken = Counter[str]()
    for copy, device in zip(copies, devices, strict=True):
        taken[device] += copy.memory_bytes()
    return taken
