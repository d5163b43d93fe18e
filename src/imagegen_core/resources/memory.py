"""The memory of this machine, or of this process's container."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import psutil

from imagegen_core.resources.control_groups import memory_limit


class SystemMemory(NamedTuple):
    """Memory in bytes.

    Attributes:
        total: The maximum for this process.
        available: The free memory, including memory that the kernel can free at once.
    """

    total: int
    available: int


def system_memory(root: Path = Path("/")) -> SystemMemory:
    """Return the machine's memory, or the control groups' limit if that is less.

    Args:
        root: The folder to search for control groups; see `control_groups`.
    """
    machine = psutil.virtual_memory()
    limit = memory_limit(root, machine.total)
    if limit is None:
        return SystemMemory(machine.total, machine.available)
    return SystemMemory(min(machine.total, limit.total), min(machine.available, limit.available))
