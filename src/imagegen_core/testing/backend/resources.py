"""Checks that a worker does not leak over days, and frees its resources at the end."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from imagegen_core.backend import Backend
from imagegen_core.settings import Settings
from imagegen_core.testing.backend.kit import BackendKit
from imagegen_core.testing.leak_check import left_behind
from imagegen_core.worker import Worker

_JOBS = 50
_WARMING_UP = 20
_ENDS_WITHIN = 10.0


class ResourceChecks(BackendKit):
    """Leaks, and the end of a worker."""

    def test_fifty_jobs_leak_nothing(self, worker: Worker) -> None:
        """A server draws for weeks: a leak per job, even a kilobyte or an open file, will end it one day."""
        grown = left_behind(lambda seed: self.draw(worker, seed=seed), _JOBS, _WARMING_UP)
        assert not grown, f"after {_JOBS} jobs there are {', '.join(grown)}"

    def test_a_dropped_worker_is_freed(self, description: Backend, settings: Settings) -> None:
        """Unloading a model frees its memory only if nothing holds the worker any more, and its threads end with it."""
        before = set(threading.enumerate())
        worker = description.load()(worker_id=0, settings=settings)
        self.draw(worker)
        try:
            gone = weakref.ref(worker)
        except TypeError:
            pytest.skip("the worker's class has __slots__ without __weakref__, so its end cannot be seen")
        del worker
        gc.collect()
        assert gone() is None, f"the worker is still held by {_holders(gone())}"
        for thread in set(threading.enumerate()) - before:
            thread.join(_ENDS_WITHIN)
            assert not thread.is_alive(), f"its thread {thread.name} goes on"


def _holders(worker: object) -> str:
    """Name the types of an object's holders, for a message."""
    return (
        ", ".join(sorted({type(holder).__name__ for holder in gc.get_referrers(worker)})) or "something outside Python"
    )
