"""The memory and CPU limits of Linux control groups, as set by containers and service managers.

Sources: the kernel's ``admin-guide/cgroup-v2.rst``, ``admin-guide/cgroup-v1/memory.rst``, ``scheduler/sched-bwc.rst``,
cgroups(7) and proc_pid_mountinfo(5). A limit also holds for all child groups. So the tightest limit counts, from the
process's own group up to the mounted root.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_OCTAL = re.compile(r"\\([0-7]{3})")  # the form of spaces in mountinfo


class MemoryLimit(NamedTuple):
    """The memory limit of the control groups, in bytes.

    Attributes:
        total: The tightest limit.
        available: The least memory left in any group; page cache that the kernel can drop counts as free.
    """

    total: int
    available: int


class _MemoryFiles(NamedTuple):
    """The file names of one cgroup version."""

    limits: tuple[str, ...]
    usage: str
    droppable: tuple[str, ...]  # lines of memory.stat


# Beyond memory.high the kernel does not kill a process, but throttles it until it hardly proceeds.
_V2 = _MemoryFiles(("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file"))
_V1 = _MemoryFiles(("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))


def memory_limit(root: Path = Path("/"), below: int = sys.maxsize) -> MemoryLimit | None:
    """Return the memory limit of this process's control groups; None without a limit.

    Args:
        root: The folder with ``/proc`` and the mounted hierarchies.
        below: The machine's memory in bytes. A limit from this number on limits nothing, and its statistics are not
            read: the kernel takes up to half a millisecond to sum them up.
    """
    limits = [
        limit
        for files, controller in ((_V1, "memory"), (_V2, ""))
        for group in _groups(controller, root)
        if (limit := _memory_limit(group, files, below))
    ]
    if not limits:
        return None
    return MemoryLimit(min(limit.total for limit in limits), min(limit.available for limit in limits))


def cpu_limit(root: Path = Path("/")) -> float | None:
    """Return the CPU limit of this process's control groups, in CPUs, such as 1.5; None without a limit.

    Args:
        root: The folder with ``/proc`` and the mounted hierarchies.
    """
    quotas = [_quota(_text(group / "cpu.max").split()) for group in _groups("", root)]
    quotas += [
        _quota([_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")])
        for group in _groups("cpu", root)
    ]
    return min((quota for quota in quotas if quota), default=None)


def _memory_limit(group: Path, files: _MemoryFiles, below: int) -> MemoryLimit | None:
    limits = [limit for name in files.limits if (limit := _number(_text(group / name))) is not None]
    if min(limits, default=below) >= below:
        return None
    statistics = dict(line.split(maxsplit=1) for line in _text(group / "memory.stat").splitlines() if " " in line)
    droppable = sum(_number(statistics.get(line, "")) or 0 for line in files.droppable)
    used = max(0, (_number(_text(group / files.usage)) or 0) - droppable)
    return MemoryLimit(min(limits), max(0, min(limits) - used))


def _quota(words: list[str]) -> float | None:
    """Return the CPUs of a quota and its period, both in microseconds; None for a quota of ``max`` or -1."""
    numbers = [_number(word) for word in words]
    match numbers:
        case [int(quota), int(period)] if quota > 0 and period > 0:
            return quota / period
    return None


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of this process's group in a controller's hierarchy and of its parents.

    Args:
        controller: A controller of version 1; "" is the hierarchy of version 2.
        root: The folder with ``/proc`` and the mounted hierarchies.
    """
    path = _own_group(controller, root)
    mount = _mount(controller, root)
    if path is None or mount is None:
        return
    top, point = mount
    try:
        below = PurePosixPath(path).relative_to(top)
    except ValueError:  # a container without its own namespace sees its host's path here
        below = PurePosixPath()
    if ".." in below.parts:
        below = PurePosixPath()
    folder = root / point.lstrip("/")
    for parts in range(len(below.parts), -1, -1):
        yield folder.joinpath(*below.parts[:parts])


def _own_group(controller: str, root: Path) -> str | None:
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            return path
    return None


@cache
def _mount(controller: str, root: Path) -> tuple[str, str] | None:
    """Return the root group of a hierarchy's mount, and the mount point."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        mount, _, system = line.partition(" - ")
        match mount.split(), system.split():
            case [_, _, _, top, point, *_], [kind, _, options]:
                wanted = (kind == "cgroup" and controller in options.split(",")) if controller else kind == "cgroup2"
                if wanted:
                    return _unescaped(top), _unescaped(point)
    return None


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def _text(path: Path) -> str:
    """Return a file's text; "" if the file does not exist or is not readable."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").strip()
    except OSError:
        return ""


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
