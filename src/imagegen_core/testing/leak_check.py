"""Measure the resources of this process: objects, memory, threads, open files."""

from __future__ import annotations

import gc
import os
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_BYTES_A_JOB = 1024  # of Python's own memory; free lists initially fill up by half of it
_RESIDENT_A_JOB = 2**20  # of all memory: allocators keep freed memory, so small growth means nothing


_ROUNDS = 3


def left_behind(work: Callable[[int], object], jobs: int, warming_up: int) -> list[str]:
    """Describe the leaks of every job; return nothing if a round of jobs leaks nothing.

    A leak appears in each round. Growth that ends, as in caches, is no leak.

    Args:
        work: Does the job of a number.
        jobs: The number of jobs in a round.
        warming_up: The number of jobs before the first round.
    """
    grown: list[str] = []
    with Held.counting():
        for number in range(warming_up):
            work(number)
        for _ in range(_ROUNDS):
            grown = _grown(work, jobs)
            if not grown:
                break
    return grown


def _grown(work: Callable[[int], object], jobs: int) -> list[str]:
    """Describe the growth over one round; free the measurements before the next."""
    before = Held.now()
    for number in range(jobs):
        work(number)
    return Held.now().beyond(before, jobs)


@dataclass(frozen=True)
class Held:
    """The resources at one moment.

    Attributes:
        objects: Objects that the garbage collector tracks, by their class.
        bytes: Memory that Python allocated, while `counting`.
        own: The part of this memory for this object.
        resident: Memory of the process, if the system reports it.
        device: Memory allocated on CUDA devices.
        threads: Python's threads.
        files: Open files and sockets, if the system reports them.
    """

    objects: Counter[str]
    bytes: int
    own: int
    resident: int
    device: int
    threads: int
    files: int

    @staticmethod
    @contextmanager
    def counting() -> Iterator[None]:
        """Count Python's memory within the block."""
        counts_already = tracemalloc.is_tracing()
        if not counts_already:
            tracemalloc.start()
        yield
        if not counts_already:
            tracemalloc.stop()

    @classmethod
    def now(cls) -> Held:
        """Measure the resources after collecting garbage."""
        gc.collect()
        allocated = tracemalloc.get_traced_memory()[0]
        return cls(
            objects=_objects(),
            bytes=allocated,
            own=tracemalloc.get_traced_memory()[0] - allocated,
            resident=_resident(),
            device=_device(),
            threads=threading.active_count(),
            files=_files(),
        )

    def beyond(self, before: Held, jobs: int) -> list[str]:
        """Describe the resources that grew with every job, in words."""
        grown = [f"{count} more {kind}" for kind, count in (self.objects - before.objects).items() if count >= jobs]
        allocated = self.bytes - before.bytes - before.own
        if allocated > jobs * _BYTES_A_JOB:
            grown.append(f"{allocated:,} more bytes of Python's memory")
        if self.resident - before.resident > jobs * _RESIDENT_A_JOB:
            grown.append(f"{self.resident - before.resident:,} more bytes of memory")
        if self.device > before.device:
            grown.append(f"{self.device - before.device:,} more bytes on the device")
        if self.threads > before.threads:
            grown.append(f"{self.threads - before.threads} more threads")
        if self.files - before.files >= jobs:
            grown.append(f"{self.files - before.files} more open files")
        return grown


def _objects() -> Counter[str]:
    """Count the garbage collector's objects by their class."""
    classes: dict[type, int] = {}
    for tracked in gc.get_objects():
        classes[type(tracked)] = classes.get(type(tracked), 0) + 1
    objects: Counter[str] = Counter()
    for kind, count in classes.items():
        objects[f"{kind.__module__}.{kind.__qualname__}"] += count
    return objects


def _resident() -> int:
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def _device() -> int:
    torch = sys.modules.get("torch")
    return torch.cuda.memory_allocated() if torch and torch.cuda.is_available() else 0


def _files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0
