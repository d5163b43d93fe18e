"""Build a model's networks while other threads draw.

To build an empty network, the library replaces functions that all threads share (``register_parameter``,
``torch.nn.init``). A module that another thread builds at that moment would have no values. So builders and other
threads wait for each other. The wait is short: the weights are read later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class ReadWriteLock:
    """A lock for many threads that read, or for one thread that changes things."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._passing = 0
        self._depths = threading.local()
        self._changing: list[int] = []  # the changing thread's id, once for each nested call

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Hold the lock for reading; a thread may nest this call, even while another thread waits to change."""
        depth = getattr(self._depths, "value", 0)
        if not depth:
            with self._changed:
                self._changed.wait_for(lambda: not self._changing)
                self._passing += 1
        self._depths.value = depth + 1
        try:
            yield
        finally:
            self._depths.value = depth
            if not depth:
                with self._changed:
                    self._passing -= 1
                    self._changed.notify_all()

    @contextmanager
    def stepping_aside(self) -> Iterator[None]:
        """Let go of the lock for a while, if this thread holds it for reading; changes may happen meanwhile."""
        depth = getattr(self._depths, "value", 0)
        if depth:
            self._depths.value = 0
            with self._changed:
                self._passing -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            if depth:
                with self._changed:
                    self._changed.wait_for(lambda: not self._changing)
                    self._passing += 1
                self._depths.value = depth

    def begin_change(self) -> None:
        """Block new readers, and return after the present ones have left; a thread may nest this call."""
        own = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: not self._changing or self._changing[0] == own)
            self._changing.append(own)
            self._changed.wait_for(lambda: not self._passing)

    def end_change(self) -> None:
        """Let readers in again, after the last nested change has ended."""
        with self._changed:
            self._changing.pop()
            self._changed.notify_all()


# One lock for the process: it guards functions of the whole process.
_CROSSING = ReadWriteLock()


def undisturbed(function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
    """Run `function` while no thread builds a network, and return its result."""
    with _CROSSING.passing():
        return function(*args, **kwargs)


@contextmanager
def stepping_aside() -> Iterator[None]:
    """Let other threads build a network now, in the middle of a long call of `undisturbed`."""
    with _CROSSING.stepping_aside():
        yield


@contextmanager
def building() -> Iterator[None]:
    """Lock out other threads to build a network, because the build changes shared functions."""
    _CROSSING.begin_change()
    try:
        yield
    finally:
        _CROSSING.end_change()
