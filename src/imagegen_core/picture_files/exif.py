"""Read and write the few Exif tags of imagegen.

Pillow's reader is not used for foreign pictures: it unpacks all tags at once, and 65,535 tags may share the same bytes.
"""

from __future__ import annotations

import codecs
import logging
import struct
from typing import NamedTuple

from PIL import Image

logger = logging.getLogger(__name__)

_ORIENTATION = 0x0112  # these are tags of TIFF 6.0 and of Exif 2.3, section 4.6
_EXIF_BLOCK = 0x8769
_USER_COMMENT = 0x9286
_TIFF = 42
_ENTRY = 12  # bytes
_INLINE = 4
_MAX_COMMENT = 65_000  # bytes: a JPEG segment holds 65,533, including the bytes around the comment
_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 7: 1}  # bytes of BYTE, ASCII, SHORT, LONG and UNDEFINED

_UNICODE, _ASCII, _JIS, _UNKNOWN = b"UNICODE\0", b"ASCII\0\0\0", b"JIS\0\0\0\0\0", bytes(8)


class ExifTags(NamedTuple):
    """The Exif tags of imagegen.

    Attributes:
        orientation: The rotation of the picture, 1 to 8; 1 is upright.
        comment: The user comment, with A1111's ``parameters``; empty if there is none.
    """

    orientation: int
    comment: str


def read_exif(data: bytes) -> ExifTags:
    """Read the tags from a TIFF structure. Damaged tags count as absent: they are common in cameras' files."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    try:
        if order is None or struct.unpack_from(f"{order}H", data, 2)[0] != _TIFF:
            return ExifTags(1, "")
        (first,) = struct.unpack_from(f"{order}I", data, 4)
        orientation = _number(data, order, first, _ORIENTATION)
        block = _number(data, order, first, _EXIF_BLOCK)
        comment = _value(data, order, block, _USER_COMMENT) if block else b""
    except struct.error:
        return ExifTags(1, "")
    return ExifTags(orientation if orientation in range(1, 9) else 1, _comment(comment))


def encode_exif(comment: str) -> bytes:
    """Encode Exif with a user comment, as A1111's ``piexif.helper.UserComment``; return nothing for an empty comment.

    A comment longer than a JPEG segment is cut, with a warning in the log.
    """
    if not comment:
        return b""
    encoded = comment.encode("utf-16-be", "replace")
    if len(encoded) > _MAX_COMMENT:
        logger.warning("The text of a picture is cut to the %d bytes that Exif holds", _MAX_COMMENT)
    exif = Image.Exif()
    exif.get_ifd(_EXIF_BLOCK)[_USER_COMMENT] = _UNICODE + encoded[:_MAX_COMMENT]
    return exif.tobytes()


def _value(data: bytes, order: str, directory: int, wanted: int) -> bytes:
    """Return a tag's bytes; no bytes if the directory lacks the tag."""
    (count,) = struct.unpack_from(f"{order}H", data, directory)
    for position in range(directory + 2, directory + 2 + count * _ENTRY, _ENTRY):
        tag, kind, length = struct.unpack_from(f"{order}HHI", data, position)
        if tag == wanted:
            size = length * _UNITS.get(kind, 0)
            start = position + 8 if size <= _INLINE else struct.unpack_from(f"{order}I", data, position + 8)[0]
            return data[start : start + size]
    return b""


def _number(data: bytes, order: str, directory: int, wanted: int) -> int:
    return int.from_bytes(_value(data, order, directory, wanted)[:_INLINE], "little" if order == "<" else "big")


def _comment(data: bytes) -> str:
    """Decode a user comment. Its first eight bytes name the encoding; without them it is UTF-8, as in A1111."""
    encoding, text = data[:8], data[8:]
    if encoding == _UNICODE:
        if text.startswith(codecs.BOM_UTF16_LE):
            return text[2:].decode("utf-16-le", "replace")
        return text.removeprefix(codecs.BOM_UTF16_BE).decode("utf-16-be", "replace")
    if encoding == _JIS:
        return text.decode("shift_jis", "replace")
    if encoding in (_ASCII, _UNKNOWN):
        return text.decode("utf-8", "replace").rstrip("\0 ")
    return data.decode("utf-8", "ignore").rstrip("\0 ")
