"""A PNG's chunks, by the PNG specification, third edition, sections 5 and 11."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from imagegen_core.picture_files.parsing.structure import MAX_TEXT, RefusedError, Structure, checked_count

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
TEXT = (b"tEXt", b"zTXt", b"iTXt")
_END = b"\0\0\0\0IEND\xaeB`\x82"


def parse_png(data: bytes) -> Structure:
    """Parse a PNG; an animation becomes its still picture.

    Raises:
        ValueError: It is damaged or cut short.
        RefusedError: It has too many chunks, or too much text.
    """
    parts: list[bytes | memoryview] = [SIGNATURE]
    text: dict[str, str] = {}
    exif, width, height, room = b"", 0, 0, MAX_TEXT
    for count, (kind, content, chunk) in enumerate(chunks(memoryview(data))):
        checked_count(count)
        if (kind == b"IHDR") is not (count == 0):
            raise ValueError("it has no header, or two")
        if kind == b"IHDR":
            width, height = struct.unpack(">II", content[:8])
        if kind in _PIXELS:
            parts.append(chunk)
        elif kind in TEXT:
            keyword, value = _text(kind, bytes(content), room)
            room -= len(keyword) + len(value)
            text[keyword] = value
        elif kind == b"eXIf":
            exif = bytes(content)
    return Structure("PNG", width, height, [*parts, _END], text, exif)


def chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """Yield each chunk's kind, its content, and the whole chunk; the pixels' decoder verifies their checksums."""
    position = len(SIGNATURE)
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind = bytes(data[position + 4 : position + 8])
        chunk = data[position : position + 12 + length]
        if len(chunk) < 12 + length:
            raise ValueError("it ends within a chunk")
        if kind == b"IEND":
            return
        if kind != b"IDAT" and zlib.crc32(chunk[4:-4]) != struct.unpack(">I", chunk[-4:])[0]:
            raise ValueError("a checksum is wrong")
        yield kind, chunk[8:-4], chunk
        position += len(chunk)


def _text(kind: bytes, content: bytes, room: int) -> tuple[str, str]:
    """Return a text chunk's keyword and value, of at most `room` bytes together."""
    keyword, _, rest = content.partition(b"\0")
    encoding = "latin-1"
    if kind == b"zTXt":
        rest = _unpacked(rest[1:], room)
    elif kind == b"iTXt":
        is_packed, encoding = rest[0], "utf-8"
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
        if is_packed:
            rest = _unpacked(rest, room)
    if len(keyword) + len(rest) > room:
        raise _too_much()
    return keyword.decode("latin-1"), rest.decode(encoding)


def _unpacked(data: bytes, room: int) -> bytes:
    unpacked = zlib.decompressobj().decompress(data, room + 1)
    if len(unpacked) > room:
        raise _too_much()
    return unpacked


def _too_much() -> RefusedError:
    return RefusedError(f"it carries more than {MAX_TEXT // 2**20} MiB of text; save it again without metadata")
