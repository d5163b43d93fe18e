"""A BMP's header, by BITMAPCOREHEADER and BITMAPINFOHEADER of the Windows API."""

from __future__ import annotations

import struct

from imagegen_core.images.parsing.structure import Structure

SIGNATURE = b"BM"
_CORE_HEADER = 12  # bytes of the oldest header, whose numbers have 16 bits


def parse_bmp(data: bytes) -> Structure:
    """Read a BMP's header; a negative height says that its rows begin at the top.

    Raises:
        struct.error: It is cut short.
    """
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == _CORE_HEADER else "<ii", data, 18)
    return Structure("BMP", abs(width), abs(height), [data])
