"""Input pictures within a recipe: their pixels as PNG in base64, without the files' own metadata."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imagegen_core.picture_files.input_picture import InputPicture


def embedded(pictures: Mapping[str, InputPicture | None], most_bytes: int) -> dict[str, str]:
    """Return the pictures that have at most this many bytes as PNG, in base64, by name.

    Raises:
        PictureError: A picture is damaged.
    """
    encoded = {name: _png(picture) for name, picture in pictures.items() if picture is not None and most_bytes}
    return {name: base64.b64encode(png).decode() for name, png in encoded.items() if len(png) <= most_bytes}


def embedded_bytes(pictures: Mapping[str, str] | None) -> int:
    """Return the size of the largest embedded picture, in bytes as PNG; 0 without one."""
    return max((len(base64.b64decode(text)) for text in (pictures or {}).values()), default=0)


def _png(picture: InputPicture) -> bytes:
    buffer = io.BytesIO()
    picture.rgb().save(buffer, "PNG")
    return buffer.getvalue()
