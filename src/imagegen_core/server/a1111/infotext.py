"""A1111's text of a picture, with the values as a client of its API gave them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from imagegen_core.images.png_text import png_text, with_png_text
from imagegen_core.images.recipe import A1111_CHUNK, quoted

_VALUE = re.compile(r'(\w[\w \-/]*): ("(?:\\.|[^\\"])*"|[^,]*)(?:, |$)')  # as in A1111's modules/infotext_utils.py
_LAST = "Version"


def with_details(png: bytes, details: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return a picture with changed values in its A1111 text, and this text.

    Args:
        png: The picture.
        details: The values by their names in the text; None takes a value out.
    """
    text = png_text(png).get(A1111_CHUNK, "")
    if not text or not details:
        return png, text
    head, _, line = text.rpartition("\n")
    stated = dict(_VALUE.findall(line))
    if _line(stated) != line:  # a plugin's value has another form
        return png, text
    last = {_LAST: stated.pop(_LAST)} if _LAST in stated else {}
    given = {name: None if value is None else quoted(value) for name, value in details.items()}
    changed = _line({**stated, **given, **last})
    text = f"{head}\n{changed}" if head else changed
    return with_png_text(png, {A1111_CHUNK: text}), text


def _line(values: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items() if value is not None)
