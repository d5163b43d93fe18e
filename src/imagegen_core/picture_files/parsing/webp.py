"""A WebP's chunks, by RFC 9649."""

from __future__ import annotations

import struct

from imagegen_core.picture_files.parsing.structure import Structure, checked_count

_EXIF = b"Exif\0\0"  # some programs put this before the TIFF structure, as in a JPEG
_LOSSY_START = b"\x9d\x01\x2a"  # RFC 6386, section 9.1
_LOSSLESS_START = 0x2F


def is_webp(data: bytes) -> bool:
    """Return whether a file begins like a WebP."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def parse_webp(data: bytes) -> Structure:
    """Parse a WebP.

    Raises:
        ValueError: It is damaged.
        RefusedError: It has too many chunks.
    """
    size = _size(data)
    exif, position, count = b"", 12, 0
    while position + 8 <= len(data):
        checked_count(count := count + 1)
        kind, length = data[position : position + 4], struct.unpack_from("<I", data, position + 4)[0]
        if kind == b"EXIF":
            exif = data[position + 8 : position + 8 + length].removeprefix(_EXIF)
        position += 8 + length + length % 2
    return Structure("WEBP", *size, [data], exif=exif)


def _size(data: bytes) -> tuple[int, int]:
    """Return width and height from the first chunk: an extended file's canvas, or the only picture."""
    kind = data[12:16]
    if kind == b"VP8X":
        return _uint24(data, 24) + 1, _uint24(data, 27) + 1
    if kind == b"VP8 " and data[23:26] == _LOSSY_START:
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and data[20] == _LOSSLESS_START:
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise ValueError("it does not begin with a picture")


def _uint24(data: bytes, position: int) -> int:
    if len(data) < position + 3:
        raise ValueError("it ends within its header")
    return int.from_bytes(data[position : position + 3], "little")
