"""A GIF's blocks, by the GIF89a specification."""

from __future__ import annotations

import struct

from imagegen_core.picture_files.parsing.structure import Structure, checked_count

SIGNATURES = (b"GIF87a", b"GIF89a")
_EXTENSION, _GRAPHIC_CONTROL, _IMAGE = 0x21, 0xF9, 0x2C


def parse_gif(data: bytes) -> Structure:
    """Parse a GIF, up to its first picture.

    Raises:
        ValueError: It is damaged or cut short.
        RefusedError: It has too many blocks before that.
    """
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    begin = position = 13 + _palette_bytes(flags)
    control, count = b"", 0
    while data[position] == _EXTENSION:
        extension, label = position, data[position + 1]
        position += 2
        while length := data[position]:
            checked_count(count := count + 1)
            position += 1 + length
        position += 1
        checked_count(count := count + 1)
        if label == _GRAPHIC_CONTROL:
            control = data[extension:position]
    if data[position] != _IMAGE:
        raise ValueError("it has no picture")
    left, top, wide, high = struct.unpack_from("<HHHH", data, position + 1)
    size = max(width, left + wide), max(height, top + high)  # Pillow extends the screen to a picture beyond it
    return Structure("GIF", *size, [data[:begin], control, memoryview(data)[position:]])


def _palette_bytes(flags: int) -> int:
    return 3 * 2 ** (1 + flags % 8) if flags & 0x80 else 0
