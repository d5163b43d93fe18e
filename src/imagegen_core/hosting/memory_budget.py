"""The memory budget for several models, and the memory of each model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from imagegen_core.engine import Engine
from imagegen_core.worker import ReportsMemory

_SHARE = 0.8  # default budget: fraction of the memory free before the first model; the rest is for drawing


class MemoryBudget:
    """Memory limit for all models together on each device, and each model's size on its fullest device.

    Attributes:
        limit: Bytes on a device; None until the first model is loaded, unless configured.
    """

    def __init__(self, limit: int | None, estimate: Callable[[Any], int]) -> None:
        """Create a budget; `estimate` returns the bytes of a model that has not been measured."""
        self.limit = limit
        self._estimate = estimate
        self._weighed: dict[Hashable, int] = {}

    def need(self, key: Hashable) -> int:
        """Return a model's bytes: the last measurement, or the estimate."""
        return self._weighed[key] if key in self._weighed else self._estimate(key)

    def place(self, engine: Engine) -> tuple[str, ...]:
        """Return the device of each measurable copy of a model.

        Without a configured limit, the first model's devices also set the limit.
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
        """Measure and return a model's bytes; `devices` comes from `place`."""
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
