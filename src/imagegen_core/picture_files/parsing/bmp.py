"""A BMP's header, by BITMAPCOREHEADER and BITMAPINFOHEADER of the Windows API."""

from __future__ import annotations

import struct

from imagegen_core.picture_files.parsing.structure import RefusedError, Structure

SIGNATURE = b"BM"
_RUN_LENGTHS = (1, 2)  # BI_RLE8 and BI_RLE4
_CORE_HEADER = 12  # bytes of the oldest header, with 16-bit numbers


def parse_bmp(data: bytes) -> Structure:
    """Read a BMP's header; a negative height means that its rows begin at the top.

    Raises:
        struct.error: It is cut short.
        RefusedError: Its pixels are run lengths, which Pillow unpacks in Python and so blocks all threads.
    """
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == _CORE_HEADER else "<ii", data, 18)
    if header != _CORE_HEADER and struct.unpack_from("<I", data, 30)[0] in _RUN_LENGTHS:
        raise RefusedError("it is a BMP of run lengths; save it as a PNG")
    return Structure("BMP", abs(width), abs(height), [data])
