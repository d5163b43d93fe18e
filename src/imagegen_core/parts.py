"""Work in parts: generators that yield between two parts and return a result."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYetError
from typing import TypeAlias, TypeVar

Result = TypeVar("Result")

_FIRST_WAIT = 0.0001  # seconds
_WAIT = 0.002  # seconds to wait for another thread before other requests take their turn

Parts: TypeAlias = Generator[None, None, Result]
"""Generator for work in parts: it pauses at each ``yield``, and returns the result at the end."""


def completed(parts: Parts[Result]) -> Result:
    """Run all parts, and return the result."""
    while True:
        try:
            next(parts)
        except StopIteration as end:
            result: Result = end.value
            return result


def after_next(parts: Parts[Result]) -> Result | None:
    """Run the next part; return the result after the last part, and None after others.

    A `StopIteration` from another thread would stay alive through its own traceback, and with it the result.
    """
    try:
        next(parts)
    except StopIteration as end:
        result: Result = end.value
        return result
    return None


def awaited(future: Future[Result]) -> Parts[Result]:
    """Wait for a result of another thread, and yield after a tenth of a millisecond, later every two milliseconds."""
    wait = _FIRST_WAIT
    while True:
        try:
            return future.result(wait)
        except NotYetError:
            if future.done():  # the work itself raised this error
                raise
            yield
            wait = min(2 * wait, _WAIT)


def works_in_parts(worker: object, whole: str) -> bool:
    """Return whether a method also exists in parts, such as ``begin_in_parts`` for ``begin``.

    If a class overrides only the whole method, or wraps a worker, the whole method must be called.
    """
    for names in (getattr(worker, "__dict__", {}), *map(vars, type(worker).__mro__)):
        if f"{whole}_in_parts" in names:
            return True
        if whole in names:
            return False
    return False
