"""The check of micro-conditioning: the base takes a target size, and the refiner an aesthetic score."""

from __future__ import annotations

from collections.abc import Iterable

from imagegen_core import InvalidRequestError, ResolvedRequest

SCORES = ("aesthetic_score", "negative_aesthetic_score")
TARGET_SIZES = ("target_size", "negative_target_size")


def check_conditions(request: ResolvedRequest, untaken: Iterable[str], taker: str) -> None:
    """Refuse conditions that the network does not take.

    Args:
        request: The request.
        untaken: The names of these conditions.
        taker: The network that takes them, in words.

    Raises:
        InvalidRequestError: The request has one of them.
    """
    given = request.micro_conditioning.given()
    for name in untaken:
        if name in given:
            field = f"micro_conditioning.{name}"
            raise InvalidRequestError(f"Invalid {field} {given[name]!r}: only {taker} takes it; leave it out", field)
