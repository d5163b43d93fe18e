"""The fields of a multipart form as the values of JSON: numbers as text, and brackets for lists and objects.

OpenAI's client writes ``image[]`` for each item of a list, and ``style_lora[style]`` for a key of an object.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from imagegen_core.errors import InvalidRequestError
from imagegen_core.parameter import Parameter
from imagegen_core.server.middleware.json_values import read_json

_NAME = re.compile(r"(?P<field>[^\[\]]{1,256})(?P<keys>(\[[^\[\]]{0,64}\]){0,4})")
_KEY = re.compile(r"\[([^\[\]]*)\]")
_KEPT = ("prompt", "negative_prompt")  # other fields without text count as left out, as in FastAPI
WHOLE = "request"
"""The name of a part with JSON for all fields."""


def values_of(
    parts: Iterable[tuple[str, str | bytes]], objects: Collection[str], parameters: Mapping[str, Parameter]
) -> dict[str, Any]:
    """Return the values of a form.

    Args:
        parts: Names and values in order; a file is its bytes.
        objects: Fields with objects; their text may be JSON.
        parameters: The parameters of plugins by name, to convert their text.

    Raises:
        InvalidRequestError: A name has a wrong form, or stands there twice.
        InvalidJsonError: The JSON of a part is wrong.
    """
    values: dict[str, Any] = {}
    whole: dict[str, Any] = {}
    for name, value in parts:
        if name == WHOLE:
            whole = _whole(value)
        elif value != "" or name in _KEPT:
            _put(values, name, value)
    if twice := [*values.keys() & whole.keys()]:
        raise _twice(twice[0])
    for name, value in values.items():
        if isinstance(value, str) and name in objects and value.lstrip().startswith("{"):
            values[name] = read_json(value.encode())
        elif isinstance(value, str) and name in parameters:
            values[name] = parameters[name].parse(value)
    return whole | values


def _whole(value: str | bytes) -> dict[str, Any]:
    found = read_json(value if isinstance(value, bytes) else value.encode())
    if not isinstance(found, dict):
        raise InvalidRequestError(f"The part {WHOLE!r} is not a JSON object: send the fields in one", WHOLE)
    return found


def _put(values: dict[str, Any], name: str, value: str | bytes) -> None:
    """Add a part to the values, by the brackets in its name; a repeated name makes a list."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise InvalidRequestError(
            f"Invalid field {name[:64]!r}: expected a name such as image, image[] or style_lora[style]", name[:64]
        )
    field, keys = match["field"], _KEY.findall(match["keys"])
    place: Any = values
    steps: list[str] = [field, *keys]
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if step == "" and step is not field:
            if following is not None or not isinstance(place, list):
                raise _twice(field)
            place.append(value)
        elif not isinstance(place, dict):
            raise _twice(field)
        elif following is None:
            if step not in place:
                place[step] = value
            elif place is values and isinstance(value, bytes):
                place[step] = [*(before if isinstance(before := place[step], list) else [before]), value]
            else:
                raise _twice(field)
        else:
            place = place.setdefault(step, [] if following == "" else {})


def _twice(field: str) -> InvalidRequestError:
    return InvalidRequestError(f"The field {field[:64]!r} stands twice in the form: send it once", field[:64])
