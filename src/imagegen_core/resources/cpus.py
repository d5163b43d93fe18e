"""The available CPUs of this process."""

from __future__ import annotations

import math
import os
from pathlib import Path

from imagegen_core.resources.control_groups import cpu_limit


def usable_cpus(root: Path = Path("/")) -> int:
    """Count the CPUs available to this process, at least 1; a quota of 1.5 CPUs counts as 2, as in Go and Java.

    Args:
        root: The folder to search for control groups; see `control_groups`.
    """
    # Only Linux has an affinity to query.
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_limit(root)
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))
