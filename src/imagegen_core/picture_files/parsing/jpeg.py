"""A JPEG's segments, by ITU-T T.81, annex B."""

from __future__ import annotations

import re
import struct

from imagegen_core.picture_files.parsing.structure import RefusedError, Structure, checked_count

SIGNATURE = b"\xff\xd8\xff"
_EXIF = b"Exif\0\0"
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)  # RST0 to RST7 are part of a scan
_WINDOW = 2**18  # bytes that are searched at once, since no other thread runs meanwhile
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # SOF0 to SOF15; the three others are tables
_APP1, _END, _SCAN = 0xE1, 0xD9, 0xDA
_METADATA = frozenset({*range(0xE1, 0xF0), 0xFE} - {0xEE})  # without APP14, which defines how to read the colours
_MAX_SCANS = 100  # each takes time for the whole picture: encoders write about ten


def parse_jpeg(data: bytes) -> Structure:
    """Parse a JPEG, up to the end of its first picture.

    Raises:
        ValueError: It is damaged or cut short.
        RefusedError: It has too many segments or scans.
    """
    view = memoryview(data)
    parts: list[bytes | memoryview] = [view[:2]]
    size: tuple[int, int] | None = None
    exif, position, count, scans = b"", 2, 0, 0
    while match := _next_marker(data, position):
        checked_count(count := count + 1)
        marker = match[1][0]
        if scans:  # the bytes before a marker belong to a scan; elsewhere they have no meaning
            parts.append(data[position : match.start()].rstrip(b"\xff"))
        if marker == _END:
            parts.append(match[0])
            break
        (length,) = struct.unpack_from(">H", data, match.end())
        after = match.end() + length
        content = view[match.end() + 2 : after]
        if marker in _FRAMES:
            if size is not None:
                raise ValueError("it has two frames")
            height, width = struct.unpack_from(">HH", content, 1)
            size = width, height
        if marker == _APP1 and bytes(content[:6]) == _EXIF:
            exif = exif or bytes(content[6:])
        scans += marker == _SCAN
        if scans > _MAX_SCANS:
            raise RefusedError(f"it has more than {_MAX_SCANS} scans; save it again without progressive scans")
        if marker not in _METADATA:
            parts.append(view[match.start() : after])
        position = after
    else:
        parts.append(view[position:])
    if size is None:
        raise ValueError("it has no frame")
    return Structure("JPEG", *size, parts, exif=exif)


def _next_marker(data: bytes, position: int) -> re.Match[bytes] | None:
    for begin in range(position, len(data), _WINDOW):
        if match := _MARKER.search(data, begin, begin + _WINDOW + 1):
            return match
    return None
