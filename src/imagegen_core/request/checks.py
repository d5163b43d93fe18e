"""Checks of single values; each refusal is a sentence with the value and the expected form."""

from __future__ import annotations

import math
import operator
import reprlib
from numbers import Real

from imagegen_core.errors import InvalidRequestError

MAX_SEED = 2**63 - 1
"""The largest seed."""
_FIELDS = {"style": "style_lora.style", "style level": "style_lora.level"}  # field names, if messages use other words


def text(name: str, value: object) -> str:
    """Return a text that every encoder accepts.

    Raises:
        InvalidRequestError: It is no text, or has a lone surrogate.
    """
    if not isinstance(value, str):
        raise InvalidRequestError(f"Invalid {name} {shown(value)}: expected text", _FIELDS.get(name, name))
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"Invalid {name} {shown(value)}: its character {error.start + 1} is a lone surrogate, half of a character; "
            "send text that is valid Unicode",
            _FIELDS.get(name, name),
        ) from None
    return value


def whole_number(name: str, value: object, low: int = 0, high: int | None = None) -> int:
    """Return a whole number within its limits.

    Raises:
        InvalidRequestError: It is no whole number, or out of range.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < low or (high is not None and number > high):
        span = f"from {low}" if high is None else f"from {low} to {high}"
        raise InvalidRequestError(
            f"Invalid {name} {shown(value)}: expected a whole number {span}", _FIELDS.get(name, name)
        )
    return number


def number(name: str, value: object, high: float, low: float = 0.0) -> float | None:
    """Return a number within its limits; None stays None.

    Raises:
        InvalidRequestError: It is no number, or out of range.
    """
    if value is None:
        return None
    given = real(value)
    if low <= given <= high:
        return given
    raise InvalidRequestError(f"Invalid {name} {shown(value)}: expected a number from {low:g} to {high:g}", name)


def flag(name: str, value: object) -> bool:
    """Return true or false.

    Raises:
        InvalidRequestError: It is neither.
    """
    if isinstance(value, bool):
        return value
    raise InvalidRequestError(f"Invalid {name} {shown(value)}: expected true or false", name)


def choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """Return one of several words.

    Raises:
        InvalidRequestError: It is another.
    """
    if isinstance(value, str) and value in choices:
        return value
    raise InvalidRequestError(f"Invalid {name} {shown(value)}: expected one of {', '.join(choices)}", name)


def real(value: object) -> float:
    """Convert `value` to a float: NaN if it is not a number, infinity if it is an integer too large for a float."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def shown(value: object) -> str:
    """Format `value` for an error message: quoted, and at most one line."""
    return reprlib.repr(value)
