"""The memory of this machine, or of the container that this process is in."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import psutil

from imagegen_core.resources.control_groups import memory_limit


class SystemMemory(NamedTuple):
    """Memory in bytes.

    Attributes:
        total: What this process could use at most.
        available: What is free now, with what the kernel can free at once.
    """

    total: int
    available: int


def system_memory(root: Path = Path("/")) -> SystemMemory:
    """The machine's memory, or what control groups leave of it where that is less.

    Args:
        root: Where the control groups are looked for; see `control_groups`.
    """
    machine = psutil.virtual_memory()
    limit = memory_limit(root)
    if limit is None:
        return SystemMemory(machine.total, machine.available)
    return SystemMemory(min(machine.total, limit.total), min(machine.available, limit.available))
