"""What a picture file holds beside its pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Format = Literal["PNG", "JPEG", "WEBP", "BMP", "GIF"]

MAX_BLOCKS = 65_536
"""The most chunks, segments or blocks that a file may have: a loop in Python passes each of them."""
MAX_TEXT = 4 * 2**20
"""The most bytes of text that a file may carry, unpacked."""


class RefusedError(ValueError):
    """The file may be whole, and would take too much to read; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Structure:
    """A picture file, taken apart.

    Attributes:
        format: As Pillow calls it.
        width: Pixels, as stored, before Exif turns the picture.
        height: Pixels, as stored.
        parts: What a decoder needs for the pixels, in order. Metadata are left out: Pillow unpacks some of them
            without a limit, or warns about them by process-wide filters.
        text: Text by keyword, of a PNG's tEXt, zTXt and iTXt chunks.
        exif: The TIFF structure of its Exif, or nothing.
    """

    format: Format
    width: int
    height: int
    parts: Sequence[bytes | memoryview]
    text: Mapping[str, str] = field(default_factory=dict)
    exif: bytes = b""


def checked_count(blocks: int) -> None:
    """Refuse a file of too many blocks.

    Raises:
        RefusedError: There are more than `MAX_BLOCKS`.
    """
    if blocks > MAX_BLOCKS:
        raise RefusedError(f"it has more than {MAX_BLOCKS} blocks; save it anew without metadata")
