"""The structure of a picture file, without its pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Format = Literal["PNG", "JPEG", "WEBP", "BMP", "GIF"]

MAX_BLOCKS = 65_536
"""The maximum number of chunks, segments or blocks in a file, since a Python loop visits each."""
MAX_TEXT = 4 * 2**20
"""The maximum size of a file's text in bytes, unpacked."""


class RefusedError(ValueError):
    """The file takes too much to read, even if it is whole; the message gives the reason and a remedy."""


@dataclass(frozen=True, slots=True)
class Structure:
    """A parsed picture file.

    Attributes:
        format: Its format by Pillow's name.
        width: Stored width in pixels, before Exif rotates the picture.
        height: Stored height in pixels.
        parts: The parts for the pixels' decoder, in order, without metadata: Pillow unpacks some metadata without a
            limit, or warns about them by process-wide filters.
        text: Text by keyword, from a PNG's tEXt, zTXt and iTXt chunks.
        exif: The TIFF structure of its Exif, or nothing.
    """

    format: Format
    width: int
    height: int
    parts: Sequence[bytes | memoryview]
    text: Mapping[str, str] = field(default_factory=dict)
    exif: bytes = b""


def checked_count(blocks: int) -> None:
    """Refuse a file with too many blocks.

    Raises:
        RefusedError: There are more than `MAX_BLOCKS`.
    """
    if blocks > MAX_BLOCKS:
        raise RefusedError(f"it has more than {MAX_BLOCKS} blocks; save it again without metadata")
