"""Work in parts: generators that yield between two parts and return a result."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

Result = TypeVar("Result")

Parts: TypeAlias = Generator[None, None, Result]
"""Work that pauses at each ``yield``, and returns its result in the end."""


def completed(parts: Parts[Result]) -> Result:
    """Do all parts at once, and return the result."""
    while True:
        try:
            next(parts)
        except StopIteration as end:
            result: Result = end.value
            return result


def works_in_parts(worker: object, whole: str) -> bool:
    """Whether a method has a form in parts that does the same, such as ``begin_in_parts`` for ``begin``.

    A class that overrides the whole method alone, or wraps a worker, means the whole method to be called.
    """
    for names in (getattr(worker, "__dict__", {}), *map(vars, type(worker).__mro__)):
        if f"{whole}_in_parts" in names:
            return True
        if whole in names:
            return False
    return False
