"""Building a model's networks while others draw: it changes what all threads share.

An empty network is built by replacing what every module is made with (``register_parameter``, ``torch.nn.init``). What
another thread builds in these moments would come out without values. So both wait for each other: briefly, as the
weights are read later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class ReadWriteLock:
    """Lets either many threads pass that leave things as they are, or one that changes them."""

    def __init__(self) -> None:
        """Nobody passes."""
        self._changed = threading.Condition()
        self._passing = 0
        self._depths = threading.local()
        self._changing: list[int] = []  # the thread that does, as often as it began to

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Pass while nobody changes anything; again inside, also where somebody waits to."""
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

    def begin_change(self) -> None:
        """Let nobody pass from now on, and return once those who do are through; on one thread, also again."""
        own = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: not self._changing or self._changing[0] == own)
            self._changing.append(own)
            self._changed.wait_for(lambda: not self._passing)

    def end_change(self) -> None:
        """Let them pass again, when it was ended as often as it was begun."""
        with self._changed:
            self._changing.pop()
            self._changed.notify_all()


# For the process, as what it guards is the process's.
_CROSSING = ReadWriteLock()


def undisturbed(function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
    """What `function` returns, run while no network is being built."""
    with _CROSSING.passing():
        return function(*args, **kwargs)


@contextmanager
def building() -> Iterator[None]:
    """Build a network inside, by means that change what all threads share."""
    _CROSSING.begin_change()
    try:
        yield
    finally:
        _CROSSING.end_change()
