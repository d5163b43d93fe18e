"""Parse untrusted JSON (RFC 8259), within limits."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

from starlette.exceptions import HTTPException

from imagegen_core.request import shown

MOST_VALUES = 10_000
"""Maximum number of values in one body's arrays and objects. FastAPI takes about 10 µs to report a wrong value."""

DEEPEST = 64
"""Maximum depth of nested arrays and objects."""

_MOST_SIGNS = 200_000  # commas and opening brackets, also within strings; parsing so many takes about 20 ms
_NAMED = 64  # characters of a field's name in a message
_SURROGATE = re.compile("[\ud800-\udfff]")


class InvalidJsonError(HTTPException):
    """A body is not JSON, or exceeds the limits.

    Attributes:
        field: The wrong field of the body; None if no field is known.
    """

    def __init__(self, detail: str, field: str | None = None) -> None:
        super().__init__(422, detail)
        self.field = field


def read_json(body: bytes) -> Any:
    """Parse a body.

    Raises:
        InvalidJsonError: The body is not JSON, has too many values, is nested too deep, has a number beyond 64-bit
            floats, repeats a name in an object, or has half a surrogate pair.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > _MOST_SIGNS:
        raise _too_many()
    try:
        text = body.decode("utf-8-sig")
        value = json.loads(
            text, parse_int=_int, parse_float=_float, parse_constant=_constant, object_pairs_hook=_object
        )
    except UnicodeDecodeError as error:
        raise InvalidJsonError(f"The body is not UTF-8, from byte {error.start} on: encode it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise InvalidJsonError(f"The body is not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise _too_deep() from error
    _check(value)
    return value


def _check(body: Any) -> None:
    """Check the number of values, the depth and the text.

    Raises:
        InvalidJsonError: A limit is exceeded, or a text has half a surrogate pair.
    """
    waiting: list[tuple[Any, int, str | None]] = [(body, 0, None)]
    count = 0
    while waiting:
        value, depth, field = waiting.pop()
        if isinstance(value, list | dict):
            count += len(value)
            if count > MOST_VALUES:
                raise _too_many()
            if depth >= DEEPEST:
                raise _too_deep()
        if isinstance(value, str):
            _check_text(value, field)
        elif isinstance(value, list):
            waiting += [(part, depth + 1, field) for part in value]
        elif isinstance(value, dict):
            for name, part in value.items():
                _check_text(name, field)
                waiting.append((part, depth + 1, field or name[:_NAMED]))


def _check_text(text: str, field: str | None) -> None:
    if text.isascii() or not (half := _SURROGATE.search(text)):
        return
    raise InvalidJsonError(
        f"Invalid {field or 'body'}: character {half.start()} is {shown(half[0])}, half a surrogate pair; send whole "
        "characters",
        field,
    )


def _too_many() -> InvalidJsonError:
    return InvalidJsonError(f"The body holds too many values: send up to {MOST_VALUES}")


def _too_deep() -> InvalidJsonError:
    return InvalidJsonError(f"The body is nested too deep: send up to {DEEPEST} arrays and objects within each other")


def _int(digits: str) -> int:
    _float(digits)
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise InvalidJsonError(f"The number {shown(digits)} is too large: send up to {1.7e308:g}")
    return number


def _constant(name: str) -> NoReturn:
    raise InvalidJsonError(f"The body is not JSON: it has no {name}; send a number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise InvalidJsonError(f"The name {shown(name)} stands twice in an object of the body: send it once")
    return value
